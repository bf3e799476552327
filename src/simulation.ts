import { setForLibraries } from "./environment.ts";
import { quote, VgpuError } from "./errors.ts";
import { userId } from "./libc.ts";
import type { Source } from "./lister.ts";
import type { Nvml } from "./nvml.ts";

/** The simulated GPU's libraries, and what makes a process find them. */
export interface Simulation {
  /** Environment of the target. */
  set: Record<string, string>;
  prefix: Record<string, string>;
  /** The same for our own helpers, which get a whole environment. */
  probe: Record<string, string>;
  /** Keeps what is learnt about it apart from real cards. */
  domain: string;
  /** Where its cards' state lies: one machine of simulated cards, all with the same UUIDs. */
  directory: string;
  /** Its NVML, for the thread that watches it. */
  nvml: Source;
  openNvml(open: typeof Nvml.open): Nvml | null;
}

/** SIM_MAX_CARDS of shim/sim/sim.h. */
const MOST_CARDS = 16;

/** Builds the simulated driver on first use. Throws VgpuError for a number of cards that it cannot have. */
export async function findSimulation(card: string, isQuiet = false): Promise<Simulation> {
  checkCards(process.env["VGPU_SIM_GPUS"] ?? "");
  const { findSimulatedLibraries } = await import("./shim.ts");
  const directory = await findSimulatedLibraries(isQuiet);
  const set = { VGPU_SIM_CARD: card };
  const library = `${directory}/libnvidia-ml.so.1`;
  const rest = process.env["LD_LIBRARY_PATH"];
  return {
    set,
    prefix: { LD_LIBRARY_PATH: directory },
    probe: { LD_LIBRARY_PATH: rest ? `${directory}:${rest}` : directory },
    domain: `sim ${card}`,
    directory: process.env["VGPU_SIM_DIR"] || `/dev/shm/vgpu-sim-${userId()}`,
    nvml: { library, environment: set },
    openNvml(open) {
      setForLibraries(set);
      return open(library);
    },
  };
}

function checkCards(text: string): void {
  if (text === "" || (/^\d{1,3}$/.test(text) && Number(text) >= 1 && Number(text) <= MOST_CARDS))
    return;
  throw new VgpuError(
    `VGPU_SIM_GPUS: ${quote(text)} is not a number of cards from 1 to ${MOST_CARDS}`,
    { hint: "good forms: 1, 2" },
  );
}
