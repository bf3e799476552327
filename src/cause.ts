import type { Event } from "./ring.ts";
import { readText } from "./libc.ts";
import { nameSignal } from "./signals.ts";

const EXIT_CODE = 52; // fields of /proc/PID/stat, proc(5)
const START_TIME = 22;
const SIGNAL_MASK = 0x7f;

/**
 * How a process ended, as far as its zombie still tells: null for one that runs, or of which nothing is
 * left. The kernel shows the code to the same user only.
 */
export function readCause(pid: number, startTime: bigint): Event["values"] | null {
  const text = readText(`/proc/${pid}/stat`);
  if (!text) return null;
  const fields = text
    .slice(text.lastIndexOf(")") + 2)
    .trimEnd()
    .split(" ");
  const field = (number: number) => fields[number - 3] ?? "0";
  if (field(3) !== "Z" || BigInt(field(START_TIME)) !== startTime) return null;
  const code = Number(field(EXIT_CODE));
  const signal = code & SIGNAL_MASK;
  if (signal !== 0) return { cause: "killed", signal: nameSignal(signal) };
  return { cause: "exit", status: (code >> 8) & 0xff };
}
