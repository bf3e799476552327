import { mkdirSync } from "node:fs";
import type { Bench } from "./bench.ts";
import type { Cell } from "./cell.ts";
import { percent } from "./report.ts";
import { python, reportLosses } from "./torch.ts";

const GROUP = "NCCL data-parallel training, two GPUs";

/** ddp.py's line: losses of the first steps, and how many steps were done when. */
interface Job {
  losses: number[];
  times: [monoNs: number, steps: number][];
}

/** Runs the jobs together, each in a session of its own with these flags (null: native). */
async function run(bench: Bench, jobs: (string[] | null)[]): Promise<Job[]> {
  const meet = bench.fresh("meet");
  mkdirSync(meet);
  const words = [...python(bench, "ddp.py", 5), "--meet", meet, "--parties", `${jobs.length}`];
  const started = jobs.map((flags, i) =>
    bench.must([...bench.limit(flags), ...words, "--name", `job${i}`]),
  );
  const ended = await Promise.all(started);
  return ended.map(({ stdout }) => {
    const line = stdout.split("\n").find((text) => text.startsWith("{"));
    if (line === undefined) throw new Error("the job printed no figures");
    return JSON.parse(line) as Job;
  });
}

/** Steps a second of each in the time that all share, after a fifth of it. */
function rates(jobs: Job[]): number[] {
  const begin = Math.max(...jobs.map(({ times }) => times[0]![0]));
  const end = Math.min(...jobs.map(({ times }) => times.at(-1)![0]));
  const from = begin + (end - begin) / 5;
  if (!(end > from)) throw new Error("the jobs did not overlap");
  return jobs.map(
    ({ times }) => ((stepsAt(times, end) - stepsAt(times, from)) / (end - from)) * 1e9,
  );
}

/** Straight between two looks. */
function stepsAt(times: Job["times"], at: number): number {
  const next = Math.max(
    1,
    times.findIndex(([ns]) => ns >= at),
  );
  const [[t0, s0], [t1, s1]] = [times[next - 1]!, times[next]!];
  return s0 + ((s1 - s0) * (at - t0)) / (t1 - t0);
}

const natives = new WeakMap<Bench, Promise<Job[]>>();
const nativeOf = (bench: Bench): Promise<Job[]> => {
  const known = natives.get(bench) ?? run(bench, [null]);
  natives.set(bench, known);
  return known;
};

const one = (flags: string[]): Cell => ({
  group: GROUP,
  what: `one job, ${flags.join(" ")}`,
  seconds: 45,
  async run(bench, report) {
    const native = await nativeOf(bench);
    const limited = await run(bench, [flags]);
    const [base] = rates(native);
    const [got] = rates(limited);
    report.share(
      GROUP,
      this.what,
      50,
      (100 * got!) / base!,
      `${base!.toFixed(1)} steps/s natively`,
      2,
    );
    reportLosses(report, GROUP, this.what, native[0]!.losses, limited[0]!.losses);
  },
});

const two: Cell = {
  group: GROUP,
  what: "two jobs, 50 + 50",
  seconds: 45,
  async run(bench, report) {
    const native = await nativeOf(bench);
    const jobs = await run(bench, [
      ["--sm", "50"],
      ["--sm", "50"],
    ]);
    const [base] = rates(native);
    for (const [i, rate] of rates(jobs).entries()) {
      const got = (100 * rate) / base!;
      const what = `${this.what}: job ${i + 1}`;
      report.row({
        group: GROUP,
        what,
        asked: "50 %",
        got: percent(got),
        bar: "≥ 45 %",
        ok: got >= 45,
      });
      reportLosses(report, GROUP, what, native[0]!.losses, jobs[i]!.losses);
    }
  },
};

export const ncclCells: Cell[] = [one(["--sm", "50"]), one(["--sm", "50", "--gang", "on"]), two];
