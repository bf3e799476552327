import { dlopen, FFIType, type Pointer, read } from "bun:ffi";

const { i32, u32, i64, ptr, void: nothing } = FFIType;

/** libc through bun:ffi: what node's modules do not offer, and files, because node:fs alone costs 2 ms of each start. */
const { symbols: libc } = dlopen("libc.so.6", {
  __errno_location: { args: [], returns: ptr },
  clock_gettime: { args: [i32, ptr], returns: i32 },
  isatty: { args: [i32], returns: i32 },
  open: { args: [ptr, i32, u32], returns: i32 },
  read: { args: [i32, ptr, i64], returns: i64 },
  write: { args: [i32, ptr, i64], returns: i64 },
  close: { args: [i32], returns: i32 },
  statx: { args: [i32, ptr, i32, u32, ptr], returns: i32 },
  getdents64: { args: [i32, ptr, i64], returns: i64 },
  access: { args: [ptr, i32], returns: i32 },
  statvfs: { args: [ptr, ptr], returns: i32 },
  mkdir: { args: [ptr, u32], returns: i32 },
  rename: { args: [ptr, ptr], returns: i32 },
  unlink: { args: [ptr], returns: i32 },
  mkfifo: { args: [ptr, u32], returns: i32 },
  flock: { args: [i32, i32], returns: i32 },
  posix_fallocate: { args: [i32, i64, i64], returns: i32 },
  getuid: { args: [], returns: u32 },
  _exit: { args: [i32], returns: nothing },
});

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const STATX_BASIC = 0x7ff;
const LOCK = { shared: 1, exclusive: 2, noWait: 4 } as const;
export const OPEN = {
  readOnly: 0,
  readWrite: 2,
  create: 0o100,
  exclusive: 0o200,
  closeOnExec: 0o2000000,
} as const;

const text = (value: string) => Buffer.from(`${value}\0`);

/** The name of the last failed call's error, as node would give it. Ask at once. */
export function lastError(): string {
  return errorName(read.i32(libc.__errno_location()! as Pointer, 0));
}

export function errorName(number: number): string {
  const names: Record<number, string> = {
    1: "EPERM",
    2: "ENOENT",
    4: "EINTR",
    5: "EIO",
    9: "EBADF",
    11: "EAGAIN",
    12: "ENOSPC",
    13: "EACCES",
    17: "EEXIST",
    27: "EFBIG",
    28: "ENOSPC",
    30: "EROFS",
    32: "EPIPE",
    122: "EDQUOT",
  };
  return names[number] ?? `errno ${number}`;
}

function readClock(clock: number): bigint {
  const time = new BigInt64Array(2);
  libc.clock_gettime(clock, time);
  return time[0]! * 1_000_000_000n + time[1]!;
}

/** CLOCK_REALTIME in ns. */
export const wallNs = (): bigint => readClock(0);

/** CLOCK_MONOTONIC in ns, comparable with the shim's; process.hrtime is not: it starts with Bun. */
export const monotonicNs = (): bigint => readClock(1);

/** node:tty would do, and costs 5 ms. */
export const isTerminal = (fd: number): boolean => libc.isatty(fd) === 1;

export const userId = (): number => libc.getuid();

/** What lstat shows of a file. */
export interface FileState {
  mode: number;
  uid: number;
  size: number;
  links: number;
}

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
export const isDirectory = ({ mode }: FileState): boolean => (mode & S_IFMT) === S_IFDIR;

const stateBytes = new Uint8Array(256);
const stateRoom = new DataView(stateBytes.buffer);
const stateWords = new BigInt64Array(stateBytes.buffer);

/** Returns null if there is no such file. */
export function readState(path: string, { followLinks = true } = {}): FileState | null {
  const flags = followLinks ? 0 : AT_SYMLINK_NOFOLLOW;
  if (libc.statx(AT_FDCWD, text(path), flags, STATX_BASIC, stateBytes) !== 0) return null;
  return {
    links: stateRoom.getUint32(16, true),
    uid: stateRoom.getUint32(20, true),
    mode: stateRoom.getUint16(28, true),
    size: Number(stateRoom.getBigUint64(40, true)),
  };
}

/** ctime (which any edit changes and nobody can set), its ns, size and inode of each file; zeros where there is none. */
export function readChanges(paths: string[]): BigInt64Array {
  const changes = new BigInt64Array(paths.length * 4);
  const names = text(paths.join("\0"));
  let at = 0;
  for (let index = 0; index < changes.length; index += 4) {
    if (libc.statx(AT_FDCWD, names.subarray(at), 0, STATX_BASIC, stateBytes) === 0) {
      changes[index] = stateWords[12]!;
      changes[index + 1] = stateWords[13]!;
      changes[index + 2] = stateWords[5]!;
      changes[index + 3] = stateWords[4]!;
    }
    at = names.indexOf(0, at) + 1;
  }
  return changes;
}

