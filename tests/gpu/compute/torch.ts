import { join } from "node:path";
import type { Bench } from "./bench.ts";
import type { Cell } from "./cell.ts";
import { percent, type Report } from "./report.ts";
import { setShare } from "./set.ts";

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

/** How long the share stays, and how long it is left to settle before: whole periods of the gate, of 100 ms. */
const STEPS: [percent: number, settleMs: number, countMs: number][] = [
  [100, 100, 200],
  [50, 200, 400],
  [100, 100, 200],
  [25, 200, 400],
];
const LOADS: [load: "eager" | "graph", seconds: number][] = [
  ["eager", 60],
  ["graph", 10],
];

interface Trace {
  times: number[];
  tokens: number;
}

/** Tokens a second from one moment to another, CLOCK_MONOTONIC ns, straight between two entries. */
function tokensPerSecond({ times, tokens }: Trace, from: number, to: number): number {
  const at = (ns: number): number => {
    const next = times.findIndex((time) => time >= ns);
    if (next < 1) throw new Error("the program did not run then");
    return next - (times[next]! - ns) / (times[next]! - times[next - 1]!);
  };
  return ((at(to) - at(from)) * tokens * 1e9) / (to - from);
}

const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

type Pair = [got: number, base: number];

/** One sum over the other, and its standard error. */
function ratioOf(pairs: Pair[]): [ratio: number, error: number] {
  const base = mean(pairs.map((pair) => pair[1]));
  const ratio = mean(pairs.map((pair) => pair[0])) / base;
  const squares = pairs.map((pair) => (pair[0] - ratio * pair[1]) ** 2);
  return [ratio, Math.sqrt(mean(squares) / (pairs.length - 1)) / base];
}

type Program = ReturnType<Bench["converse"]>;

const trace = async (program: Program, load: string, seconds: number): Promise<Trace> =>
  JSON.parse(await program.ask(`${load} ${seconds}`)) as Trace;

/** A session without a limit and a native process in turn. */
async function compareWithNative(session: Program, native: Program, load: string, times: number) {
  const pairs: Pair[] = [];
  for (let i = 0; i < times; i++) {
    const rates: number[] = [];
    for (const program of [native, session]) {
      const seen = await trace(program, load, 0.6);
      const end = seen.times.at(-1)!;
      rates.push(tokensPerSecond(seen, end - 0.4e9, end));
    }
    pairs.push([rates[1]!, rates[0]!]);
  }
  return pairs;
}

/** A session whose share is changed while it runs: its rate at each step. */
async function followSteps(session: Program, region: string, load: string, seconds: number) {
  let running = true;
  const tracing = trace(session, load, seconds + 1).finally(() => (running = false));
  const stretches: { share: number; from: number; to: number }[] = [];
  await Bun.sleep(500);
  for (let i = 0; running; i = (i + 1) % STEPS.length) {
    const [share, settleMs, countMs] = STEPS[i]!;
    const from = Number(setShare(region, share)) + settleMs * 1e6;
    stretches.push({ share, from, to: from + countMs * 1e6 });
    await Bun.sleep(settleMs + countMs + 1);
  }
  const seen = await tracing;
  const last = seen.times.at(-1)!;
  return stretches
    .filter(({ to }) => to <= last)
    .map(({ share, from, to }) => ({ share, rate: tokensPerSecond(seen, from, to) }));
}

/** Each stretch at this share, and the mean of those at 100 % around it. */
function pairsAt(share: number, rates: { share: number; rate: number }[]): Pair[] {
  return rates.flatMap((one, i): Pair[] => {
    const around = [rates[i - 1], rates[i + 1]];
    if (one.share !== share || around.some((free) => free?.share !== 100)) return [];
    return [[one.rate, mean(around.map((free) => free!.rate))]];
  });
}

function reportDecode(report: Report, load: string, share: number, pairs: Pair[], of: string) {
  const [ratio, error] = ratioOf(pairs);
  const got = 100 * ratio;
  const off = (100 * got) / share - 100;
  const count = `${pairs.length} pairs, ± ${((100 * error) / ratio).toFixed(2)}`;
  const free = share === 100;
  report.row({
    group: DECODE,
    what: `${load === "graph" ? "one CUDA graph" : "eager"}, ${free ? "no limit" : `at ${share}`}`,
    asked: `${share} %`,
    got: `${percent(got)} of ${of} (${off.toFixed(2)} % off; ${count})`,
    bar: free ? "≥ 99 %" : "within 2 % of share × native",
    ok: free ? got >= 99 : Math.abs(off) <= 2,
  });
}

/**
 * On a shared host the speed of such a program changes by a third from moment to moment, from core to core and
 * from process to process. So a session's share is changed while it runs, several times a second, and each
 * limited stretch is compared with those around it, of the same process at 100 %; those in turn with a native
 * process on the same core.
 */
const decode: Cell = {
  group: DECODE,
  what: "a transformer step in PyTorch",
  seconds: 120,
  async run(bench, report) {
    const core = Math.max(0, navigator.hardwareConcurrency - 2);
    const words = [...python(bench, "decode.py"), "--core", `${core}`];
    const native = bench.converse(words);
    const session = bench.converse([...bench.limit(["--sm", "50"]), ...words]);
    const { region } = JSON.parse(await session.ask("region")) as { region: string };
    for (const [load, seconds] of LOADS) {
      const whole = seconds * bench.scale;
      setShare(region, 100);
      const free = await compareWithNative(session, native, load, Math.max(2, whole / 3));
      const rates = await followSteps(session, region, load, whole);
      for (const share of [50, 25])
        reportDecode(report, load, share, pairsAt(share, rates), "itself unlimited");
      const base = mean(free.map((pair) => pair[1])).toFixed(1);
      reportDecode(report, load, 100, free, `${base} tokens/s natively`);
    }
    const { launches } = JSON.parse(await native.ask("launches")) as { launches: number };
    const row = { group: DECODE, what: "launches of an eager token", asked: "about 1,500" };
    const ok = bench.sim || (launches > 1400 && launches < 1600);
    report.row({ ...row, got: `${launches}`, bar: "1,400 to 1,600", ok });
    await Promise.all([native.end(), session.end()]);
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
