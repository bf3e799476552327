import { type Bench, type Ran, sharedWindow, type Workload } from "./bench.ts";
import type { Cell } from "./cell.ts";
import { ms, percent, type Report, us } from "./report.ts";
import { measure } from "./shares.ts";
import { handOvers, kernelsIn, overlap, type Piece, piecesOf, quantile } from "./spans.ts";

const GROUP = "several sessions";
const WARM_S = 1;
const SHORT: Workload = { us: 50 };
const LONG: Workload = { us: 5000 };

/** One session of a cell: flags of `vgpu run`, or null for a native neighbour. */
export interface Tenant {
  flags: string[] | null;
  workload: Workload;
  extra?: string[];
}

/** Runs them from a common moment; the window is what all of them share, a second after the start. */
export async function together(
  bench: Bench,
  tenants: Tenant[],
  seconds: number,
): Promise<{ runs: Ran[]; window: Piece }> {
  const barrier = { file: bench.fresh("barrier"), parties: tenants.length };
  const started = tenants.map(({ flags, workload, extra }) =>
    bench.start(flags, workload, { seconds, warm: WARM_S, barrier, ...(extra ? { extra } : {}) }),
  );
  const runs = await Promise.all(started.map(({ done }) => done));
  const window = sharedWindow(
    runs.map(({ spans }) => spans),
    WARM_S * Math.min(1, bench.scale),
  );
  return { runs, window };
}

/** Percent of the native throughput in the window. */
export async function shareOf(bench: Bench, ran: Ran, workload: Workload, window: Piece) {
  const native = measure(await bench.native(workload), 0.3).rate;
  return (1e11 * kernelsIn(ran.spans, window)) / (window[1] - window[0]) / native;
}

const CELLS: { shares: number[]; kernels?: Workload[]; what?: string }[] = [
  { shares: [25, 50] },
  { shares: [25, 75] },
  { shares: [50, 50] },
  { shares: [25, 25, 50] },
  { shares: [10, 20, 30, 40] },
  { shares: [50, 50], kernels: [LONG, SHORT], what: "kernels of 5 ms against 50 µs" },
];

const pairs: Cell[] = CELLS.map(({ shares, kernels, what }) => ({
  group: GROUP,
  what: `${shares.join(" + ")}, ${what ?? "kernels of 50 µs"}`,
  seconds: 11,
  async run(bench, report) {
    const tenants = shares.map((share, i) => ({
      flags: ["--sm", `${share}`],
      workload: kernels?.[i] ?? SHORT,
    }));
    const { runs, window } = await together(bench, tenants, 6);
    const got: number[] = [];
    for (const [i, ran] of runs.entries()) {
      got.push(await shareOf(bench, ran, tenants[i]!.workload, window));
      report.share(GROUP, `${this.what}: no. ${i + 1}`, shares[i]!, got[i]!, "", 1);
    }
    const asked = shares.reduce((a, b) => a + b, 0);
    const sum = got.reduce((a, b) => a + b, 0);
    const bar = shares.length === 2 ? 99 : 98.5;
    if (asked === 100)
      report.row({
        group: GROUP,
        what: `${this.what}: sum, of solo`,
        asked: "100 %",
        got: percent(sum),
        bar: `≥ ${bar} %`,
        ok: sum >= bar,
      });
    reportTurns(report, this.what, runs, window);
    if (shares.join() === "50,50" && !kernels) reportWaking(report, runs, window);
  },
}));

/** Two holders at once would have the driver switch between their kernels. */
function reportTurns(report: Report, what: string, runs: Ran[], window: Piece): void {
  const pieces = runs.map(({ spans }) => piecesOf(spans, 0));
  let both = 0;
  for (let i = 0; i < pieces.length; i++)
    for (let j = i + 1; j < pieces.length; j++) both += overlap(pieces[i]!, pieces[j]!, window);
  const share = (100 * both) / (window[1] - window[0]);
  const got = percent(share);
  const ok = share <= 0.1;
  report.row({
    group: GROUP,
    what: `${what}: kernels of two at once`,
    asked: "0",
    got,
    bar: "≤ 0.1 % of the time",
    ok,
  });
}

/** The card's own switch between processes, where the next one's work is there before the drain (gate.md, measured). */
const SWITCH_NS = 135_000;

/** What lies between one session's last kernel and the other's first, less the card's switch. */
function reportWaking(report: Report, runs: Ran[], window: Piece): void {
  const gaps = handOvers(
    runs.map(({ spans }) => spans),
    window,
  );
  const [median, p99] = [0.5, 0.99].map((q) => quantile(gaps, q) - SWITCH_NS) as [number, number];
  const asked = `${gaps.length} hand-overs, gap median ${us(median + SWITCH_NS)}`;
  const what = "a waiter wakes: gap between two sessions' kernels − 135 µs of the card's switch";
  const row = { group: "costs", asked };
  report.row({
    ...row,
    what: `${what}, median`,
    got: us(median),
    bar: "≤ 60 µs",
    ok: median <= 60e3,
  });
  report.row({ ...row, what: `${what}, p99`, got: us(p99), bar: "≤ 250 µs", ok: p99 <= 250e3 });
}

const DEMAND = "small demand";
/** 1 ms of work is due every 10 ms, as 20 kernels. */
const SMALL: Workload = { us: 50, options: "--every 10 --step 1000" };

const done = ({ found }: Ran): number => (100 * found.steps_done) / found.steps_due;

const demand: Cell = {
  group: DEMAND,
  what: "1 ms every 10 ms at 25",
  seconds: 44,
  async run(bench, report) {
    const native = await bench.native(SMALL, 6);
    const alone = await bench.run(["--sm", "25"], SMALL, { seconds: 6 });
    const ratio = (100 * done(alone)) / done(native);
    const note = `p99 ${ms(alone.found.p99_ns)}, native ${ms(native.found.p99_ns)}`;
    const what = "1 ms every 10 ms at 25, alone: steps done, of native";
    report.row({
      group: DEMAND,
      what,
      asked: "100 %",
      got: `${percent(ratio)} (${note})`,
      bar: "≥ 99 %",
      ok: ratio >= 99,
    });
    for (const workload of [{ us: 50 }, { us: 500 }]) {
      const beside = `beside a saturating 75 % of ${workload.us} µs kernels`;
      const tenants = [
        { flags: ["--sm", "25"], workload: SMALL },
        { flags: ["--sm", "75"], workload },
      ];
      const { runs, window } = await together(bench, tenants, 8);
      const [small, large] = [runs[0]!, runs[1]!];
      const steps = done(small);
      const late = small.found.p99_ns - native.found.p99_ns;
      const neighbour = await shareOf(bench, large, workload, window);
      const row = { group: DEMAND, asked: `${small.found.steps_due} steps due` };
      report.row({
        ...row,
        what: `${beside}: steps done`,
        got: percent(steps),
        bar: "≥ 99 %",
        ok: steps >= 99,
      });
      report.row({
        ...row,
        what: `${beside}: p99 latency`,
        got: `${ms(small.found.p99_ns)} (median ${ms(small.found.p50_ns)})`,
        bar: `≤ native ${ms(native.found.p99_ns)} + 2 ms`,
        ok: late <= 2e6,
      });
      report.row({
        ...row,
        what: `${beside}: the neighbour`,
        asked: "75 %",
        got: percent(neighbour),
        bar: "≥ 73 %",
        ok: neighbour >= 73,
      });
    }
  },
};

export const sessionCells: Cell[] = [...pairs, demand];
