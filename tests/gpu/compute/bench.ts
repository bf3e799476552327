import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findSimulation } from "../../../src/simulation.ts";
import * as layout from "../../../src/layout.gen.ts";
import { monotonicNs } from "../../../src/libc.ts";
import { deviceOffset, Region } from "../../../src/region.ts";
import { mergeSpans, parseSpans, type Piece, type Spans } from "./spans.ts";

const here = import.meta.dir;
const root = join(here, "../../..");

/** What work.c launches, in its own options; `us` is a kernel's length. */
export interface Workload {
  us: number;
  options?: string;
}

/** work.c's last line. ns; clock readings are texts. */
export interface Found {
  kernels: number;
  window_kernels: number;
  window_s: number;
  cpu_ns: number;
  watch_ns: number;
  idle_cpu_ns: number;
  idle_watch_ns: number;
  mono: [string, string];
  gpu: [string, string];
  steps_due: number;
  steps_done: number;
  p50_ns: number;
  p99_ns: number;
  rounds: string[];
}

/** A finished run of work.c. */
export interface Ran {
  found: Found;
  spans: Spans;
  /** When the region's charge was seen to change: ns on the card's clock, GPU ns charged so far. */
  charges: [atNs: number, chargedNs: number][];
  /** A moment of the host's clock on the card's. */
  toGpu(monoNs: bigint): number;
  events: { kind: string }[];
}

export interface Running {
  /** Once it is about to launch. */
  ready: Promise<{ pid: number; region: string }>;
  /** The moment at which it launched its endless kernel. */
  endless: Promise<bigint>;
  done: Promise<Ran>;
  /** When nobody cares how it ends any more. */
  kill(): Promise<void>;
}

/** Seconds and other marks of one run. */
export interface Timing {
  seconds: number;
  warm?: number;
  barrier?: { file: string; parties: number };
  /** Kept by work.c with these options more. */
  extra?: string[];
}

/** What a run may take beyond its own seconds before it counts as hung. */
const GRACE_S = 25;
/** The same for programs that know their own length. */
const LIMIT_S = 200;

/** Builds the test programs, runs them natively or under vgpu, and leaves no process behind. */
export class Bench {
  readonly #log: string;
  /** Programs, and files that runs leave to each other; gone when this process ends. */
  readonly #scratch = mkdtempSync(join(tmpdir(), "vgpu-compute-"));
  readonly sim: boolean;
  /** Windows are this much of what the issue asks; 1 on a card. */
  readonly scale: number;
  /** The origin of all spans: a reading of the card's clock (host's, simulated). */
  #origin = 0n;
  #turnsPerUs = 1;
  #environment: Record<string, string | undefined> = { ...process.env };
  #runs = 0;
  readonly #children = new Set<number>();
  readonly #shared: string[] = [];

