import { exitNow } from "./libc.ts";
import { isIgnored, type Launcher, readLauncher } from "./launcher.ts";
import { hasTerminal } from "./process.ts";
import type { Shim } from "./shim.ts";
import { raiseDefault, SIGNALS, watchSenders } from "./signals.ts";

/** How a target ended: with a status, or of a signal (its number). */
export type Ending = { status: number } | { signal: number };

export interface Target {
  pid: number;
  ended: Promise<Ending>;
  /** Takes our signal handlers away again. */
  [Symbol.dispose](): void;
}

/** Changes to the caller's environment, as vgpu-exec understands them. */
export interface Changes {
  set?: Record<string, string>;
  /** Joined with ':' before what is there. */
  prefix?: Record<string, string>;
  /** Joined with ':' after what is there. */
  suffix?: Record<string, string>;
  /** Names that the target does not get. */
  unset?: string[];
}

/**
 * All that Bun lets us handle, but for SIGPIPE and SIGXFSZ, which vgpu's own writing can raise, and those with
 * which a shell stops a job: docs/exit-codes.md says which stay behind.
 */
const FORWARDED = [
  "SIGTERM",
  "SIGHUP",
  "SIGUSR1",
  "SIGUSR2",
  "SIGCONT",
  "SIGALRM",
  "SIGIO",
  "SIGABRT",
  "SIGTRAP",
  "SIGSYS",
  "SIGURG",
  "SIGXCPU",
  "SIGVTALRM",
  "SIGPROF",
] as const;
/** The terminal itself sends these to its whole foreground group. */
const FROM_TERMINAL = ["SIGINT", "SIGQUIT", "SIGWINCH"] as const;
type Forwarded = (typeof FORWARDED)[number] | (typeof FROM_TERMINAL)[number];

/**
 * Starts the target through vgpu-exec with everything the launcher had: descriptors, ignored signals,
 * limits, the raw environment with `changes`. Forwards signals until disposed of.
 */
export function launch(
  { exec, sender }: Pick<Shim, "exec" | "sender">,
  words: string[],
  changes: Changes,
): Target {
  const launcher = readLauncher();
  const forwarding = forwardSignals(launcher, sender, (signal) => child.kill(signal));
  const child = Bun.spawn([exec, ...execArguments(words, changes, launcher)], {
    stdio: stdio(launcher),
    env: {},
    onExit: (_, status, signal) => finish(readEnding(status, signal as string | number | null)),
  });
  let finish!: (ending: Ending) => void;
  const ended = new Promise<Ending>((resolve) => (finish = resolve));
  return { pid: child.pid, ended, [Symbol.dispose]: forwarding };
}

/** Ends vgpu as the target ended: of the same signal, so that a shell's loop stops at Ctrl-C. As PID 1 no signal kills us, hence 128+n. */
export function endAs(ending: Ending): number {
  if ("status" in ending) {
    // Bun's own exit takes longer, and would undo what the target did to the terminal (stty -echo).
    exitNow(ending.status);
  }
  raiseDefault(ending.signal);
  return 128 + ending.signal;
}

function execArguments(words: string[], changes: Changes, launcher: Launcher | null): string[] {
  const own = ["--parent", `${process.pid}`];
  if (launcher !== null) {
    own.push("--nofile", launcher.nofile, "--keep", launcher.descriptors.join("."));
    own.push("--sigign", launcher.ignored.toString(16), "--sigblk", launcher.blocked.toString(16));
  }
  for (const flag of ["set", "prefix", "suffix"] as const) {
    for (const [name, value] of Object.entries(changes[flag] ?? {}))
      own.push(`--${flag}`, `${name}=${value}`);
  }
  for (const name of changes.unset ?? []) own.push("--unset", name);
  return isOwnTail(words) ? [...own, "--words", `${words.length}`] : [...own, "--argv", ...words];
}

/** True if the words are the end of our own command line, whose raw bytes vgpu-exec can then take over. */
function isOwnTail(words: string[]): boolean {
  const tail = process.argv.slice(-words.length);
  return tail.length === words.length && words.every((word, i) => word === tail[i]);
}

/** 0, 1 and 2, then the launcher's other descriptors one after another: vgpu-exec moves them to their numbers. */
function stdio(launcher: Launcher | null): ["inherit", "inherit", "inherit", ...number[]] {
  const others = (launcher?.descriptors ?? []).filter((fd) => fd > 2);
  return ["inherit", "inherit", "inherit", ...others];
}

/**
 * Signals that the caller ignores stay ignored. What a terminal sends reaches the target without us; the same
 * signal from a process may have been meant for us alone, and goes on to the target. Returns what takes the handlers away.
 */
function forwardSignals(
  launcher: Launcher | null,
  sender: string,
  send: (signal: Forwarded) => void,
): () => void {
  const installed: [Forwarded, () => void][] = [];
  const forward = (signal: Forwarded, handler: () => void) => {
    if (isIgnored(launcher, SIGNALS[signal])) return;
    process.on(signal, handler);
    installed.push([signal, handler]);
  };
  const numbers = FROM_TERMINAL.map((signal) => SIGNALS[signal]);
  let take: (signal: number) => number = () => 1;
  for (const signal of FORWARDED) forward(signal, () => send(signal));
  for (const signal of FROM_TERMINAL)
    forward(signal, () => {
      if (take(SIGNALS[signal]) > 0) send(signal);
    });
  if (hasTerminal()) take = watchSenders(sender, numbers);
  return () => {
    for (const [signal, handler] of installed) process.off(signal, handler);
  };
}

/** Bun names common signals and gives the number of real-time ones. */
function readEnding(status: number | null, signal: string | number | null): Ending {
  if (status !== null) return { status };
  if (typeof signal === "number") return { signal };
  return { signal: SIGNALS[signal as keyof typeof SIGNALS] ?? SIGNALS.SIGKILL };
}
