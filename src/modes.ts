import { type CardFigures, learnCards, type Probe } from "./context-table.ts";
import { findVisible, resolveContent } from "./devices.ts";
import { VgpuError } from "./errors.ts";
import type { Changes } from "./launch.ts";
import { findPipes } from "./mps-pipes.ts";
import type { Plan } from "./limits.ts";
import { asksForSpatial } from "./spatial-mode.ts";
import type { MpsHome } from "./mps.ts";
import type { Card } from "./nvml.ts";
import { readStrangers, type RegionContent } from "./region.ts";
import { WHOLE_GPU } from "./layout.gen.ts";
import { type Arrangement, arrange, type CardPartition, readHolders } from "./spatial.ts";
import { explainBusy } from "./state-directory.ts";
import { sweep } from "./sweep.ts";

/** Under MPS a hand-over of the turn takes 15 to 55 µs, not 150 to 200 (measured on an H200): turns are shorter there. */
const MPS_QUANTUM_US = 4000;

/** Where a session is about to start. */
export interface Place {
  directory: string;
  boardDirectory: string;
  /** NVML's cards; null: it does not start. */
  listCards: () => Card[] | null;
  probe: Probe;
  mps: MpsHome;
}

/** What a session starts with once it is clear what it gets of each card. */
export interface Settled {
  content: RegionContent;
  partitions: CardPartition[];
  notes: string[];
}

/** What the plan would get of each visible card now. Throws VgpuError where that cannot be. */
export async function surveyModes(
  plan: Plan,
  place: Place,
  visible: string | undefined,
): Promise<Arrangement & { cards: Card[]; figures: Map<string, CardFigures> }> {
  sweep(place.directory); // whoever has ended while we waited for the lock, or built the shim
  const holders = readHolders(place.directory, place.boardDirectory);
  const isSpatial = [...holders.values()].flat().some(({ sms }) => sms > 0);
  if (!asksForSpatial(plan) && !isSpatial)
    return { partitions: [], notes: [], cards: [], figures: new Map() };
  const cards = place.listCards();
  if (cards === null) {
    throw new VgpuError("NVML is needed to give out SMs, and it does not start", {
      hint: "does nvidia-smi work?",
    });
  }
  const seen = findVisible(visible, cards).map(({ uuid }) => uuid);
  const figures = await learnCards(place.probe, seen);
  const strangers = readStrangers(place.directory, place.boardDirectory);
  return { ...arrange(plan, { cards, visible, figures, holders, strangers }), cards, figures };
}

/**
 * Chooses the session's SMs, and sees to an MPS server where one is to be used. `changes` is added to.
 * Call it, and make the region, under the lock of the state directory: the region is what others see.
 * Throws VgpuError for SMs without that lock: another session that looks at the same time would take them too.
 */
export async function settleModes(
  plan: Plan,
  place: Place,
  content: RegionContent,
  changes: Changes,
  isLocked: boolean,
): Promise<Settled> {
  const visible = changes.set?.["CUDA_VISIBLE_DEVICES"] ?? process.env["CUDA_VISIBLE_DEVICES"];
  const survey = await surveyModes(plan, place, visible);
  const { partitions, notes } = survey;
  if (partitions.length > 0 && !isLocked) throw explainBusy(place.directory);
  const settled = partitions.length > 0 ? fill(plan, content, survey, visible) : { ...content };
  const wantsMps = plan.mps === "on" || (plan.mps !== "off" && partitions.length > 0);
  if (!wantsMps) return { content: settled, partitions, notes };
  const { provideMps } = await import("./mps.ts");
  const mps = provideMps(place.mps, partitions.length > 0, findPipes(changes));
  changes.set = { ...changes.set, ...mps.set };
  settled.mps = mps.isOurs || content.mps === true;
  if (plan.mps === "on" && mps.isThere)
    settled.time = { ...plan.time, quantumUs: plan.time.quantumUs ?? MPS_QUANTUM_US };
  return { content: settled, partitions, notes: [...notes, mps.note] };
}

/**
 * Every visible card gets an entry, with its SMs where it has some: there the share is no limit by itself.
 * On others, which the target's children may see, it is one of time.
 */
function fill(
  plan: Plan,
  content: RegionContent,
  { partitions, cards, figures }: Awaited<ReturnType<typeof surveyModes>>,
  visible: string | undefined,
): RegionContent {
  const costs = new Map([...figures].map(([uuid, card]) => [uuid, card.contextBytes]));
  const { devices } = resolveContent(plan, cards, costs, findVisible(visible, cards));
  // Where there are no others no share is written down: launches on a partition are cheaper then.
  const hasOthers = devices.length < cards.length;
  return {
    ...content,
    sharePpm: hasOthers ? content.sharePpm : WHOLE_GPU,
    devices: devices.map((device) => {
      const partition = partitions.find(({ uuid }) => uuid === device.uuid);
      return partition === undefined ? device : { ...device, partition };
    }),
  };
}
