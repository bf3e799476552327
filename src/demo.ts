import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VgpuError } from "./errors.ts";
import { hasDriver } from "./driver.ts";
import type { Plan } from "./limits.ts";
import { holdSession } from "./session.ts";
import { SIMULATED_CARDS } from "./setting.ts";
import { findDemo } from "./shim.ts";
import { UNASKED } from "./time-mode.ts";
import { findSimulation, type Simulation } from "./simulation.ts";
import type { Sink } from "./sink.ts";
import type { Summary } from "./report/summary.ts";

const GIB = 1024 ** 3;
export const DEMO_LIMITS = { memBytes: 4 * GIB, sharePercent: 25 };
const NATIVE_SECONDS = 3;
const LIMITED_SECONDS = 6;
/** Asked for in the memory phase: more than the limit, less than any card that this is for. */
const MOST_BYTES = 8 * GIB;
const [SIMULATED_CARD] = SIMULATED_CARDS;
/** The simulated card cannot know how long a kernel takes; the real one is calibrated to the same. */
const SIMULATED_WORK = { VGPU_SIM_KERNELS: "vgpu_demo_spin=500" };

/** What the demo's program wrote. */
interface Report {
  had_bytes: number;
  /** The driver's code for the first allocation that failed, 0 if none did. */
  refusal: number;
  iterations: number;
  units_per_second: number;
}

/** Tells of the demo's steps as they happen. */
export interface DemoTeller {
  card(name: string): void;
  /** Without limits; the rate when it is known. */
  native(unitsPerSecond?: number): void;
  limited(unitsPerSecond?: number): void;
  event: Sink;
  result(result: DemoResult): void | Promise<void>;
}

/** The card that the demo runs on: a real one if it works, else a simulated one. */
interface DemoCard {
  name: string;
  program: string;
  simulation: Simulation | null;
}

export interface DemoResult {
  card: string;
  isSimulated: boolean;
  native: Report;
  limited: Report;
  /** What the limited run did of the native one's rate, percent. */
  realisedPercent: number;
  session: Summary;
}

/** Runs the same program without and with limits on the same card. Throws VgpuError if that cannot be. */
export async function runDemo(teller: DemoTeller): Promise<void> {
  const card = await findDemoCard();
  teller.card(card.name);
  teller.native();
  const native = await runNative(card);
  teller.native(native.units_per_second);
  teller.limited();
  const { report: limited, session } = await runLimited(card, native.iterations, teller.event);
  teller.limited(limited.units_per_second);
  const realisedPercent = (limited.units_per_second / native.units_per_second) * 100;
  await teller.result({
    card: card.name,
    isSimulated: card.simulation !== null,
    native,
    limited,
    realisedPercent,
    session,
  });
}

/** Finds the card and builds what the demo needs. Throws VgpuError without a compiler. */
async function findDemoCard(): Promise<DemoCard> {
  const program = await findDemo();
  const real = hasDriver() ? Bun.spawnSync([program, "check"], { env: process.env }) : null;
  if (real?.exitCode === 0)
    return { name: real.stdout.toString().trim(), program, simulation: null };
  const simulation = await findSimulation(SIMULATED_CARD);
  const simulated = Bun.spawnSync([program, "check"], { env: environment(simulation) });
  if (simulated.exitCode !== 0)
    throw new VgpuError("the simulated GPU does not start", { hint: simulated.stderr.toString() });
  return { name: simulated.stdout.toString().trim(), program, simulation };
}

/** The program's speed with nothing of ours around it. */
async function runNative(card: DemoCard): Promise<Report> {
  using folder = new Folder();
  const command = [card.program, folder.report, `${NATIVE_SECONDS}`, "0", "0"];
  const child = Bun.spawn(command, {
    env: environment(card.simulation),
    stdio: ["ignore", "inherit", "inherit"],
  });
  if ((await child.exited) !== 0) throw new VgpuError("the demo's program failed without limits");
  return folder.read();
}

/** The same program, the same work, in a session; events go to the sink as they come. */
async function runLimited(
  card: DemoCard,
  iterations: number,
  sink: Sink,
): Promise<{ report: Report; session: Summary }> {
  using folder = new Folder();
  const words = [
    card.program,
    folder.report,
    `${LIMITED_SECONDS}`,
    `${MOST_BYTES}`,
    `${iterations}`,
  ];
  const plan: Plan = {
    limits: {
      all: { memBytes: { bytes: DEMO_LIMITS.memBytes }, sharePercent: DEMO_LIMITS.sharePercent },
      gpus: new Map(),
    },
    time: UNASKED,
    gpu: null,
    sim: card.simulation === null ? null : SIMULATED_CARD,
    requireGpu: false,
    dryRun: false,
    events: { format: "none", file: null },
    report: { json: false, quiet: true, verbose: 0 },
    env: card.simulation === null ? {} : SIMULATED_WORK,
    target: { words },
    sources: {},
    notes: [],
  };
  const session = await holdSession(plan, { open: () => [sink], wantsAll: true });
  if (!("status" in session.ending) || session.ending.status !== 0)
    throw new VgpuError("the demo's program failed under limits");
  return { report: folder.read(), session };
}

function environment(simulation: Simulation | null) {
  return {
    ...process.env,
    ...(simulation && { ...SIMULATED_WORK, ...simulation.set, ...simulation.probe }),
  };
}

/** Where the program leaves its report. */
class Folder implements Disposable {
  readonly #path = mkdtempSync(join(tmpdir(), "vgpu-demo-"));

  get report(): string {
    return join(this.#path, "report.json");
  }

  read(): Report {
    return JSON.parse(readFileSync(this.report, "utf8")) as Report;
  }

  [Symbol.dispose](): void {
    rmSync(this.#path, { recursive: true, force: true });
  }
}
