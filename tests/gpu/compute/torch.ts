import { join } from "node:path";
import type { Bench } from "./bench.ts";
import type { Cell } from "./cell.ts";
import { percent, type Report } from "./report.ts";

const here = import.meta.dir;

/** A Python test program's words; on the simulated GPU it runs on the CPU, only to be tried. */
export const python = (bench: Bench, script: string, seconds?: number): string[] => [
  process.env["VGPU_TEST_PYTHON"] ?? "python3",
  join(here, script),
  ...(seconds === undefined ? [] : ["--seconds", `${seconds * bench.scale}`]),
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

/** A shared host's speed changes from second to second and from core to core: so all are asked in turn, on one core. */
const LIMITS: [percent: number, flags: string[]][] = [
  [50, ["--sm", "50"]],
  [25, ["--sm", "25"]],
  [100, []],
];
/** Of each load: rounds, and seconds of one answer. A session is forgotten by the others after a second. */
const LOADS: [load: "eager" | "graph", rounds: number, seconds: number][] = [
  ["eager", 5, 1],
  ["graph", 1, 1],
];

const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;

const decode: Cell = {
  group: DECODE,
  what: "a transformer step in PyTorch",
  seconds: 65,
  async run(bench, report) {
    const core = Math.max(0, navigator.hardwareConcurrency - 2);
    const words = [...python(bench, "decode.py"), "--core", `${core}`];
    const native = bench.converse(words);
    const limited = LIMITS.map(([, flags]) => bench.converse([...bench.limit(flags), ...words]));
    const rate = async (program: typeof native, load: string, seconds: number) =>
      JSON.parse(await program.ask(`${load} ${seconds * bench.scale}`)).rate as number;
    for (const [load, rounds, seconds] of LOADS) {
      const ratios: number[][] = LIMITS.map(() => []);
      const natives = [await rate(native, load, seconds)];
      for (let round = 0; round < rounds; round++)
        for (const [i, program] of limited.entries()) {
          const got = await rate(program, load, seconds);
          natives.push(await rate(native, load, seconds));
          const [before, after] = natives.slice(-2) as [number, number];
          ratios[i]!.push((200 * got) / (before + after));
        }
      const base = `${median(natives).toFixed(1)} tokens/s`;
      for (const [i, [share]] of LIMITS.entries()) {
        const got = median(ratios[i]!);
        const off = (100 * got) / share - 100;
        report.row({
          group: DECODE,
          what: `${load === "graph" ? "one CUDA graph" : "eager"}, ${share === 100 ? "no limit" : `at ${share}`}`,
          asked: `${share} %`,
          got: `${percent(got)} of ${base} (${off.toFixed(2)} % off; ${ratios[i]!.map((one) => one.toFixed(1)).join(" ")})`,
          bar: share === 100 ? "≥ 99 %" : "within 2 % of share × native",
          ok: share === 100 ? got >= 99 : Math.abs(off) <= 2,
        });
      }
    }
    const { launches } = JSON.parse(await native.ask("launches")) as { launches: number };
    const row = { group: DECODE, what: "launches of an eager token", asked: "about 1,500" };
    const ok = bench.sim || (launches > 1400 && launches < 1600);
    report.row({ ...row, got: `${launches}`, bar: "1,400 to 1,600", ok });
    await Promise.all([native, ...limited].map((program) => program.end()));
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
