import type { Bench, Found, Workload } from "./bench.ts";
import type { Cell } from "./cell.ts";
import { together } from "./sessions.ts";

const GROUP = "costs";

/** cost.c's line, ns. */
interface Cost {
  hooked: boolean;
  native_ns: number;
  added_ns: number;
  low: number;
  high: number;
}

const launches: [what: string, flags: string[], mode: string, blocks: number, bar: number][] = [
  ["launch, no limit, alone", [], "launch", 40, 20],
  ["launch under --sm 90, mean of 1,000 back to back", ["--sm", "90"], "launch", 40, 150],
  ["launch under --sm 90 into a drained stream, median", ["--sm", "90"], "drained", 30, 800],
  ["launch under --sm 90 that opens a slice, median", ["--sm", "90"], "opening", 24, 2000],
];

const launchCells: Cell[] = launches.map(([what, flags, mode, blocks, bar]) => ({
  group: GROUP,
  what,
  seconds: mode === "launch" ? 10 : 6,
  async run(bench, report) {
    const words = [...bench.limit(flags), bench.file("cost"), mode, `${blocks}`];
    const cost = JSON.parse((await bench.must(words)).stdout) as Cost;
    if (!cost.hooked) throw new Error("the launches did not go through the shim");
    report.row({
      group: GROUP,
      what: `${what}: added`,
      asked: `${cost.native_ns} ns natively`,
      got: `${cost.added_ns} ns [${cost.low}, ${cost.high}]`,
      bar: `≤ ${bar} ns`,
      ok: cost.added_ns <= bar,
    });
  },
}));

/** Waits sleep, so that the program's own waiting costs little and the rest is seen. */
const SLEEPY: Workload = { us: 500, options: "--blocking" };

/**
 * Percent of a core that the shim took: the process's whole CPU time in the window, watcher and launching
 * threads alike, less what the same number of launches costs natively.
 */
function shimCpu(found: Found, native: Found): number {
  const own = (native.cpu_ns / native.window_kernels) * found.window_kernels;
  return ((found.cpu_ns - own) / (found.window_s * 1e9)) * 100;
}

const watcher = (found: Found): string =>
  `${((found.watch_ns / (found.window_s * 1e9)) * 100).toFixed(3)} % of it the shim's threads`;

const cpu: Cell = {
  group: GROUP,
  what: "shim CPU",
  seconds: 24,
  async run(bench: Bench, report) {
    const native = (await bench.native(SLEEPY, 3)).found;
    const rest = { seconds: 0.5, extra: ["--idle", "2"] };
    const base = (await bench.run(null, SLEEPY, rest)).found.idle_cpu_ns;
    const { idle_watch_ns, idle_cpu_ns } = (await bench.run(["--sm", "25"], SLEEPY, rest)).found;
    const counted = "whole process less native per launch";
    const row = { group: GROUP, asked: counted };
    report.row({
      ...row,
      what: "shim CPU, idle for 2 s after work",
      asked: "0",
      got: `its threads ${idle_watch_ns} ns, the whole process ${idle_cpu_ns} ns (natively ${base} ns)`,
      bar: "threads 0, process ≤ native + 0.2 ms",
      ok: idle_watch_ns === 0 && idle_cpu_ns <= base + 200_000,
    });
    const alone = (await bench.run(["--sm", "25"], SLEEPY, { seconds: 4 })).found;
    const throttled = shimCpu(alone, native);
    report.row({
      ...row,
      what: "shim CPU, throttled alone at 25",
      got: `${throttled.toFixed(3)} % of a core (${watcher(alone)})`,
      bar: "≤ 1 %",
      ok: throttled <= 1,
    });
    const tenant = { flags: ["--sm", "50"], workload: SLEEPY };
    const { runs } = await together(bench, [tenant, tenant], 4);
    const worst = runs.toSorted((a, b) => shimCpu(b.found, native) - shimCpu(a.found, native))[0]!;
    const turns = shimCpu(worst.found, native);
    report.row({
      ...row,
      what: "shim CPU, taking turns at 50 + 50, the greater",
      got: `${turns.toFixed(3)} % of a core (${watcher(worst.found)})`,
      bar: "≤ 2 %",
      ok: turns <= 2,
    });
  },
};

export const costCells: Cell[] = [...launchCells, cpu];
