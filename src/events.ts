import { closeSync, constants, openSync } from "node:fs";
import { header } from "./layout.gen.ts";
import { monotonicNs } from "./libc.ts";
import type { Region } from "./region.ts";
import { type Event, Ring } from "./ring.ts";

export type { Event } from "./ring.ts";

/** While a record is being written it is looked for again after this long. */
const WRITING_MS = 10;
/** At the end nobody is waited for longer. */
const LAST_PATIENCE_NS = 5_000_000n;

/**
 * The session's events as they happen: those of the ring, and the supervisor's own, until `close`.
 * Sleeps on the region's fifo, which a writer rings only while `bell_wanted` is set.
 */
export class EventFeed implements AsyncIterable<Event> {
  readonly #region: Region;
  readonly #ring: Ring;
  readonly #own: Event[] = [];
  #isClosing = false;
  #isOver = false;
  #flushed: (() => void)[] = [];
  /** Called when a shim has rung, and before each sleep with the bell armed: it may want more than to be read. */
  onBell: () => void = () => {};
  #wake: () => void = () => {};

  constructor(region: Region) {
    this.#region = region;
    this.#ring = new Ring(region);
  }

  get lost(): number {
    return this.#ring.lost;
  }

  /** Adds an event of the supervisor's own. */
  publish(event: Omit<Event, "monoNs"> & { monoNs?: bigint }): void {
    this.#own.push({ monoNs: monotonicNs(), ...event });
    this.#wake();
  }

  /** Resolves once everything that is in the ring now has been handed on. */
  flush(): Promise<void> {
    if (this.#isOver) return Promise.resolve();
    const flushed = new Promise<void>((resolve) => this.#flushed.push(resolve));
    this.#wake();
    return flushed;
  }

  /** Lets the iteration end once everything has been read. */
  close(): void {
    this.#isClosing = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event> {
    using bell = this.#isClosing ? null : listen(this.#region.bell, () => this.#wake());
    for (;;) {
      const rung = new Promise<void>((resolve) => (this.#wake = resolve));
      yield* this.#take();
      if (this.#isClosing) break;
      this.#region.store32(header.bell_wanted, 1);
      const asked = this.#flushed.splice(0); // who asks from here on is for the next round
      yield* this.#take(); // published between the last look and the flag
      asked.forEach((resolve) => resolve());
      this.onBell();
      if (this.#own.length > 0 || this.#flushed.length > 0 || this.#isClosing) continue;
      const canSleep = this.#ring.isEmpty && bell !== null;
      await (canSleep ? rung : Promise.race([rung, Bun.sleep(WRITING_MS)]));
    }
    this.#region.store32(header.bell_wanted, 0);
    const giveUp = monotonicNs() + LAST_PATIENCE_NS;
    while (!this.#ring.isEmpty && monotonicNs() < giveUp) {
      yield* this.#take();
      if (!this.#ring.isEmpty) await Bun.sleep(1);
    }
    yield* this.#take(0n);
    this.#isOver = true;
    this.#flushed.splice(0).forEach((resolve) => resolve());
  }

  /** What is there now, in the order in which it happened. */
  #take(patienceNs?: bigint): Event[] {
    const events = [...this.#ring.read(monotonicNs(), patienceNs), ...this.#own.splice(0)];
    return events.sort((left, right) => Number(left.monoNs - right.monoNs));
  }
}

/** Calls `ring` for each byte in the fifo. Open for reading and writing, so that it never ends; null if it cannot be opened. */
function listen(path: string, ring: () => void): Disposable | null {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  } catch {
    return null;
  }
  const reader = Bun.file(fd).stream().getReader();
  const loop = async () => {
    while (!(await reader.read()).done) ring();
  };
  loop().catch(() => {});
  return {
    [Symbol.dispose]() {
      const close = () => closeSync(fd); // which cancel leaves to us
      reader.cancel().then(close, close);
    },
  };
}
