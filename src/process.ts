import { listDirectory, readState, readText } from "./libc.ts";

/** A process as /proc/PID/stat shows it. */
export interface ProcessState {
  /** Field 22, clock ticks since boot: with the pid it names a process for good. */
  startTime: bigint;
  parent: number;
  /** One letter: R S D T t Z X … */
  state: string;
  /** It will never run user code again (PF_EXITING). */
  isExiting: boolean;
  isKernel: boolean;
}

const PF_EXITING = 0x4;
const PF_KTHREAD = 0x20_0000;

/** Returns null if there is no such process. */
export function readProcess(pid: number): ProcessState | null {
  const text = readText(`/proc/${pid}/stat`);
  if (!text) return null;
  // The name is in parentheses and may hold ") Z"; the last one ends it.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const field = (number: number) => fields[number - 3] ?? "0";
  return {
    state: field(3),
    parent: Number(field(4)),
    isExiting: (Number(field(9)) & PF_EXITING) !== 0,
    isKernel: (Number(field(9)) & PF_KTHREAD) !== 0,
    startTime: BigInt(field(22)),
  };
}

/** True while something of the process may still run or hold memory. Mirrors vgpu_slot_life in shim/slot.c. */
export function isPresent(pid: number, startTime: bigint): boolean {
  const found = readProcess(pid);
  if (found === null || (startTime !== 0n && found.startTime !== startTime)) return false;
  if (found.state !== "Z" && found.state !== "X") return true;
  // Its threads and two: reading the entries would end early when one goes meanwhile.
  return (readState(`/proc/${pid}/task`)?.links ?? 0) > 2 + 1;
}

/** Whether the process was started with this entry (`NAME=VALUE`) in its environment. */
export const carriesVariable = (pid: number, entry: string): boolean =>
  findVariable(pid, entry) === true;

/** The value that the process was started with; undefined also for another user's. */
export function readVariable(pid: number, name: string): string | undefined {
  const entries = (readText(`/proc/${pid}/environ`) ?? "").split("\0");
  return entries.find((entry) => entry.startsWith(`${name}=`))?.slice(name.length + 1);
}

/** Whether the process was started with this variable, whatever its value. False for another user's. */
export const hasVariable = (pid: number, name: string): boolean =>
  readVariable(pid, name) !== undefined;

/** Whether any of these processes was started with this entry, those too that are in the middle of an exec: their environment reads as empty for some µs. */
export function someCarryVariable(pids: number[], entry: string): boolean {
  const unclear: number[] = [];
  for (const pid of pids) {
    const found = findVariable(pid, entry);
    if (found) return true;
    if (found === null) unclear.push(pid);
  }
  if (unclear.length === 0) return false;
  Bun.sleepSync(EXEC_MS);
  return unclear.some((pid) => carriesVariable(pid, entry));
}

const EXEC_MS = 3;

/** Null where the environment is empty, which a kernel thread's is as well. */
function findVariable(pid: number, entry: string): boolean | null {
  const text = readText(`/proc/${pid}/environ`);
  if (text === null) return false;
  if (text === "") return readProcess(pid)?.isKernel === false ? null : false;
  return text.startsWith(`${entry}\0`) || text.includes(`\0${entry}\0`);
}

/** Whether we have a controlling terminal, wherever our descriptors lead: it can send us signals. */
export function hasTerminal(): boolean {
  const text = readText("/proc/self/stat") ?? "";
  return text.slice(text.lastIndexOf(")") + 2).split(" ")[7 - 3] !== "0";
}

/** All pids. */
export const listProcesses = (): number[] => listNumbers("/proc");

/** The pid that was given out last, to processes and threads alike. */
export function lastPid(): number {
  return Number(readText("/proc/loadavg")?.trim().split(" ").at(-1) ?? 0);
}

function listNumbers(directory: string): number[] {
  return (listDirectory(directory) ?? []).map(Number).filter(Number.isInteger);
}
