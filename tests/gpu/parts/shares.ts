import { join } from "node:path";
import { here } from "../options.ts";
import { row } from "../rows.ts";
import { limited, percent, run } from "../run.ts";

interface TorchLine {
  load: string;
  rate: number;
  busy: number | null;
}

async function torch(flags: string[] | null): Promise<Map<string, TorchLine>> {
  const words = ["python3", join(here, "torch_share.py"), "--seconds", "2"];
  const { code, stdout, stderr } = flags
    ? await limited([...flags, "-q"], words)
    : await run(words);
  if (code !== 0) throw new Error(`torch_share.py: exit ${code}: ${stderr.slice(-600)}`);
  const lines = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as TorchLine);
  return new Map(lines.map((line) => [line.load, line]));
}

const ROUNDS = 2;

export async function torchShares(): Promise<void> {
  const share = await torch(["--sm", "25"]);
  const natives: Map<string, TorchLine>[] = [];
  const unlimited: Map<string, TorchLine>[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    natives.push(await torch(null));
    unlimited.push(await torch([]));
  }
  const best = (runs: Map<string, TorchLine>[], load: string): number =>
    Math.max(...runs.map((one) => one.get(load)?.rate ?? NaN));
  for (const [load, line] of share) {
    const native = best(natives, load);
    const rate = (100 * line.rate) / native;
    if (load === "matmul_bf16")
      row(
        "shares",
        `PyTorch ${load}, GPU time by events in a graph`,
        "25 %",
        `${percent(line.busy ?? NaN)} (throughput ${percent(rate)}: natively it is limited by power)`,
        "25 ± 2 points",
        Math.abs((line.busy ?? NaN) - 25) <= 2,
      );
    else
      row(
        "shares",
        `PyTorch ${load}`,
        "25 %",
        percent(rate),
        "25 ± 2 points",
        Math.abs(rate - 25) <= 2,
      );
    const free = (100 * best(unlimited, load)) / native;
    row(
      "shares",
      `PyTorch ${load}, no --sm, better of ${ROUNDS}`,
      "100 %",
      percent(free),
      "≥ 99.5 %",
      free >= 99.5,
    );
  }
}
