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
  [100, 200, 200],
  [50, 200, 400],
  [100, 200, 200],
  [25, 200, 400],
];
const SHARES = [50, 25];
const LOADS: [load: "eager" | "graph", seconds: number][] = [
  ["eager", 60],
  ["graph", 10],
];

/**
 * When each layer was launched (graph: each token was done), CLOCK_MONOTONIC ns; how long a fixed piece of work took
 * right after that, ns (graph: none); what part of a token each is.
 */
interface Trace {
  times: number[];
  speeds: number[];
  tokens: number;
}

/** A layer takes 0.5 to 1 ms: between two entries that lie this far apart the program was held back. */
const HELD_NS = 5e6;
const isRun = (ns: number): boolean => ns <= HELD_NS;

/** A piece of a trace; where the program pauses, of whole periods: from the end of one pause to the end of another. */
interface Piece {
  /** Tokens a second. */
  rate: number;
  /** Percent of the time in which it was not held back. An interval with a pause holds a layer's work, too. */
  active: number;
  tookNs: number;
  layers: Layer[];
}

/** What it took, and the fixed pieces of work around it: more where the core was slower. */
interface Layer {
  ns: number;
  speedNs: number;
}

/** What lies between two moments; undefined if that is no whole period. */
function cut(
  { times, speeds, tokens }: Trace,
  from: number,
  to: number,
  pauses: boolean,
): Piece | undefined {
  const first = times.findIndex((time) => time >= from);
  const inside = times.slice(first, times.findLastIndex((time) => time <= to) + 1);
  const gap = (i: number): number => inside[i]! - inside[i - 1]!;
  const resumed = inside.flatMap((_, i) => (pauses && i > 0 && !isRun(gap(i)) ? [i] : []));
  const begin = resumed[0] ?? 0;
  const end = resumed.at(-1) ?? inside.length - 1;
  if (first < 0 || end <= begin) return undefined;
  const layers = inside.slice(begin + 1, end + 1).map((_, i): Layer => {
    const k = begin + 1 + i;
    return { ns: gap(k), speedNs: (speeds[first + k - 1] ?? 0) + (speeds[first + k] ?? 0) };
  });
  const tookNs = inside[end]! - inside[begin]!;
  const gaps = layers.map(({ ns }) => ns);
  const usual = quantile(gaps.filter(isRun), 0.5);
  const paused = gaps.filter((ns) => !isRun(ns)).map((ns) => ns - usual);
  return {
    rate: ((end - begin) * tokens * 1e9) / tookNs,
    active: 100 - (100 * sum(paused)) / tookNs,
    tookNs,
    layers,
  };
}

const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0);
const mean = (values: number[]): number => sum(values) / values.length;
const quantile = (values: number[], part: number): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * part)] ?? 0;

type Pair = [got: number, base: number];

/** One sum over the other, and its standard error. */
function ratioOf(pairs: Pair[]): [ratio: number, error: number] {
  const base = mean(pairs.map((pair) => pair[1]));
  const ratio = mean(pairs.map((pair) => pair[0])) / base;
  const squares = pairs.map((pair) => (pair[0] - ratio * pair[1]) ** 2);
  return [ratio, Math.sqrt(mean(squares) / (pairs.length - 1)) / base];
}

const SPEEDS = 20;

/** What a layer takes where nothing holds it back, ns, by how fast the core is then: means of so many equal parts. */
function layerTimes(free: Piece[]): (speedNs: number) => number {
  const layers = free.flatMap((piece) => piece.layers.filter(({ ns }) => isRun(ns)));
  const sorted = layers.toSorted((a, b) => a.speedNs - b.speedNs);
  const each = Math.ceil(sorted.length / SPEEDS);
  const parts = Array.from({ length: Math.ceil(sorted.length / each) }, (_, i) => {
    const part = sorted.slice(i * each, (i + 1) * each);
    return { slowest: part.at(-1)!.speedNs, ns: mean(part.map(({ ns }) => ns)) };
  });
  return (speedNs) => (parts.find(({ slowest }) => speedNs <= slowest) ?? parts.at(-1)!).ns;
}

type Program = ReturnType<Bench["converse"]>;

const trace = async (program: Program, words: string): Promise<Trace> =>
  JSON.parse(await program.ask(words)) as Trace;

/** The last 0.4 s of 0.7. pauses: the program's own, as decode.py takes them; none, if it is not held back either. */
async function short(program: Program, load: string, pauses = ""): Promise<Piece> {
  const seen = await trace(program, `${load} 0.7 ${pauses}`);
  const end = seen.times.at(-1)!;
  const piece = cut(seen, end - 0.4e9, end, pauses !== "");
  if (piece === undefined) throw new Error("the program did not run");
  return piece;
}

interface Step extends Piece {
  share: number;
}