  constructor(out: string, sim: boolean, scale: number) {
    this.sim = sim;
    this.scale = scale;
    this.#log = join(out, "log.txt");
    mkdirSync(out, { recursive: true });
    process.on("exit", () => {
      this.killAll();
      rmSync(this.#scratch, { recursive: true, force: true });
    });
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
      process.on(signal, () => process.exit(130));
  }

  killAll(): void {
    for (const pid of this.#children) signalTree(pid, "SIGKILL");
    this.#children.clear();
    for (const path of this.#shared.splice(0)) rmSync(path, { force: true });
  }

  async build(): Promise<void> {
    const gcc = ["gcc", "-O2", "-std=gnu11", "-w", "-D_GNU_SOURCE"];
    await this.must([...gcc, "-o", this.file("work"), join(here, "work.c"), "-ldl", "-pthread"]);
    let driver = ["-L/usr/local/cuda/lib64/stubs", "-lcuda"];
    if (this.sim) {
      const { set, prefix } = await findSimulation("h200");
      Object.assign(this.#environment, set, prefix);
      driver = [`-L${prefix["LD_LIBRARY_PATH"]}`, "-l:libcuda.so.1"];
    } else {
      const cubin = ["-arch=sm_90", "-cubin", "-o", this.file("kernels.cubin")];
      await this.must(["nvcc", ...cubin, join(here, "kernels.cu")]);
    }
    const sources = [join(here, "../cost.c"), join(root, "shim/elf.c")];
    await this.must([...gcc, "-o", this.file("cost"), ...sources, "-ldl", "-lm", ...driver]);
    const { stdout } = await this.must([...this.#work(), "--calibrate"]);
    const { turns_per_us, gpu } = JSON.parse(stdout) as { turns_per_us: number; gpu: string };
    this.#turnsPerUs = turns_per_us;
    this.#origin = BigInt(gpu);
  }

  file(name: string): string {
    return join(this.#scratch, name);
  }

  /** A path that no other run has. */
  fresh(name: string): string {
    return this.file(`${name}.${++this.#runs}`);
  }

  /** A path in shared memory, gone when this process ends: only such files can be mapped by the card. */
  shared(name: string): string {
    const path = `/dev/shm/vgpu-compute-${process.pid}.${name}.${++this.#runs}`;
    this.#shared.push(path);
    return path;
  }

  #work(): string[] {
    return [
      this.file("work"),
      ...(this.sim ? ["--sim"] : ["--kernels", this.file("kernels.cubin")]),
    ];
  }

  /** Words of `vgpu run`, or none for a native run. */
  limit(flags: string[] | null): string[] {
    if (flags === null) return [];
    const words = this.sim ? ["--sim", ...flags] : flags;
    return [join(root, "bin/vgpu"), "run", "-q", ...words, "--"];
  }

  /** Starts work.c; flags null: natively. */
  start(flags: string[] | null, { us, options = "" }: Workload, timing: Timing): Running {
    const out = this.fresh("spans");
    const events = this.fresh("events");
    const given = flags === null ? null : [...flags, "--events-file", events];
    const words = [
      ...this.limit(given),
      ...this.#work(),
      ...["--us", `${us}`, "--turns", `${Math.max(1, Math.round(us * this.#turnsPerUs))}`],
      ...["--seconds", `${timing.seconds * this.scale}`, "--warm", `${timing.warm ?? 0.5}`],
      ...["--out", out, ...options.split(" ").filter(Boolean), ...(timing.extra ?? [])],
      ...(timing.barrier
        ? ["--barrier", timing.barrier.file, "--parties", `${timing.barrier.parties}`]
        : []),
    ];
    const processes = Number(/--processes (\d+)/.exec(options)?.[1] ?? 1);
    const lines = new Lines();
    const noted: [bigint, number][] = [];
    let watching = true;
    const limitS = timing.seconds * this.scale + (timing.warm ?? 0.5) + GRACE_S;
    const child = this.spawn(words, { onLine: (line) => lines.take(line), limitS });
    const ready = lines.first<{ ready: number; region: string }>("ready").then(async (line) => {
      if (line.region !== "") void watchCharge(line.region, noted, () => watching);
      return { pid: line.ready, region: line.region };
    });
    const done = child.done.then(async ({ code, stderr }) => {
      watching = false;
      lines.end();
      const found = lines.found<Found>("kernels");
      if (code !== 0 || found === undefined)
        throw new Error(`exit ${code}: ${words.slice(-14).join(" ")}: ${stderr.slice(-400)}`);
      const files = Array.from({ length: processes }, (_, i) => (i ? `${out}.${i}` : out));
      const spans = mergeSpans(files.map((path) => this.readSpans(path)));
      files.forEach((path) => rmSync(path, { force: true }));
      const toGpu = clock(found, this.#origin);
      return {
        found,
        spans,
        toGpu,
        charges: noted.map(([mono, ns]): [number, number] => [toGpu(mono), ns]),
        events: existsSync(events) ? readEvents(events) : [],
      };
    });
    const endless = lines
      .first<{ endless: number }>("endless")
      .then(({ endless: at }) => BigInt(at));
    for (const promise of [ready, endless, done]) promise.catch(() => {}); // who waits hears of it
    const kill = async () => {
      watching = false;
      const { pid } = await ready.catch(() => ({ pid: 0 }));
      if (pid !== 0) signalOne(pid, "SIGKILL");
      await child.done;
    };
    return { ready, endless, done, kill };
  }

  readSpans(path: string): Spans {
    const bytes = readFileSync(path);
    const { buffer, byteOffset, byteLength } = bytes;
    return parseSpans(
      buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer,
      this.#origin,
    );
  }

  readonly #natives = new Map<string, Promise<Ran>>();

  /** The same workload natively; measured once a part. `seconds` of the first caller count. */
  native(workload: Workload, seconds = workload.us >= 5000 ? 2 : 1): Promise<Ran> {
    const key = JSON.stringify([workload, seconds]);
    const known = this.#natives.get(key);
    if (known !== undefined) return known;
    const ran = this.start(null, workload, { seconds, warm: 0.3 }).done;
    this.#natives.set(key, ran);
    return ran;
  }

  run(flags: string[] | null, workload: Workload, timing: Timing): Promise<Ran> {
    return this.start(flags, workload, timing).done;
  }

  /** Runs any command to its end, in a process group of its own that is killed after `limitS`. */
  spawn(
    words: string[],
    {
      onLine = () => {},
      environment = {},
      limitS = LIMIT_S,
      isAsked = false,
    }: {
      onLine?: (line: string) => void;
      /** It reads its stdin. */
      isAsked?: boolean;
      environment?: Record<string, string>;
      limitS?: number;
    } = {},
  ) {
    const child = Bun.spawn(words, {
      env: { ...this.#environment, ...environment },
      stdin: isAsked ? "pipe" : "ignore",
      stdout: "pipe",
      stderr: "pipe",
      detached: true,
    });
    const { pid } = child;
    this.#children.add(pid);
    const timer = setTimeout(() => signalTree(pid, "SIGKILL"), limitS * 1000);
    const read = async () => {
      let text = "";
      let taken = 0;
      const decoder = new TextDecoder();
      for await (const chunk of child.stdout) {
        text += decoder.decode(chunk, { stream: true });
        for (let end; (end = text.indexOf("\n", taken)) >= 0; taken = end + 1)
          onLine(text.slice(taken, end));
      }
      return text;
    };
    const done = Promise.all([read(), new Response(child.stderr).text(), child.exited]).then(
      ([stdout, stderr, code]) => {
        clearTimeout(timer);
        signalTree(pid, "SIGKILL"); // what it may have left in its group
        this.#children.delete(pid);
        const note = `$ ${words.join(" ")}\n[${code}]\n${stdout}${stderr}\n`;
        appendFileSync(this.#log, note);
        return { code, stdout, stderr };
      },
    );
    return { pid, done, stdin: child.stdin };
  }

  /** Starts a program that answers each line of its stdin with one line, once it has said a first one. */
  converse(words: string[]): { ask(line: string): Promise<string>; end(): Promise<void> } {
    const lines: string[] = [];
    let news = Promise.withResolvers<void>();
    const onLine = (line: string) => {
      lines.push(line);
      news.resolve();
    };
    const { done, stdin } = this.spawn(words, { onLine, isAsked: true });
    const ended = done.then(({ stderr }): never => {
      throw new Error(`${words.join(" ")} ended: ${stderr.slice(-400)}`);
    });
    ended.catch(() => {}); // who asks hears of it
    const next = async (): Promise<string> => {
      while (lines.length === 0) await Promise.race([news.promise, ended]);
      news = Promise.withResolvers();
      return lines.shift()!;
    };
    const isReady = next();
    isReady.catch(() => {});
    return {
      ask: async (line) => {
        await isReady;
        stdin?.write(`${line}\n`);
        stdin?.flush();
        return await next();
      },
      end: async () => {
        stdin?.end();
        await done;
      },
    };
  }

  async must(words: string[], environment: Record<string, string> = {}) {
    const ran = await this.spawn(words, { environment }).done;
    if (ran.code !== 0)
      throw new Error(`exit ${ran.code}: ${words.join(" ")}: ${ran.stderr.slice(-600)}`);
    return ran;
  }
}

/** Lines of JSON by the field that tells them apart. */
class Lines {
  readonly #seen: Record<string, unknown>[] = [];
  readonly #waiting: { key: string; take(line: unknown): void; fail(error: Error): void }[] = [];
  #isEnded = false;

  take(line: string): void {
    if (!line.startsWith("{")) return;
    const object = JSON.parse(line) as Record<string, unknown>;
    this.#seen.push(object);
    for (const { key, take } of this.#waiting) if (key in object) take(object);
  }

  end(): void {
    this.#isEnded = true;
    for (const { key, fail } of this.#waiting) fail(new Error(`it ended without "${key}"`));
  }

  found<T>(key: string): T | undefined {
    return this.#seen.find((object) => key in object) as T | undefined;
  }

  first<T>(key: string): Promise<T> {
    const found = this.found<T>(key);
    if (found !== undefined) return Promise.resolve(found);
    if (this.#isEnded) return Promise.reject(new Error(`it ended without "${key}"`));
    return new Promise<T>((resolve, fail) =>
      this.#waiting.push({ key, take: (line) => resolve(line as T), fail }),
    );
  }
}

/** By the two anchors of a run, straight between and beyond them. */
function clock({ mono, gpu }: Found, origin: bigint): (monoNs: bigint) => number {
  const [m0, m1] = [BigInt(mono[0]), BigInt(mono[1])];
  const [g0, g1] = [BigInt(gpu[0]), BigInt(gpu[1])];
  const slope = m1 > m0 ? Number(g1 - g0) / Number(m1 - m0) : 1;
  return (at) => Number(g0 - origin) + Number(at - m0) * slope;
}

/** Notes each change of a region's charge, to a millisecond or two, while it is wanted. */
async function watchCharge(path: string, noted: [bigint, number][], isWanted: () => boolean) {
  const region = new Region(path);
  const { device } = layout;
  for (let last = -1; isWanted(); await Bun.sleep(1)) {
    let sum = 0;
    for (let i = 0; i < layout.MAX_DEVICES; i++)
      if (region.load32(deviceOffset(i) + device.state) === layout.DEVICE.READY)
        sum += region.number(deviceOffset(i) + device.charged_ns);
    if (sum !== last) noted.push([monotonicNs(), sum]);
    last = sum;
  }
}

const readEvents = (path: string): { kind: string }[] =>
  readFileSync(path, "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { kind: string });

export function signalOne(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as { code?: string }).code !== "ESRCH") throw error;
  }
}

/** The process group that a child of ours leads. */
const signalTree = (pid: number, signal: NodeJS.Signals): void => signalOne(-pid, signal);

/** The window that all runs share, `warmS` after the last of them began. */
export function sharedWindow(runs: Spans[], warmS: number): Piece {
  const from = Math.max(...runs.map(({ starts }) => starts[0] ?? Infinity)) + warmS * 1e9;
  const to = Math.min(...runs.map(({ ends }) => ends.reduce((a, b) => Math.max(a, b), 0)));
  if (!(to > from)) throw new Error("the runs did not overlap");
  return [from, to];
}
