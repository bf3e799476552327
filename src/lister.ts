import type { CardUse } from "./nvml.ts";

/** Where NVML is: a name for the loader or a path, and the variables that it wants to find set. */
export interface Source {
  library: string;
  environment: Record<string, string>;
}

/** For each card asked for its processes, or null where NVML cannot tell now. */
export type Answer = (CardUse[] | null)[];

/** Who asks for what NVML lists; `Lister`, or a stand-in. */
export interface Listing {
  /** The processes of each card, in the order of the UUIDs; null if there is no NVML, or no more. */
  ask(uuids: string[]): Promise<Answer | null>;
  readonly state: "asleep" | "starting" | "up" | "absent";
}

/**
 * NVML in a thread of its own: nvmlInit was seen to take 1.6 s, and looking while a process is in cuInit
 * waits for the driver; neither may hold up signals, events or a shim that waits for an answer. The
 * thread ends with the process and delays no exit, not even from inside a call (measured).
 */
export class Lister implements Listing, Disposable {
  state: Listing["state"] = "asleep";
  readonly #source: Source | null;
  #worker: Worker | null = null;
  #answer: (data: boolean | Answer | null) => void = () => {};
  #last: Promise<unknown> = Promise.resolve();

  /** `source` null: there is nothing to list. */
  constructor(source: Source | null) {
    this.#source = source;
    if (source === null) this.state = "absent";
  }

  /** Makes the thread ready (2 ms of its own time); NVML itself waits for the first question. */
  prepare(): void {
    if (this.#worker !== null || this.#source === null || this.state === "absent") return;
    const worker = new Worker(`${import.meta.dir}/lister-worker.ts`);
    worker.unref();
    worker.onmessage = ({ data }) => this.#answer(data);
    worker.onerror = () => this.#end();
    this.#worker = worker;
  }

  /** One question at a time: a later one waits. The first initialises NVML. */
  ask(uuids: string[]): Promise<Answer | null> {
    const answer = this.#last.then(() => this.#ask(uuids));
    this.#last = answer;
    return answer;
  }

  [Symbol.dispose](): void {
    this.#end();
  }

  async #ask(uuids: string[]): Promise<Answer | null> {
    this.prepare();
    if (this.state === "asleep") {
      this.state = "starting";
      const isUp = await this.#exchange(this.#source!);
      if (!isUp) this.#end();
      else this.state = "up";
    }
    if (this.state !== "up") return null;
    const answer = await this.#exchange(uuids);
    return Array.isArray(answer) ? answer : null;
  }

  #exchange(question: Source | string[]): Promise<boolean | Answer | null> {
    return new Promise((resolve) => {
      this.#answer = resolve;
      this.#worker?.postMessage(question);
    });
  }

  #end(): void {
    this.state = "absent";
    this.#worker?.terminate();
    this.#worker = null;
    this.#answer(null);
  }
}
