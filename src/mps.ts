import { header } from "./layout.gen.ts";
import { lastError, makeDirectory, readText, removeFile, userId } from "./libc.ts";
import { readProcess } from "./process.ts";
import { readSessions, readStrangers } from "./region.ts";
import { explain, lockStateDirectory } from "./state-directory.ts";

/** The daemon's own name, in its pid file and in /proc/PID/comm (15 letters). */
const CONTROL = "nvidia-cuda-mps-control";
const DEFAULT_PIPES = "/tmp/nvidia-mps";
const START_MS = 10_000;
const QUIT_MS = 5_000;

/** What a session has of MPS: variables for its target, and a line for the user. */
export interface Mps {
  set: Record<string, string>;
  note: string;
  isThere: boolean;
  /** Our own daemon, which lives as long as sessions that use it. */
  isOurs: boolean;
}

/** Where our own daemon lives; `control` is the program to start and to ask. */
export interface MpsHome {
  directory: string;
  control: string;
  /** In the directory; the daemon writes it. */
  pidFile: string;
}

const SHARED_FAULTS =
  "sessions under one MPS server share its faults: a fatal one (an illegal address) ends all of them";

/**
 * Makes sure that the target will find an MPS server when it initialises CUDA, which is the only time it
 * looks: the user's own where there is one, else ours, started without CUDA_VISIBLE_DEVICES (which would hide
 * cards from later sessions). `configured`: the target's CUDA_MPS_PIPE_DIRECTORY.
 * Never throws: without a server sessions work too, one after another.
 * Call it under the lock of the state directory.
 */
export function provideMps(home: MpsHome, isSpatial: boolean, configured: string | undefined): Mps {
  const isForeign = configured ? configured !== home.directory : findDaemon(DEFAULT_PIPES) !== null;
  if (isForeign) return { set: {}, note: SHARED_FAULTS, isThere: true, isOurs: false };
  const failure = findDaemon(home.directory) === null ? start(home) : null;
  if (failure === null)
    return { set: environmentOf(home), note: SHARED_FAULTS, isThere: true, isOurs: true };
  const instead = isSpatial
    ? "sessions on one card take turns on it, each on its own SMs"
    : "turns stay as they are without one";
  return {
    set: {},
    note: `no MPS server (${failure}): ${instead}`,
    isThere: false,
    isOurs: false,
  };
}

/** Ends our daemon if no session is left that uses it, however they ended. */
export async function reapMps(
  home: MpsHome,
  directory: string,
  boardDirectory: string,
): Promise<void> {
  if (findDaemon(home.directory) === null) return;
  using lock = await lockStateDirectory(directory);
  if (lock === null) return; // whoever starts so long will see to it at its end
  const isUsed = readSessions(directory).some(
    ({ view, boardDirectory: board }) =>
      board === boardDirectory && view.getUint32(header.mps, true) !== 0,
  );
  // What a session of another version uses is not known.
  if (!isUsed && readStrangers(directory, boardDirectory).length === 0) endMps(home);
}

/** Under the lock: who starts a session now would count on it. */
function endMps(home: MpsHome): void {
  const pid = findDaemon(home.directory);
  if (pid === null) return;
  ask(home, "quit");
  for (let waitedMs = 0; isDaemon(pid) && waitedMs < QUIT_MS; waitedMs += 5) Bun.sleepSync(5);
  // Ours alone: its pid comes from a file in our own directory, and its name has been checked.
  if (isDaemon(pid)) process.kill(pid, "SIGKILL");
  removeFile(home.pidFile);
}

/** The live daemon of a pipe directory, if it serves us: its pid file is left behind by a kill, so the process is looked at too. */
export function findDaemon(directory: string): number | null {
  const pid = Number(readText(`${directory}/${CONTROL}.pid`)?.trim());
  return pid > 0 && isDaemon(pid) ? pid : null;
}

/** A zombie is none any more, and another user's is none for us; root's serves everybody. */
function isDaemon(pid: number): boolean {
  const name = readText(`/proc/${pid}/comm`)?.trim();
  if (name !== CONTROL.slice(0, 15) || readProcess(pid)?.state === "Z") return false;
  const user = readText(`/proc/${pid}/status`)?.match(/^Uid:\t\d+\t(\d+)/m)?.[1]; // the effective one
  return user !== undefined && [0, userId()].includes(Number(user));
}

const environmentOf = ({ directory }: MpsHome) => ({
  CUDA_MPS_PIPE_DIRECTORY: directory,
  CUDA_MPS_LOG_DIRECTORY: directory,
});

/** Null: it runs and answers; else what is wrong. */
function start(home: MpsHome): string | null {
  const { CUDA_VISIBLE_DEVICES: _, ...environment } = process.env;
  if (Bun.which(home.control) === null) return `${CONTROL} is not installed`;
  if (!makeDirectory(home.directory) && lastError() !== "EEXIST")
    return explain(home.directory, lastError()).message;
  const { exitCode, stderr } = Bun.spawnSync([home.control, "-d"], {
    env: { ...environment, ...environmentOf(home) },
    cwd: "/",
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
    timeout: START_MS,
  });
  const said = stderr.toString().trim().split("\n")[0];
  if (exitCode !== 0) return said || `${CONTROL} -d ended with ${exitCode}`;
  const answer = ask(home, "get_default_active_thread_percentage");
  return answer === null ? `${CONTROL} does not answer` : null;
}

/** Sends one command; null if there is no answer. */
function ask(home: MpsHome, command: string): string | null {
  const { exitCode, stdout } = Bun.spawnSync([home.control], {
    env: { ...process.env, ...environmentOf(home) },
    stdin: Buffer.from(`${command}\n`),
    stdout: "pipe",
    stderr: "ignore",
    timeout: QUIT_MS,
  });
  return exitCode === 0 ? stdout.toString() : null;
}
