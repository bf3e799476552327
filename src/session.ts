import { findBoardDirectory } from "./board.ts";
import type { Probe } from "./context-table.ts";
import {
  type ContextCosts,
  findVisible,
  findVisibleOrAll,
  needsCards,
  noteTight,
  noteUnlimited,
  resolveContent,
  visibleDevices,
} from "./devices.ts";
import { hasDriver } from "./driver.ts";
import { VgpuError } from "./errors.ts";
import { type Changes, endAs, type Ending, launch, type Target } from "./launch.ts";
import { readLauncher } from "./launcher.ts";
import { header } from "./layout.gen.ts";
import { listDirectory, monotonicNs, readText } from "./libc.ts";
import type { Plan } from "./limits.ts";
import type { Place } from "./modes.ts";
import { inheritsMps } from "./mps-pipes.ts";
import type { Nvml } from "./nvml.ts";
import type { Outer } from "./outer.ts";
import { findObstacle } from "./reach.ts";
import { createRegion, type OwnRegion, type Region, type RegionContent } from "./region.ts";
import { say } from "./report/words.ts";
import type { Arrangement, CardPartition } from "./spatial.ts";
import { asksForSpatial } from "./spatial-mode.ts";
import type { Summary } from "./report/summary.ts";
import { labelOf } from "./setting.ts";
import { findShim, type Shim } from "./shim.ts";
import type { Simulation } from "./simulation.ts";
import type { Sink } from "./sink.ts";
import { explainBusy, lockStateDirectory, openStateDirectory } from "./state-directory.ts";
import { hasMembers, sweep } from "./sweep.ts";

/** A target that ends sooner and without a GPU is not worth loading the event feed for. */
const SETTLE_MS = 30;
const STEP_MS = 5;

const REAL_NVML = { library: "libnvidia-ml.so.1", environment: {} };

/** Who wants the session's events. */
export interface Audience {
  open: () => Sink[] | Promise<Sink[]>;
  /** True if it wants to hear also of a session in which nothing happened. */
  wantsAll: boolean;
}

/** `vgpu run`: runs the plan's command in a session and returns its exit status, or dies of the signal it died of. Throws VgpuError before the command has started. */
export async function runSession(plan: Plan): Promise<number> {
  const { events, report } = plan;
  const open = async () => (await import("./sink.ts")).openSinks(plan);
  const wantsAll = events.file !== null || events.format === "json" || report.verbose > 0;
  const summary = await holdSession(plan, { open, wantsAll });
  if (!report.quiet) await showSummary(summary, plan);
  if (isLaunchedFromSource()) await (await import("./bundle.ts")).makeBundle();
  return endAs(summary.ending);
}

/** Runs the plan's command under its limits, from the first check to the last clean-up. */
export async function holdSession(plan: Plan, audience: Audience): Promise<Summary> {
  const around = process.env["VGPU_REGION"];
  const outer = around ? new (await import("./outer.ts")).Outer(around) : null;
  const directory = openStateDirectory();
  sweep(directory);
  const shim = await findShim(plan.report.quiet);
  const simulation = await simulate(plan);
  const isDriven = simulation !== null || hasDriver();
  warn(plan, isDriven);

  const ready = audience.wantsAll ? await audience.open() : null;
  using nvml = new NvmlOnDemand(simulation);
  const { content, changes } = await prepare(plan, shim, simulation, isDriven, nvml, outer);
  const boardDirectory = findBoardDirectory(simulation) ?? directory;
  const place = findPlace(directory, boardDirectory, shim, simulation, nvml);
  if (isDriven) await reapMps(place);
  // In a session inside another the outer one decides.
  const mps = outer === null && inheritsMps(plan.mps, place.mps.directory, changes);
  const whole = { ...content, boardDirectory, mps };
  const made =
    outer !== null
      ? enclose(plan, directory, whole, outer)
      : isDriven
        ? await join(plan, place, whole, changes, nvml)
        : { own: createRegion(directory, whole), partitions: [] };
  await using own = new Owned(made.own, place);
  const { region, session } = own;
  changes.set = { ...changes.set, VGPU_REGION: region.path };
  if (outer === null) changes.suffix = { LD_PRELOAD: shim.library };
  else
    changes.set["LD_PRELOAD"] = outer.replaceShim(
      changes.set["LD_PRELOAD"] ?? process.env["LD_PRELOAD"],
      shim.library,
    );
  const startNs = monotonicNs();
  using target = launch(shim, plan.target.words, changes);
  own.target = target.pid;

  const early = ready === null ? await settle(target, region) : undefined;
  if (early !== undefined && region.load32(header.slots_used) === 0) {
    const durationNs = Number(monotonicNs() - startNs);
    return {
      session,
      durationNs,
      ending: early,
      processes: 0,
      denials: 0,
      lostEvents: 0,
      gpus: [],
      uses: [],
    };
  }
  const note = plan.report.quiet ? () => {} : say;
  const { supervise } = await import("./supervision.ts");
  const sinks = ready ?? (await audience.open());
  const source = isDriven ? (simulation?.nvml ?? REAL_NVML) : null;
  return await supervise({
    region,
    content: made.own.content,
    session,
    target,
    startNs,
    nvml: source,
    sinks,
    note,
    partitions: made.partitions,
  });
}

