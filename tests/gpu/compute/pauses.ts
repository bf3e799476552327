import type { Cell } from "./cell.ts";
import { percent } from "./report.ts";
import { measure } from "./shares.ts";

const GROUP = "programs that pause";

/** How the program learns that its step is done; then it sleeps until the next one is due. */
const WAYS = ["stream", "twice", "context", "event", "copy", "none"] as const;

/** 1 ms of work, as 20 kernels, each 10 ms: a tenth of the GPU, which a share of 50 does not hold back. */
const light = ["--every 10 --step 1000", "--every 10 --step 1000 --streams 4"];
/** 4 ms each 8 ms: half of the GPU, which 25 holds to a quarter. */
const heavy = ["--every 8 --step 4000", "--every 8 --step 4000 --streams 4"];

const streams = (options: string): string => (options.includes("--streams") ? ", 4 streams" : "");

const overWays = (loads: string[], makeCell: (way: string, options: string) => Cell): Cell[] =>
  WAYS.flatMap((way) => loads.map((options) => makeCell(way, options)));

/** The pauses are nobody's charge. */
const uncharged = overWays(light, (way, options) => ({
  group: GROUP,
  what: `1 ms each 10 ms at 50, waits by ${way}${streams(options)}`,
  seconds: 3,
  async run(bench, report) {
    const workload = { us: 50, options: `${options} --wait ${way}` };
    const ran = await bench.run(["--sm", "50"], workload, { seconds: 2 });
    const { occupancy, charge } = measure(ran, 0.5);
    report.row({
      group: GROUP,
      what: this.what,
      asked: "10 %",
      got: `${percent(occupancy)} occupied, charged ${charge.toFixed(1)} % more`,
      bar: "≥ 9.5 %; ± 10 %",
      ok: occupancy >= 9.5 && Math.abs(charge) <= 10,
    });
  },
}));

/** … and the share holds. */
const held = overWays(heavy, (way, options) => ({
  group: GROUP,
  what: `4 ms each 8 ms at 25, waits by ${way}${streams(options)}`,
  seconds: 3.5,
  async run(bench, report) {
    const workload = { us: 500, options: `${options} --wait ${way}` };
    const ran = await bench.run(["--sm", "25"], workload, { seconds: 2.5 });
    const { occupancy } = measure(ran, 0.5);
    report.share(GROUP, this.what, 25, occupancy, "occupancy", 2);
  },
}));

export const pauseCells: Cell[] = [...uncharged, ...held];
