import { join } from "node:path";
import { out } from "../options.ts";
import { row } from "../rows.ts";
import { last, limited } from "../run.ts";

interface Cost {
  what: string;
  hooked: boolean;
  native_ns: number;
  added_ns: number;
  low: number;
  high: number;
  /** The last fifth of a native block: far above native_ns if the queue was full. */
  tail_ns: number;
}

export async function cost(): Promise<void> {
  // A difference of 20 ns on a launch of 3 µs needs many pairs of blocks; a pair after rests takes 0.2 s.
  const cases: [string, string[], number, number][] = [
    ["launch", [], 20, 400],
    ["rested", ["--sm", "90"], 150, 60],
    ["alloc", ["--mem", "4g"], 300, 100],
    ["async", ["--mem", "4g"], 250, 100],
    ["create", ["--mem", "4g"], 1000, 40],
  ];
  for (const [what, flags, bar, pairs] of cases) {
    const { code, stdout, stderr } = await limited(
      [...flags, "-q"],
      [join(out, "cost"), what, `${pairs}`],
    );
    if (code !== 0) throw new Error(`cost ${what}: exit ${code}: ${stderr}`);
    const got = last<Cost>(stdout);
    row(
      "cost",
      `${what}${flags.length ? ` under ${flags.join(" ")}` : ", unlimited"}`,
      "0 ns",
      `+${got.added_ns} ns [${got.low}, ${got.high}] on ${got.native_ns} ns (last 200 calls of a block: ${got.tail_ns})`,
      `≤ ${bar} ns`,
      got.hooked && got.added_ns <= bar,
    );
  }
  await inside();
}

interface Inside {
  hooked: boolean;
  take_p50: number;
  take_p99: number;
  give_p50: number;
  give_p99: number;
  /** The driver's own part of the same frees. */
  native_give_p50: number;
}

/** What a call spends in the shim itself, call by call: cost_inside.c. */
async function inside(): Promise<void> {
  const calls = await limited(["--mem", "20g", "-q"], [join(out, "cost_inside"), "calls"]);
  row(
    "cost",
    "the driver's part of an async pair in the shim, ns a call",
    "-",
    calls.stdout.trim(),
    "told",
    calls.code === 0,
  );
  for (const what of ["alloc", "async", "create"]) {
    for (const processes of [1, 2, 4, 8]) {
      const got = await measureInside(what, processes, 10);
      row(
        "cost",
        `${what}, ${processes} processes at once, in the shim itself`,
        "p99 ≤ 5 µs",
        `take p50 ${got.take_p50} p99 ${got.take_p99} ns, free p50 ${got.give_p50} p99 ${got.give_p99} ns`,
        "p99 ≤ 5,000 ns",
        got.hooked && got.take_p99 <= 5000 && got.give_p99 <= 5000,
      );
    }
  }
  // In turn, so that a busy moment meets both.
  const few: Inside[] = [];
  const beside: Inside[] = [];
  for (let round = 0; round < 3; round++) {
    few.push(await measureInside("alloc", 1, 10));
    beside.push(await measureInside("alloc", 1, 100_000, 10));
  }
  const among = await measureInside("alloc", 1, 100_000);
  const say = (got: Inside) =>
    `+${got.give_p50} ns on the driver's ${got.native_give_p50} ns (p99 +${got.give_p99} ns)`;
  const best = (all: Inside[]) =>
    all.reduce((least, one) => (one.give_p50 < least.give_p50 ? one : least));
  row(
    "cost",
    "a free of one of ten blocks that come and go beside 100,000 live ones, in the shim itself, median, best of 3",
    `beside none: ${say(best(few))}`,
    say(best(beside)),
    "no dearer (10 % for the clock's steps)",
    [...few, ...beside].every(({ hooked }) => hooked) &&
      best(beside).give_p50 <= 1.1 * best(few).give_p50,
  );
  row(
    "cost",
    "a free of any of 100,000 live blocks: their caches' misses too",
    `of ten: ${say(best(few))}`,
    say(among),
    `≤ ${FREE_NS} ns added, p99 ≤ 5,000 ns`,
    among.hooked && among.give_p50 <= FREE_NS && among.give_p99 <= 5000,
  );
}

/** What a pair of allocation and free may cost: the same for a free whose neighbours push it out of the caches. */
const FREE_NS = 300;

async function measureInside(
  what: string,
  processes: number,
  live: number,
  moving = live,
): Promise<Inside> {
  const { code, stdout, stderr } = await limited(
    ["--mem", "20g", "-q"],
    [join(out, "cost_inside"), what, `${processes}`, "20000", `${live}`, `${moving}`],
  );
  if (code !== 0) throw new Error(`cost_inside ${what}: exit ${code}: ${stderr}`);
  return last<Inside>(stdout);
}
