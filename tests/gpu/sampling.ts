import { join } from "node:path";
import { out } from "./options.ts";
import { environment, limited, type How, type Ran } from "./run.ts";

/** What NVML listed for one process tree; see sampler.c. */
export interface Sample {
  peak_bytes: number;
  /** At the last sample. */
  left_bytes: number;
  samples: number;
  per_second: number;
  /** The longest time without a sample. */
  slowest_ms: number;
  /** What one look takes, on average. */
  look_us: number;
  above_limit: number;
  /** The most above the limit, and the longest stretch above it. */
  over_bytes: number;
  over_ms: number;
  unplaced_bytes: number;
}

/** One sampler for all sessions of a part, outside of them all. */
export class Sampler implements AsyncDisposable {
  readonly #child;
  readonly #lines;
  #held = "";
  #turn: Promise<unknown> = Promise.resolve();

  constructor() {
    this.#child = Bun.spawn([join(out, "sampler")], {
      env: { ...process.env, ...environment },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    this.#lines = this.#child.stdout.getReader();
  }

  watch(pid: number, limit: number): void {
    this.#child.stdin.write(`watch ${pid} ${limit}\n`);
    this.#child.stdin.flush();
  }

  /** What was seen of the tree from `watch` until now; "stop" also ends the watch. */
  ask(order: "tell" | "stop", pid: number): Promise<Sample> {
    const answer = this.#turn.then(async () => {
      this.#child.stdin.write(`${order} ${pid}\n`);
      this.#child.stdin.flush();
      return JSON.parse(await this.#line()) as Sample;
    });
    this.#turn = answer.catch(() => {});
    return answer;
  }

  /** Runs a command in a session that is watched; the tree stays on the list until it is stopped. */
  async session(
    limit: number,
    flags: string[],
    words: string[],
    how: How = {},
  ): Promise<Ran & { pid: number }> {
    let pid = 0;
    const started = (child: number) => this.watch((pid = child), limit);
    const ran = await limited(flags, words, { ...how, started });
    return { ...ran, pid };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin.end();
    await this.#child.exited;
  }

  async #line(): Promise<string> {
    while (!this.#held.includes("\n")) {
      const { value, done } = await this.#lines.read();
      if (done) throw new Error("the sampler has ended: see stderr");
      this.#held += new TextDecoder().decode(value);
    }
    const [line = "", ...rest] = this.#held.split("\n");
    this.#held = rest.join("\n");
    return line;
  }
}

/** One session under a sampler of its own. */
export async function sampled(
  limit: number,
  flags: string[],
  words: string[],
  how: How = {},
): Promise<[Ran, Sample]> {
  await using sampler = new Sampler();
  const ran = await sampler.session(limit, flags, words, how);
  return [ran, await sampler.ask("stop", ran.pid)];
}

const MIB = 2 ** 20;

/** design §12: nothing over on sized paths, a little for a moment where no call names the bytes. */
export const staysBelow = (sample: Sample, isSized: boolean): boolean =>
  sample.samples > 0 &&
  sample.per_second >= 1000 &&
  sample.unplaced_bytes === 0 &&
  (isSized ? sample.above_limit === 0 : sample.over_bytes <= 32 * MIB && sample.over_ms <= 100);

export const belowBar = (isSized: boolean): string =>
  isSized ? "never above" : "≤ 32 MiB over for ≤ 100 ms";

/** What the sampler saw, in words. */
export function describe(sample: Sample): string {
  const over =
    sample.above_limit === 0
      ? "0 above"
      : `${sample.above_limit} above (by ${(sample.over_bytes / MIB).toFixed(1)} MiB, ${sample.over_ms} ms)`;
  const strange =
    sample.unplaced_bytes === 0 ? "" : ", processes that /proc does not have: figures incomplete";
  return `NVML ${(sample.peak_bytes / MIB).toFixed(1)} MiB at most, ${sample.samples} samples at ${sample.per_second}/s (each ${sample.look_us} µs, longest gap ${sample.slowest_ms} ms), ${over}${strange}`;
}