/** Returns a descriptor, -1 if it failed. */
export const openFile = (path: string, flags: number, mode = 0): number =>
  libc.open(text(path), flags | OPEN.closeOnExec, mode);

export const closeFile = (fd: number): void => void libc.close(fd);

let room = new Uint8Array(64 * 1024);

/** The first bytes of a file, or null if it cannot be read. */
export function readHead(path: string, bytes: number): Uint8Array | null {
  const fd = openFile(path, OPEN.readOnly);
  if (fd < 0) return null;
  const got = Number(libc.read(fd, room, Math.min(bytes, room.length)));
  libc.close(fd);
  return got < 0 ? null : room.slice(0, got);
}

/** A whole file, or null if it cannot be read. For /proc and small files. */
export function readBytes(path: string): Uint8Array | null {
  const fd = openFile(path, OPEN.readOnly);
  if (fd < 0) return null;
  let length = 0;
  for (;;) {
    const got = Number(libc.read(fd, room.subarray(length), room.length - length));
    if (got <= 0) break;
    length += got;
    if (length < room.length) continue;
    const larger = new Uint8Array(room.length * 2);
    larger.set(room);
    room = larger;
  }
  libc.close(fd);
  return room.slice(0, length);
}

/** As readBytes, one character a byte. */
export const readText = (path: string): string | null => {
  const bytes = readBytes(path);
  return bytes === null ? null : Buffer.from(bytes).toString("latin1");
};

/** Names in a directory, without "." and "..", or null if it cannot be read. */
export function listDirectory(path: string): string[] | null {
  const fd = openFile(path, OPEN.readOnly);
  if (fd < 0) return null;
  const names: string[] = [];
  const view = new DataView(room.buffer);
  for (
    let got = Number(libc.getdents64(fd, room, room.length));
    got > 0;
    got = Number(libc.getdents64(fd, room, room.length))
  ) {
    for (let at = 0; at < got; at += view.getUint16(at + 16, true)) {
      const name = room.subarray(at + 19, room.indexOf(0, at + 19));
      names.push(Buffer.from(name).toString());
    }
  }
  libc.close(fd);
  return names.filter((name) => name !== "." && name !== "..");
}

const WRITE_AND_SEARCH = 3;
/** True if files can be made there. */
export const isAccessible = (directory: string): boolean =>
  libc.access(text(directory), WRITE_AND_SEARCH) === 0;

const NOEXEC = 8n;
/** True if there is room for so many bytes, and programs that lie there may be run. */
export function takesPrograms(directory: string, bytes: number): boolean {
  const words = new BigUint64Array(16); // struct statvfs: f_frsize, f_bavail, f_flag are words 1, 4, 9
  if (libc.statvfs(text(directory), words) !== 0) return false;
  const isAllowed = (words[9]! & NOEXEC) === 0n;
  return isAllowed && words[1]! * words[4]! >= BigInt(bytes);
}

/** The following return true if they did it; `lastError` says why not. */
export const makeDirectory = (path: string): boolean => libc.mkdir(text(path), 0o700) === 0;
export const makeFifo = (path: string): boolean => libc.mkfifo(text(path), 0o600) === 0;
export const rename = (from: string, to: string): boolean =>
  libc.rename(text(from), text(to)) === 0;
export const removeFile = (path: string): boolean => libc.unlink(text(path)) === 0;

/** Takes a lock on an open file without waiting. Returns false if someone else's lock forbids it. */
export function tryLock(fd: number, kind: "shared" | "exclusive"): boolean {
  return libc.flock(fd, LOCK[kind] | LOCK.noWait) === 0;
}

/** Gives the file real memory, so that a full /dev/shm is an error here and no SIGBUS later. Returns null, or the error's name. */
export function reserve(fd: number, bytes: number): string | null {
  const number = libc.posix_fallocate(fd, 0, bytes);
  return number === 0 ? null : errorName(number);
}

/** Ends the process at once. Bun's own exit would put the terminal's modes back as it found them. */
export function exitNow(status: number): never {
  libc._exit(status);
  throw new Error("_exit came back");
}

const WRITE_STEP_MS = 1;

/** Writes all of it, however long the reader takes. Returns null, or the error's name. */
export function writeAll(fd: number, value: string): string | null {
  let rest = Buffer.from(value);
  while (rest.length > 0) {
    const written = Number(libc.write(fd, rest, rest.length));
    const error = written < 0 ? lastError() : null;
    if (error === "EAGAIN") Bun.sleepSync(WRITE_STEP_MS);
    else if (error !== null && error !== "EINTR") return error;
    rest = rest.subarray(Math.max(0, written));
  }
  return null;
}