async function simulate({ sim, report }: Plan): Promise<Simulation | null> {
  if (sim === null) return null;
  return (await import("./simulation.ts")).findSimulation(sim, report.quiet);
}

/** How the target ended; undefined once it uses a GPU or has run for a while. */
async function settle(target: Target, region: Region): Promise<Ending | undefined> {
  for (let waitedMs = 0; waitedMs < SETTLE_MS; waitedMs += STEP_MS) {
    const ending = await Promise.race([target.ended, Bun.sleep(STEP_MS)]);
    if (ending !== undefined) return ending;
    if (region.load32(header.slots_used) !== 0) break;
  }
  return undefined;
}

/** bin/vgpu takes the bundle (bundle.ts) where it has a good one. */
const isLaunchedFromSource = () =>
  readLauncher() !== null && (process.argv[1] ?? "").endsWith("/cli.ts");

/** One line for each way in which limits will not hold. Throws VgpuError for a missing driver with `--require-gpu`. */
function warn({ requireGpu, report, target }: Plan, isDriven: boolean): void {
  if (!isDriven && requireGpu) {
    throw new VgpuError("no NVIDIA driver here (no libcuda.so.1, no /dev/nvidiactl)", {
      hint: "use --sim for a simulated GPU",
    });
  }
  if (report.quiet) return;
  if (!isDriven) say("no NVIDIA driver here, nothing to limit; --sim gives a simulated GPU");
  const obstacle = findObstacle(target.words[0] ?? "");
  if (obstacle !== null) say(obstacle);
}

/** What the region starts with, and what changes in the target's environment. */
async function prepare(
  plan: Plan,
  shim: Shim,
  simulation: Simulation | null,
  isDriven: boolean,
  nvml: NvmlOnDemand,
  outer: Outer | null,
) {
  const changes: Changes = {
    set: { ...plan.env, ...simulation?.set },
    prefix: { ...simulation?.prefix },
  };
  if (!isDriven)
    return { content: resolveContent({ ...plan, limits: UNLIMITED }, [], new Map()), changes };

  const costs = needsCosts(plan) ? await learnCosts(shim, simulation) : new Map();
  const { CUDA_VISIBLE_DEVICES: chosen } = plan.env;
  const listed = needsCards(plan) || chosen !== undefined ? nvml.open()?.cards : [];
  if (listed === undefined && needsCards(plan)) {
    throw new VgpuError(
      "NVML is needed for --gpu, single GPUs and percentages, and it does not start",
      { hint: "does nvidia-smi work?" },
    );
  }
  const cards = listed ?? [];
  if (plan.gpu !== null) {
    changes.set!["CUDA_VISIBLE_DEVICES"] = visibleDevices(plan.gpu, cards, labelOfGpu(plan));
    outer?.checkCards(plan.gpu, cards, process.env["CUDA_VISIBLE_DEVICES"]);
  }
  // What a profile chooses others cannot see in our own environment, so it is written down.
  const named = plan.gpu === null ? chosen : changes.set!["CUDA_VISIBLE_DEVICES"];
  const isClear = plan.gpu !== null || new Set(cards.map(({ name }) => name)).size === 1;
  const wanted = named !== undefined && isClear ? findVisible(named, cards) : [];
  const content = resolveContent(plan, cards, costs, wanted);
  const seen = findVisibleOrAll(named ?? process.env["CUDA_VISIBLE_DEVICES"], cards);
  const notes = [...noteUnlimited(plan, cards, seen), ...noteTight(content, costs, seen)];
  if (!plan.report.quiet) notes.forEach(say);
  return { content, changes };
}

