import type { Cell } from "./cell.ts";
import { ms, percent, type Report } from "./report.ts";
import { together } from "./sessions.ts";
import { setShare } from "./set.ts";
import { measure } from "./shares.ts";
import { covered, type Piece, piecesOf } from "./spans.ts";

const GROUP = "live change and burst";
const CREDIT_NS = 50e6;
const MEAN_NS = 100e6;
const HOLD_MS = 1000;

/** The share that holds from a moment on, ns on the card's clock. */
interface Change {
  at: number;
  until: number;
  share: number;
}

/**
 * ns from the change to the end of the first mean over whole periods, spanning at least 100 ms, from
 * which on all such means lie within 10 % of the new share. Infinity if that never happens.
 */
export function settledAfter(pieces: Piece[], { at, until, share }: Change): number {
  const starts = pieces.map(([start]) => start).filter((start) => start >= at && start < until);
  let settled = Infinity;
  for (let i = starts.length - 1; i >= 0; i--) {
    const from = starts[i]!;
    const to = starts.find((start) => start >= from + MEAN_NS);
    if (to === undefined) continue;
    const mean = (100 * covered(pieces, [from, to])) / (to - from);
    if (Math.abs(mean - share) > share / 10) break;
    settled = to - at;
  }
  return settled;
}

/** The most that was ever used ahead of the share since the change, ns. */
export function overshoot(pieces: Piece[], { at, until, share }: Change): number {
  let used = 0;
  let most = 0;
  for (const [start, end] of pieces) {
    if (end <= at || start >= until) continue;
    used += Math.min(end, until) - Math.max(start, at);
    most = Math.max(most, used - (share / 100) * (Math.min(end, until) - at));
  }
  return most;
}

function reportChange(
  report: Report,
  kernel: number,
  from: number,
  change: Change,
  pieces: Piece[],
) {
  const what = `${from} → ${change.share}, kernels of ${kernel} µs`;
  const settled = settledAfter(pieces, change);
  const slice = Math.max(0.25e6, (change.share / 100) * 4e6) + kernel * 1e3;
  const bar = (CREDIT_NS * change.share) / 100 + slice;
  const most = overshoot(pieces, change);
  const row = { group: GROUP, asked: `${change.share} %` };
  report.row({
    ...row,
    what: `${what}: settled after`,
    got: ms(settled),
    bar: "≤ 120 ms",
    ok: settled <= 120e6,
  });
  report.row({
    ...row,
    what: `${what}: overshoot`,
    got: ms(most),
    bar: `≤ ${ms(bar)}`,
    ok: most <= bar,
  });
}

const live: Cell[] = [50, 500].map((kernel) => ({
  group: GROUP,
  what: `live 25 → 50 → 25, kernels of ${kernel} µs`,
  seconds: 5,
  async run(bench, report) {
    const running = bench.start(["--sm", "25"], { us: kernel }, { seconds: 3 / bench.scale });
    const { region } = await running.ready;
    await Bun.sleep(HOLD_MS);
    const up = setShare(region, 50);
    await Bun.sleep(HOLD_MS);
    const down = setShare(region, 25);
    const { spans, toGpu } = await running.done;
    const pieces = piecesOf(spans);
    const last = pieces.at(-1)?.[1] ?? NaN;
    const [rise, fall] = [toGpu(up), toGpu(down)];
    reportChange(report, kernel, 25, { at: rise, until: fall, share: 50 }, pieces);
    reportChange(
      report,
      kernel,
      50,
      { at: fall, until: Math.min(last, fall + 1e9), share: 25 },
      pieces,
    );
  },
}));

const BURST = ["--sm", "25", "--burst", "100"];
const FIRST_NS = 50e6;

const burst: Cell = {
  group: GROUP,
  what: "--sm 25 --burst 100",
  seconds: 15,
  async run(bench, report) {
    const workload = { us: 50 };
    const native = measure(await bench.native(workload), 0.3).rate;
    const alone = await bench.run(BURST, workload, { seconds: 3 });
    const got = (100 * measure(alone, 0.5).rate) / native;
    const row = { group: GROUP };
    report.row({
      ...row,
      what: `${this.what}, alone`,
      asked: "100 %",
      got: percent(got),
      bar: "≥ 98 %",
      ok: got >= 98,
    });

    const tenants = [
      { flags: BURST, workload },
      { flags: ["--sm", "50"], workload, extra: ["--on", "150", "--off", "350"] },
    ];
    const { runs } = await together(bench, tenants, 6);
    const returning = runs[1]!;
    const pieces = piecesOf(returning.spans);
    const firsts = returning.found.rounds.slice(1, -1).map((mono) => {
      const at = returning.toGpu(BigInt(mono));
      return (100 * covered(pieces, [at, at + FIRST_NS])) / FIRST_NS;
    });
    const worst = Math.min(...firsts);
    const mean = firsts.reduce((a, b) => a + b, 0) / firsts.length;
    report.row({
      ...row,
      what: `a 50 % neighbour returns beside ${this.what}: its first 50 ms, worst of ${firsts.length}`,
      asked: "50 %",
      got: `${percent(worst)} (mean ${percent(mean)})`,
      bar: "≥ 48 %",
      ok: worst >= 48,
    });
  },
};

export const liveCells: Cell[] = [...live, burst];
