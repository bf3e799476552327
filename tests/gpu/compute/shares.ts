import type { Ran, Workload } from "./bench.ts";
import type { Cell } from "./cell.ts";
import { percent } from "./report.ts";
import { covered, kernelsIn, piecesOf, type Piece, wholePeriods } from "./spans.ts";

const GROUP = "one session";

type Shape = keyof typeof SHAPES;

/** How the kernels are launched. */
const SHAPES = {
  plain: "",
  "4 streams": "--streams 4",
  "sync after each": "--sync",
  "graphs of 1": "--graph 1",
  "graphs of 1,000": "--graph 1000",
  cooperative: "--cooperative",
  "2 processes": "--processes 2",
  "4 threads": "--threads 4",
  "4 streams, overlapping": "--streams 4 --overlap",
  "4 threads, overlapping": "--threads 4 --overlap",
} as const;

/**
 * Kernel length in µs, share, shape. All shares at 50 µs and all lengths at 25, then so that every two
 * of length, share and shape meet. Graphs of 1,000 kernels of 0.5 ms and more are left out: half a
 * second in one submission tells nothing about shares that the 50 ms kernels do not.
 */
const CELLS: [us: number, share: number, shape: Shape][] = [
  [50, 10, "plain"],
  [50, 25, "plain"],
  [50, 50, "plain"],
  [50, 75, "plain"],
  [50, 90, "plain"],
  [2, 25, "plain"],
  [10, 25, "plain"],
  [500, 25, "plain"],
  [5000, 25, "plain"],
  [50000, 25, "plain"],
  [2, 10, "4 streams"],
  [10, 25, "4 streams"],
  [50, 50, "4 streams"],
  [500, 75, "4 streams"],
  [5000, 90, "4 streams"],
  [50000, 10, "4 streams"],
  [2, 25, "sync after each"],
  [10, 50, "sync after each"],
  [50, 75, "sync after each"],
  [500, 90, "sync after each"],
  [5000, 10, "sync after each"],
  [50000, 25, "sync after each"],
  [2, 50, "graphs of 1"],
  [10, 75, "graphs of 1"],
  [50, 90, "graphs of 1"],
  [500, 10, "graphs of 1"],
  [5000, 25, "graphs of 1"],
  [50000, 50, "graphs of 1"],
  [2, 75, "graphs of 1,000"],
  [10, 90, "graphs of 1,000"],
  [50, 10, "graphs of 1,000"],
  [10, 25, "graphs of 1,000"],
  [2, 50, "graphs of 1,000"],
  [2, 90, "cooperative"],
  [10, 10, "cooperative"],
  [50, 25, "cooperative"],
  [500, 50, "cooperative"],
  [5000, 75, "cooperative"],
  [50000, 90, "cooperative"],
  [2, 75, "2 processes"],
  [10, 90, "2 processes"],
  [50, 10, "2 processes"],
  [500, 25, "2 processes"],
  [5000, 50, "2 processes"],
  [50000, 75, "2 processes"],
  [2, 10, "4 threads"],
  [10, 50, "4 threads"],
  [50, 25, "4 threads"],
  [500, 90, "4 threads"],
  [5000, 75, "4 threads"],
  [50000, 50, "4 threads"],
  [50, 25, "4 streams, overlapping"],
  [50, 25, "4 threads, overlapping"],
];

/** Points that a cell, and percent that the shim's own charge, may be off. */
const WORST = 2;
const CHARGE = 1;

/** Long kernels: a slice is at least one of them on each stream, and that many whole periods are measured. */
const PERIODS = 8;
const periodOf = (us: number, share: number, shape: Shape): number =>
  (us * (shape.startsWith("4 ") ? 4 : 1) * 100) / share;

/** Native runs of several processes are runs of one: the driver's switching costs 9 % there. */
const nativeOf = ({ us, options = "" }: Workload): Workload => ({
  us,
  options: options.replace(/--processes \d+/, ""),
});

export const shareCells: Cell[] = CELLS.map(([us, share, shape]) => {
  const workload = { us, options: SHAPES[shape] };
  const isLong = us >= 5000;
  const seconds = isLong ? Math.max(10, (PERIODS * periodOf(us, share, shape)) / 1e6) : 3;
  const length = us < 500 ? `${us} µs` : `${us / 1000} ms`;
  return {
    group: GROUP,
    what: `${length}, ${shape}, at ${share}`,
    seconds: seconds + (isLong ? 4 : 3.5),
    async run(bench, report) {
      const native = await bench.native(nativeOf(workload));
      const ran = await bench.run(["--sm", `${share}`], workload, { seconds });
      const measured = measure(ran, 0.5);
      const rate = (100 * measured.rate) / measure(native, 0.3).rate;
      // Where the launch sets the pace throughput tells the launch's cost, not the share.
      const isLaunchBound = us <= 10 && shape !== "graphs of 1,000";
      const { occupancy, charge } = measured;
      const note = isLaunchBound
        ? `occupancy; throughput ${percent(rate)}, charge ${signed(charge)}`
        : `throughput; occupancy ${percent(occupancy)}, charge ${signed(charge)}`;
      const got = isLaunchBound ? occupancy : rate;
      report.share(GROUP, this.what, share, got, note, WORST);
      if (isLaunchBound)
        report.row({
          group: "the gate's own charge against occupancy",
          what: this.what,
          asked: `${share} %`,
          got: signed(charge),
          bar: `± ${CHARGE} %`,
          ok: Math.abs(charge) <= CHARGE,
        });
    },
  } satisfies Cell;
});

const signed = (value: number): string => `${value >= 0 ? "+" : ""}${value.toFixed(2)} %`;

/**
 * What a run alone got after its warm-up: kernels a second; percent of wall time occupied, pauses up to
 * 100 µs filled; and by how many percent the region's charge differs from that.
 */
export function measure({ spans, charges, found }: Ran, warmS: number) {
  const pieces = piecesOf(spans);
  const from = (spans.starts[0] ?? NaN) + warmS * 1e9;
  const last = pieces.at(-1)?.[1] ?? NaN;
  const window = wholePeriods(pieces, [from, Math.min(last, from + found.window_s * 1e9)]);
  const length = window[1] - window[0];
  return {
    rate: (kernelsIn(spans, window) / length) * 1e9,
    occupancy: (100 * covered(pieces, window)) / length,
    charge: chargeError(pieces, charges, window),
  };
}

/**
 * From the first to the last time in the window that the charge moved. It moves when a slice has
 * drained, and is seen to move up to 2 ms later: so it belongs to the last stretch that had ended by then.
 */
function chargeError(pieces: Piece[], charges: Ran["charges"], window: Piece): number {
  const inside = charges.filter(([at]) => at >= window[0] && at <= window[1]);
  const [from, to] = [inside[0], inside.at(-1)];
  if (from === undefined || to === undefined || from === to) return NaN;
  const endBefore = (at: number) => pieces.findLast(([, end]) => end <= at)?.[1] ?? at;
  const busy = covered(pieces, [endBefore(from[0]), endBefore(to[0])]);
  return 100 * ((to[1] - from[1]) / busy - 1);
}