const labelOfGpu = ({ sources }: Plan) => labelOf("gpu", sources["gpu"], "the profile");

/** What one `vgpu run` has made. */
interface Made {
  own: OwnRegion;
  partitions: CardPartition[];
}

/** Makes the region of a session inside another: it promises nothing to others that the outer one has not promised. */
function enclose(plan: Plan, directory: string, content: RegionContent, outer: Outer): Made {
  const notes = outer.note(plan);
  if (!plan.report.quiet) notes.forEach(say);
  return { own: createRegion(directory, { ...content, outer: outer.path }), partitions: [] };
}

/** Makes the session's region. Looking at what others hold and joining them are one step: of two that start together one sees the other. */
async function join(
  plan: Plan,
  place: Place,
  content: RegionContent,
  changes: Changes,
  nvml: NvmlOnDemand,
): Promise<Made> {
  const { directory } = place;
  using lock = await lockStateDirectory(directory);
  const isSpatial = asksForSpatial(plan) || plan.mps === "on";
  if (lock === null && (isSpatial || plan.admit === "strict")) throw explainBusy(directory);
  if (hasMemoryLimit(plan)) await checkAdmission(place, plan, content, changes, nvml);
  if (!isSpatial && !hasSessions(directory))
    return { own: createRegion(directory, content), partitions: [] };
  const { settleModes } = await import("./modes.ts");
  const settled = await settleModes(plan, place, content, changes, lock !== null);
  if (!plan.report.quiet) settled.notes.forEach(say);
  return { own: createRegion(directory, settled.content), partitions: settled.partitions };
}

/** Warns, or refuses with `--admit strict`, when all sessions' limits pass a card. Alone it costs one look at the directory. */
async function checkAdmission(
  { directory, boardDirectory }: Place,
  { admit, gpu, report }: Plan,
  content: RegionContent,
  changes: Changes,
  nvml: NvmlOnDemand,
): Promise<void> {
  if ((listDirectory(directory) ?? []).length === 0) return;
  const admission = await import("./admission.ts");
  const isStrict = admit === "strict";
  const cards = isStrict || content.devices.length > 0 || gpu !== null ? nvml.open()?.cards : [];
  const { CUDA_VISIBLE_DEVICES: visible = process.env["CUDA_VISIBLE_DEVICES"] } = changes.set ?? {};
  sweep(directory); // whoever has ended while we waited for the lock
  const others = admission.readPromises(directory, boardDirectory);
  const warning = report.quiet ? () => {} : say;
  admission.admit(others, { content, cards: cards ?? [], visible }, isStrict, warning);
}

const UNLIMITED: Plan["limits"] = { all: null, gpus: new Map() };

function hasMemoryLimit({ limits: { all, gpus } }: Plan): boolean {
  return all?.memBytes != null || [...gpus.values()].some(({ memBytes }) => memBytes !== null);
}

/** A limit is charged with contexts, and a summary that was asked for counts them. */
const needsCosts = (plan: Plan): boolean =>
  hasMemoryLimit(plan) || plan.report.verbose > 0 || plan.report.json;

async function learnCosts(shim: Shim, simulation: Simulation | null): Promise<ContextCosts> {
  const { learnContextCosts } = await import("./context-table.ts");
  return learnContextCosts(probeOf(shim, simulation));
}

function probeOf(shim: Shim, simulation: Simulation | null): Probe {
  const env = {
    ...process.env,
    CUDA_VISIBLE_DEVICES: undefined,
    ...simulation?.set,
    ...simulation?.probe,
  };
  return { command: [shim.probe], env, domain: simulation?.domain ?? "" };
}

/** Whether anybody else's session can matter for what this one gets. */
const hasSessions = (directory: string) =>
  (listDirectory(directory) ?? []).some((name) => /^[0-9a-z]{6}$/.test(name));

