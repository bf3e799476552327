import { quote, VgpuError } from "./errors.ts";
import { header } from "./layout.gen.ts";
import { isDirectory, readState } from "./libc.ts";
import type { Simulation } from "./simulation.ts";

const ROOM = header.mps - header.board_dir - 1;

/**
 * Where the sessions of this user meet, a file a GPU (shim/board.h): VGPU_BOARD, or beside the state of simulated
 * cards, which all have the same UUIDs. Null: the state directory. Throws VgpuError for a directory that cannot serve.
 */
export function findBoardDirectory(simulation: Simulation | null): string | null {
  const named = process.env["VGPU_BOARD"];
  const directory = named || simulation?.directory;
  if (!directory) return null;
  const state = readState(directory);
  if (named && (!named.startsWith("/") || state === null || !isDirectory(state))) {
    throw new VgpuError(`VGPU_BOARD=${quote(named)} is not a directory`, {
      hint: "give the full path of an existing directory",
    });
  }
  if (Buffer.byteLength(directory) > ROOM) {
    throw new VgpuError(`the board directory ${quote(directory)} has too long a path`, {
      hint: `at most ${ROOM} bytes`,
    });
  }
  return directory;
}
