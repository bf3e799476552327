import { join } from "node:path";
import type { Bench } from "./bench.ts";
import type { Cell } from "./cell.ts";
import { percent, type Report } from "./report.ts";

const here = import.meta.dir;

/** A Python test program's words; on the simulated GPU it runs on the CPU, only to be tried. */
export const python = (bench: Bench, script: string, seconds: number): string[] => [
  process.env["VGPU_TEST_PYTHON"] ?? "python3",
  join(here, script),
  ...["--seconds", `${seconds * bench.scale}`],
  ...(bench.sim ? ["--device", "cpu"] : []),
];

interface Line {
  load: string;
  rate: number;
  losses?: number[];
}

async function run(bench: Bench, flags: string[] | null, words: string[]): Promise<Line[]> {
  const environment = { TORCHINDUCTOR_CACHE_DIR: bench.file("inductor") };
  const { stdout } = await bench.must([...bench.limit(flags), ...words], environment);
  const lines = stdout.split("\n").filter((line) => line.startsWith("{"));
  if (lines.length === 0) throw new Error("the program printed no figures");
  return lines.map((line) => JSON.parse(line) as Line);
}

const byLoad = (lines: Line[], load: string): Line => {
  const found = lines.find((line) => line.load === load);
  if (found === undefined) throw new Error(`no figures of ${load}`);
  return found;
};

const DECODE = "batch-1 decode";

/** Of several runs the best: what disturbs the host only ever slows it. */
const best = (runs: Line[][], load: string): number =>
  Math.max(...runs.map((lines) => byLoad(lines, load).rate));

const decode: Cell = {
  group: DECODE,
  what: "a transformer step in PyTorch",
  seconds: 88,
  async run(bench, report) {
    const words = python(bench, "decode.py", 3);
    const natives = [await run(bench, null, [...words, "--count"])];
    const free = [await run(bench, [], words)];
    const half = await run(bench, ["--sm", "50"], words);
    natives.push(await run(bench, null, words));
    free.push(await run(bench, [], words));
    const quarter = await run(bench, ["--sm", "25"], words);
    const launches = byLoad(natives[0]!, "launches").rate;
    for (const load of ["eager", "graph"]) {
      const native = best(natives, load);
      const what = load === "eager" ? `eager, ${launches} launches a token` : "one CUDA graph";
      const perLaunch =
        load === "eager" && launches ? `, ${(1e6 / native / launches).toFixed(1)} µs a launch` : "";
      for (const [share, lines] of [
        [50, half],
        [25, quarter],
      ] as const) {
        const got = (100 * byLoad(lines, load).rate) / native;
        const off = (100 * got) / share - 100;
        report.row({
          group: DECODE,
          what: `${what}, at ${share}`,
          asked: `${share} %`,
          got: `${percent(got)} of ${native.toFixed(1)} tokens/s${perLaunch} (${off.toFixed(2)} % off)`,
          bar: "within 2 % of share × native",
          ok: Math.abs(off) <= 2,
        });
      }
      const got = (100 * best(free, load)) / native;
      report.row({
        group: DECODE,
        what: `${what}, no limit`,
        asked: "100 %",
        got: percent(got),
        bar: "≥ 99 %",
        ok: got >= 99,
      });
    }
  },
};

/** The same seed and the same kernels: equal but for the order of sums in atomics, of which there should be none. */
const TOLERANCE = 1e-5;

/** The greatest relative difference of two runs' losses; NaN if there are none. */
function lossDifference(a: number[], b: number[]): number {
  if (a.length === 0 || a.length !== b.length) return NaN;
  return Math.max(...a.map((value, i) => Math.abs(value - b[i]!) / Math.abs(value)));
}

export function reportLosses(
  report: Report,
  group: string,
  what: string,
  native: number[],
  limited: number[],
): void {
  const difference = lossDifference(native, limited);
  report.row({
    group,
    what: `${what}: losses of ${native.length} steps against native`,
    asked: "equal",
    got: `relative difference ${difference.toExponential(1)}`,
    bar: `≤ ${TOLERANCE}`,
    ok: difference <= TOLERANCE,
  });
}

const TRAIN = "PyTorch training";

const train: Cell = {
  group: TRAIN,
  what: "autograd, DataLoader workers, torch.compile, CUDA graph capture",
  seconds: 95,
  async run(bench, report) {
    const words = python(bench, "train.py", 3);
    const native = await run(bench, null, words);
    const limited = await run(bench, ["--sm", "25"], words);
    for (const { load, rate, losses = [] } of native) {
      const got = byLoad(limited, load);
      const what = `${load}, DataLoader workers`;
      report.share(
        TRAIN,
        what,
        25,
        (100 * got.rate) / rate,
        `${rate.toFixed(1)} steps/s natively`,
        2,
      );
      reportLosses(report, TRAIN, what, losses, got.losses ?? []);
    }
  },
};

export const torchCells: Cell[] = [decode, train];
