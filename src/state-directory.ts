import { VgpuError } from "./errors.ts";
import {
  closeFile,
  isDirectory,
  lastError,
  makeDirectory,
  OPEN,
  openFile,
  readState,
  tryLock,
  userId,
} from "./libc.ts";

/** Where sessions live, whatever XDG_RUNTIME_DIR says: ssh, cron and sudo differ in it. */
export const stateDirectory = (): string => `/dev/shm/vgpu-${userId()}`;

/**
 * Makes the directory if needed and checks that it is ours alone: a symlink, another owner or open
 * permissions are refused. Returns its path; throws VgpuError.
 */
export function openStateDirectory(path = stateDirectory()): string {
  if (makeDirectory(path)) return path;
  const code = lastError();
  const found = readState(path, { followLinks: false });
  if (found === null) throw explain(path, code);
  if (!isDirectory(found)) {
    throw new VgpuError(`${path} is not a directory`, { hint: `remove it: rm ${path}` });
  }
  if (found.uid !== userId()) {
    throw new VgpuError(`${path} belongs to uid ${found.uid}`, {
      hint: "ask them or the administrator to remove it",
    });
  }
  if ((found.mode & 0o077) !== 0) {
    throw new VgpuError(`${path} is open to other users`, { hint: `close it: chmod 700 ${path}` });
  }
  return path;
}

const LOCK_PATIENCE_MS = 10_000;
const LOCK_STEP_MS = 2;

/** The directory for one alone, until it is disposed of or the process ends; null if another kept it for 10 s. */
export async function lockStateDirectory(path: string): Promise<Disposable | null> {
  const fd = openFile(path, OPEN.readOnly);
  for (let waitedMs = 0; waitedMs < LOCK_PATIENCE_MS; waitedMs += LOCK_STEP_MS) {
    if (tryLock(fd, "exclusive")) return { [Symbol.dispose]: () => closeFile(fd) };
    await Bun.sleep(LOCK_STEP_MS);
  }
  closeFile(fd);
  return null;
}

/** The one line for who must not go on without that lock. */
export const explainBusy = (path: string): VgpuError =>
  new VgpuError("another vgpu run has been starting for 10 s", {
    hint: `find it with: fuser -v ${path}`,
  });

/** The one line for a /dev/shm that is full, read-only or missing. */
export function explain(path: string, code: string): VgpuError {
  const reasons: Record<string, [string, string]> = {
    ENOSPC: [
      "/dev/shm is full",
      "a session needs 2 MiB: free some, or give the container more (docker run --shm-size=64m)",
    ],
    EROFS: [
      "/dev/shm is read-only",
      "vgpu keeps a session's shared state there: mount it writable",
    ],
    ENOENT: [
      "/dev/shm is missing",
      "vgpu keeps a session's shared state there: mount a tmpfs on it",
    ],
    EACCES: [
      "/dev/shm is not writable",
      "vgpu keeps a session's shared state there: chmod 1777 /dev/shm",
    ],
    EDQUOT: ["the quota on /dev/shm is used up", "remove some of your files there"],
  };
  const [message, hint] = reasons[code] ?? [
    `cannot write ${path}: ${code}`,
    "vgpu keeps a session's shared state there",
  ];
  return new VgpuError(message, { hint });
}