/** Where this user's MPS daemon lives; the simulated card has one of its own, beside its state. */
function findMpsHome(directory: string, simulation: Simulation | null): Place["mps"] {
  const name = "nvidia-cuda-mps-control";
  const home = `${simulation?.directory ?? directory}/mps`;
  const libraries = simulation?.prefix["LD_LIBRARY_PATH"];
  return {
    directory: home,
    control: libraries === undefined ? name : `${libraries}/${name}`,
    pidFile: `${home}/${name}.pid`,
  };
}

/** Ends the MPS daemon that vgpu started once nobody uses it: costs one look where there is none. */
async function reapMps({ mps, directory, boardDirectory }: Place): Promise<void> {
  if (readText(mps.pidFile) === null) return;
  await (await import("./mps.ts")).reapMps(mps, directory, boardDirectory);
}

function findPlace(
  directory: string,
  boardDirectory: string,
  shim: Shim,
  simulation: Simulation | null,
  nvml: NvmlOnDemand,
): Place {
  return {
    directory,
    boardDirectory,
    listCards: () => nvml.open()?.cards ?? null,
    probe: probeOf(shim, simulation),
    mps: findMpsHome(directory, simulation),
  };
}

async function showSummary(summary: Summary, { report, mode }: Plan): Promise<void> {
  const { formatModes, formatSummary, formatSummaryJson, wasEnforced } =
    await import("./report/summary.ts");
  if (report.json) return console.error(formatSummaryJson(summary));
  if (!wasEnforced(summary) && report.verbose === 0) return;
  const { paintFor } = await import("./report/drawing.ts");
  const { formatMemory } = await import("./report/memory.ts");
  const paint = paintFor(2);
  formatSummary(summary, paint).forEach(say);
  if (mode === "auto" && report.verbose > 0) formatModes(summary).forEach(say);
  formatMemory(summary, paint, report.verbose > 0).forEach(say);
}

/** What a start would get of each visible card now, for `--dry-run`. Throws VgpuError where it would be refused. */
export async function surveySession(plan: Plan): Promise<Arrangement> {
  const directory = openStateDirectory();
  sweep(directory);
  const shim = await findShim(plan.report.quiet);
  const simulation = await simulate(plan);
  if (simulation === null && !hasDriver()) return { partitions: [], notes: [] };
  using nvml = new NvmlOnDemand(simulation);
  const boardDirectory = findBoardDirectory(simulation) ?? directory;
  const place = findPlace(directory, boardDirectory, shim, simulation, nvml);
  const visible =
    plan.gpu === null
      ? (plan.env["CUDA_VISIBLE_DEVICES"] ?? process.env["CUDA_VISIBLE_DEVICES"])
      : visibleDevices(plan.gpu, place.listCards() ?? [], labelOfGpu(plan));
  const { surveyModes } = await import("./modes.ts");
  return surveyModes(plan, place, visible);
}

/** The region while this process is responsible for it: gone with the session, or left to the processes that outlive it. */
class Owned implements AsyncDisposable {
  target = 0;
  readonly region;
  readonly session;
  readonly #own: OwnRegion;
  readonly #place: Place;
  readonly #madeAt = Date.now();

  constructor(own: OwnRegion, place: Place) {
    this.#own = own;
    this.#place = place;
    this.region = own.region;
    this.session = own.session;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const isLeft =
      this.target !== 0 && hasMembers(this.region, this.target, Date.now() - this.#madeAt);
    if (isLeft) this.#own.leave();
    else this.#own.remove();
    await reapMps(this.#place);
  }
}

/** NVML, opened by the first who needs it. */
class NvmlOnDemand implements Disposable {
  #nvml: Nvml | null | undefined;
  readonly #simulation: Simulation | null;

  constructor(simulation: Simulation | null) {
    this.#simulation = simulation;
  }

  open(): Nvml | null {
    if (this.#nvml === undefined) {
      const { Nvml } = require("./nvml.ts") as typeof import("./nvml.ts");
      this.#nvml = this.#simulation === null ? Nvml.open() : this.#simulation.openNvml(Nvml.open);
    }
    return this.#nvml;
  }

  [Symbol.dispose](): void {
    this.#nvml?.[Symbol.dispose]();
  }
}
