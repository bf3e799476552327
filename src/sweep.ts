import * as layout from "./layout.gen.ts";
import { closeFile, listDirectory, OPEN, openFile, readHead, removeFile, tryLock } from "./libc.ts";
import { isPresent, lastPid, listProcesses, readProcess, someCarryVariable } from "./process.ts";
import { type Region, slotOffset } from "./region.ts";

/** Removes what dead sessions left in the state directory. Costs one directory read when there is nothing. */
export function sweep(directory: string): void {
  const names = listDirectory(directory) ?? [];
  for (const name of names) {
    const path = `${directory}/${name}`;
    const unfinished = name.match(/\.(\d+)\.new$/);
    if (unfinished !== null) {
      if (readProcess(Number(unfinished[1])) === null) removeFile(path);
    } else if (name.endsWith(".bell")) {
      if (!hasRegion(directory, name)) removeFile(path);
    } else if (name.startsWith("board-")) {
      removeUnusedBoard(path);
    } else if (/^[0-9a-z]{6}$/.test(name) && !isInUse(path)) {
      removeFile(`${path}.bell`);
      removeFile(path);
    }
  }
}

/** Each process that maps a board holds a shared lock on it, and looks after locking whether it is still there. */
function removeUnusedBoard(path: string): void {
  const fd = openFile(path, OPEN.readWrite);
  if (fd < 0) return;
  if (tryLock(fd, "exclusive")) removeFile(path);
  closeFile(fd);
}

/** A session may have been made since the directory was read; its file is there before its fifo. */
function hasRegion(directory: string, bell: string): boolean {
  return listDirectory(directory)?.includes(bell.slice(0, -".bell".length)) ?? false;
}

/** True while its supervisor lives, a process has joined it (each holds a shared lock), or one could still join: also by way of a session inside it. */
function isInUse(path: string): boolean {
  return isInUseItself(path) || listInner(path).some(isInUse);
}

/** The regions of the sessions inside this one. */
function listInner(path: string): string[] {
  const directory = path.slice(0, path.lastIndexOf("/"));
  const names = (listDirectory(directory) ?? []).filter((name) => /^[0-9a-z]{6}$/.test(name));
  return names
    .map((name) => `${directory}/${name}`)
    .filter((other) => {
      const bytes = other === path ? null : readHead(other, layout.header.bytes);
      const at = layout.header.outer;
      const word = bytes?.subarray(at, at + layout.OUTER_BYTES) ?? new Uint8Array(1);
      return Buffer.from(word.subarray(0, Math.max(0, word.indexOf(0)))).toString() === path;
    });
}

function isInUseItself(path: string): boolean {
  const fd = openFile(path, OPEN.readWrite);
  if (fd < 0) return false; // gone already
  try {
    const bytes = readHead(path, layout.header.bytes);
    if (bytes !== null && bytes.length >= layout.header.bytes) {
      const header = new DataView(bytes.buffer);
      const pid = header.getUint32(layout.header.supervisor_pid, true);
      const startTime = header.getBigUint64(layout.header.supervisor_start, true);
      if (pid !== 0 && isPresent(pid, startTime)) return true;
    }
    return (
      !tryLock(fd, "exclusive") ||
      someCarryVariable(listProcesses().filter(isOther), `VGPU_REGION=${path}`)
    );
  } finally {
    closeFile(fd);
  }
}

const isOther = (pid: number) => pid !== process.pid;

/**
 * True if processes of the session outlive its target: they hold a slot, or carry VGPU_REGION and could
 * still claim one. `target` and the clock bound the search: a session of less than a second can only
 * have children with pids after its target's.
 */
export function hasMembers(region: Region, target: number, sessionMs: number): boolean {
  const used = region.load32(layout.header.slots_used);
  for (let slot = 0; slot < used; slot++) {
    const at = slotOffset(slot);
    const owner = region.load64(at + layout.slot.owner);
    if (Number(owner & 0xffn) === layout.SLOT.FREE) continue;
    const pid = Number(owner >> 32n);
    if (pid !== target && isPresent(pid, region.load64(at + layout.slot.start_time))) return true;
  }
  if (listInner(region.path).some(isInUse)) return true;
  const last = lastPid();
  const isShort = sessionMs < 1000 && last >= target;
  if (isShort && last === target) return false;
  const candidates =
    isShort && last - target <= FEW
      ? Array.from({ length: last - target }, (_, index) => target + 1 + index)
      : listProcesses().filter((pid) => !isShort || pid > target);
  return someCarryVariable(candidates.filter(isOther), `VGPU_REGION=${region.path}`);
}

/** So many pids are asked for one by one sooner than all processes are listed. Threads among them answer as well. */
const FEW = 50;
