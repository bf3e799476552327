import type { Changes } from "./launch.ts";
import type { MpsUse } from "./spatial-mode.ts";

const PIPES = "CUDA_MPS_PIPE_DIRECTORY";
const LOGS = "CUDA_MPS_LOG_DIRECTORY";

/** Where the target would look for an MPS server; undefined: where everybody does. */
export const findPipes = ({ set }: Changes): string | undefined =>
  set?.[PIPES] ?? process.env[PIPES];

/**
 * True if the target has the pipes of our own daemon (in `directory`) from a session around this command, so that
 * it uses the daemon whatever its mode. `--mps off` takes them away: `changes` is added to.
 */
export function inheritsMps(use: MpsUse | undefined, directory: string, changes: Changes): boolean {
  if (findPipes(changes) !== directory) return false;
  if (use === "off") changes.unset = [...(changes.unset ?? []), PIPES, LOGS];
  return use !== "off";
}
