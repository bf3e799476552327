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
  ["launch, no limit, alone", [], "launch", 400, 20],
  ["launch under --sm 90, mean of 1,000 back to back", ["--sm", "90"], "launch", 400, 150],
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

const watcher = (found: Found): number => (found.watch_ns / (found.window_s * 1e9)) * 100;

/** The mean; one core is slower than the next, by what else runs on it. */
const row = (what: string, values: number[], watching: number, bar: number) => {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const each = values.map((value) => value.toFixed(2)).join(", ");
  return {
    group: GROUP,
    asked: "whole process less native per launch",
    what: `shim CPU, ${what}`,
    got: `${mean.toFixed(3)} % of a core (${each}; ${watching.toFixed(3)} % of it the shim's threads)`,
    bar: `≤ ${bar} %`,
    ok: mean <= bar,
  };
};

const ROUNDS = 2;

const cpu: Cell = {
  group: GROUP,
  what: "shim CPU",
  seconds: 30,
  async run(bench: Bench, report) {
    const rest = { seconds: 0.5, extra: ["--idle", "2"] };
    const base = (await bench.run(null, SLEEPY, rest)).found.idle_cpu_ns;
    const { idle_watch_ns, idle_cpu_ns } = (await bench.run(["--sm", "25"], SLEEPY, rest)).found;
    report.row({
      group: GROUP,
      what: "shim CPU, idle for 2 s after work",
      asked: "0",
      got: `its threads ${idle_watch_ns} ns, the whole process ${idle_cpu_ns} ns (natively ${base} ns)`,
      bar: "threads 0, process ≤ native + 0.2 ms",
      ok: idle_watch_ns === 0 && idle_cpu_ns <= base + 200_000,
    });
    const tenant = { flags: ["--sm", "50"], workload: SLEEPY };
    const alone: number[] = [];
    const turns: number[] = [];
    const watching = { alone: 0, turns: 0 };
    for (let i = 0; i < ROUNDS; i++) {
      const native = (await bench.run(null, SLEEPY, { seconds: 2, warm: 0.3 })).found;
      const { found } = await bench.run(["--sm", "25"], SLEEPY, { seconds: 3 });
      alone.push(shimCpu(found, native));
      watching.alone += watcher(found) / ROUNDS;
      const { runs } = await together(bench, [tenant, tenant], 3);
      turns.push(...runs.map((ran) => shimCpu(ran.found, native)));
      for (const ran of runs) watching.turns += watcher(ran.found) / runs.length / ROUNDS;
    }
    report.row(row("throttled alone at 25", alone, watching.alone, 1));
    report.row(row("taking turns at 50 + 50", turns, watching.turns, 2));
  },
};

export const costCells: Cell[] = [...launchCells, cpu];