/** A session whose share is changed while it runs. */
async function followSteps(session: Program, region: string, load: string, seconds: number) {
  let running = true;
  const tracing = trace(session, `${load} ${seconds + 1}`).finally(() => (running = false));
  const stretches: { share: number; from: number; to: number }[] = [];
  await Bun.sleep(500);
  for (let i = 0; running; i = (i + 1) % STEPS.length) {
    const [share, settleMs, countMs] = STEPS[i]!;
    const from = Number(setShare(region, share)) + settleMs * 1e6;
    stretches.push({ share, from, to: from + countMs * 1e6 });
    await Bun.sleep(settleMs + countMs + 1);
  }
  const seen = await tracing;
  return stretches.flatMap(({ share, from, to }): Step[] => {
    const piece = to <= seen.times.at(-1)! && cut(seen, from, to, share < 100);
    return piece ? [{ share, ...piece }] : [];
  });
}

/** Each stretch at this share, and the mean of those at 100 % around it. */
function pairsAt(share: number, steps: Step[]): Pair[] {
  return steps.flatMap((one, i): Pair[] => {
    const around = [steps[i - 1], steps[i + 1]];
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

/** A native process while it sleeps as long by itself, and while it does not. */
type Rhythm = [resting: Piece, free: Piece];

/**
 * What the gate holds of a program that is bound by its launches: how long it has the card, and how much work it does
 * in that time for how fast its core is. And what sleeping costs by itself.
 */
function reportBound(report: Report, share: number, steps: Step[], rhythms: Rhythm[]): void {
  const limited = steps.filter((one) => one.share === share);
  const active = mean(limited.map((one) => one.active));
  report.row({
    group: DECODE,
    asked: `${share} %`,
    what: `eager, at ${share}: time in which it was not held back`,
    got: percent(active),
    bar: "± 2 points",
    ok: Math.abs(active - share) <= 2,
  });
  const timeOf = layerTimes(steps.filter((one) => one.share === 100));
  const [work, workError] = ratioOf(
    limited.map(({ layers, tookNs }): Pair => [
      sum(layers.map(({ speedNs }) => timeOf(speedNs))),
      tookNs,
    ]),
  );
  const off = (1e4 * work) / share - 100;
  report.row({
    group: DECODE,
    asked: `${share} %`,
    what: `eager, at ${share}: at the core's speed of the moment`,
    got: `${percent(100 * work)} of itself unlimited (${off.toFixed(2)} % off, ± ${((1e4 * workError) / share).toFixed(2)})`,
    bar: "within 2 % of share × native",
    ok: Math.abs(off) <= 2,
  });
  const [awake, error] = ratioOf(
    rhythms.map(([resting, free]): Pair => [(100 * resting.rate) / resting.active, free.rate]),
  );
  report.row({
    group: DECODE,
    asked: "100 %",
    what: `eager, a native process that sleeps ${100 - share} of 100 ms by itself: tokens/s while awake`,
    got: `${percent(100 * awake)} of itself without sleep (± ${(100 * error).toFixed(2)})`,
    bar: "reported",
    ok: true,
  });
}

/**
 * On a shared host the speed of such a program changes by a third from moment to moment, from core to core and
 * from process to process. So a session's share is changed while it runs, several times a second, and each
 * limited stretch is compared with those around it, of the same process at 100 %; those in turn with a native
 * process on the same core. A process that sleeps for half of the time is slower while it runs, by itself and on what
 * else the host then runs on the core: so each layer is also compared with those of the same process at 100 % that the
 * core was as fast for, and a native process sleeps as long by itself.
 */
const decode: Cell = {
  group: DECODE,
  what: "a transformer step in PyTorch",
  seconds: 165,
  async run(bench, report) {
    const core = Math.max(0, navigator.hardwareConcurrency - 2);
    const words = [...python(bench, "decode.py"), "--core", `${core}`];
    const native = bench.converse(words);
    const session = bench.converse([...bench.limit(["--sm", "50"]), ...words]);
    const { region } = JSON.parse(await session.ask("region")) as { region: string };
    for (const [load, seconds] of LOADS) {
      const whole = seconds * bench.scale;
      setShare(region, 100);
      const pairs: Pair[] = [];
      const rhythms = new Map(SHARES.map((share): [number, Rhythm[]] => [share, []]));
      for (let i = 0; i < Math.max(2, whole / 4); i++) {
        const free = await short(native, load);
        pairs.push([(await short(session, load)).rate, free.rate]);
        for (const share of load === "eager" ? SHARES : [])
          rhythms.get(share)!.push([await short(native, load, `${share} ${100 - share}`), free]);
      }
      const steps = await followSteps(session, region, load, whole);
      for (const share of SHARES) {
        reportDecode(report, load, share, pairsAt(share, steps), "itself unlimited");
        if (load === "eager") reportBound(report, share, steps, rhythms.get(share)!);
      }
      const base = mean(pairs.map((pair) => pair[1])).toFixed(1);
      reportDecode(report, load, 100, pairs, `${base} tokens/s natively`);
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
