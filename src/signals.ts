import { dlopen, FFIType } from "bun:ffi";

const { i32, i64, ptr } = FFIType;

/** The part of libc that only signals need: most sessions see none. */
const open = () =>
  dlopen("libc.so.6", {
    signal: { args: [i32, i64], returns: i64 },
    kill: { args: [i32, i32], returns: i32 },
    setrlimit: { args: [i32, ptr], returns: i32 },
  }).symbols;

const RLIMIT_CORE = 4;

/** Linux's numbers, the same on x86-64 and aarch64; node:os has them too, and costs half a millisecond. */
export const SIGNALS = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGSTKFLT: 16,
  SIGCHLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGURG: 23,
  SIGXCPU: 24,
  SIGXFSZ: 25,
  SIGVTALRM: 26,
  SIGPROF: 27,
  SIGWINCH: 28,
  SIGIO: 29,
  SIGPWR: 30,
  SIGSYS: 31,
} as const;

/** "SIGKILL" for 9; real-time signals by their number. */
export function nameSignal(number: number): string {
  return Object.entries(SIGNALS).find(([, value]) => value === number)?.[0] ?? `SIG${number}`;
}

/**
 * Sees who sends signals that have handlers already. Returns how many of one processes have sent since it was
 * last asked: what is not among them came from the terminal, which sends to our whole group itself. `library` is
 * shim/supervisor/sender.c.
 */
export function watchSenders(library: string, signals: number[]): (signal: number) => number {
  const { symbols } = dlopen(library, {
    vgpu_sender_watch: { args: [i32], returns: i32 },
    vgpu_sender_take: { args: [i32], returns: i32 },
  });
  for (const signal of signals) symbols.vgpu_sender_watch(signal);
  return symbols.vgpu_sender_take;
}

/** Dies of a signal's default action, without a core of our own; returns if the kernel lets us live (PID 1). */
export function raiseDefault(signal: number): void {
  const libc = open();
  libc.setrlimit(RLIMIT_CORE, new BigUint64Array(2));
  libc.signal(signal, 0);
  libc.kill(process.pid, signal);
}
