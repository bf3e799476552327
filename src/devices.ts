import { quote, VgpuError } from "./errors.ts";
import { WHOLE_GPU, MAX_DEVICES } from "./layout.gen.ts";
import type { GpuLimit, Plan, Size } from "./limits.ts";
import type { Card } from "./nvml.ts";
import type { RegionContent } from "./region.ts";
import { labelOf } from "./setting.ts";
import { formatBytes } from "./units.ts";

/** Bytes that a bare context costs, by GPU UUID; see context-table.ts. */
export type ContextCosts = Map<string, number>;

/** True if the plan speaks of particular cards or of parts of one, which takes NVML before the start. */
export function needsCards({ limits, gpu }: Plan): boolean {
  const isRelative = (limit: GpuLimit | null) =>
    isPercent(limit?.memBytes) || isPercent(limit?.softBytes);
  return gpu !== null || limits.gpus.size > 0 || isRelative(limits.all);
}

/**
 * What the region starts with. `cards` is empty unless `needsCards`; those in `wanted` get an entry of
 * their own in any case. Throws VgpuError for a GPU that is not there.
 */
export function resolveContent(
  plan: Plan,
  cards: Card[],
  costs: ContextCosts,
  wanted: Card[] = [],
): RegionContent {
  const { all, gpus } = plan.limits;
  const named = new Map<string, GpuLimit>();
  for (const [key, limit] of gpus)
    named.set(findCard(key, cards, labelOfKey(plan, key)).uuid, limit);
  const isRelative = isPercent(all?.memBytes) || isPercent(all?.softBytes);
  const listed = cards
    .filter((card) => named.has(card.uuid) || isRelative || wanted.includes(card))
    .slice(0, MAX_DEVICES);
  return {
    memLimit: isRelative ? null : resolveSize(all?.memBytes ?? null, 0),
    softBytes: isRelative ? null : resolveSize(all?.softBytes ?? null, 0),
    sharePpm: sharePpm(all?.sharePercent),
    burstPpm: burstPpm(all),
    time: plan.time,
    contextBytes: Math.max(0, ...costs.values()),
    audit: process.env["VGPU_TEST_AUDIT"] !== "off",
    devices: listed.map((card) => {
      const limit = named.get(card.uuid) ?? all;
      return {
        uuid: card.uuid,
        memLimit: resolveSize(limit?.memBytes ?? null, card.totalBytes),
        softBytes: resolveSize(limit?.softBytes ?? null, card.totalBytes),
        sharePpm: sharePpm(limit?.sharePercent),
        burstPpm: burstPpm(limit),
        contextBytes: costs.get(card.uuid) ?? 0,
      };
    }),
  };
}

/** CUDA_VISIBLE_DEVICES for `--gpu`: UUIDs, which mean the same in any order and numbering. */
export function visibleDevices(gpu: string[], cards: Card[], label = "--gpu"): string {
  return gpu.map((key) => findCard(key, cards, label).uuid).join(",");
}

/** The limits that hold on a card. */
export function limitOf(card: Card, plan: Plan, cards: Card[]): GpuLimit | null {
  const { all, gpus } = plan.limits;
  const own = [...gpus].find(([key]) => findCard(key, cards, labelOfKey(plan, key)) === card);
  return own === undefined ? all : own[1];
}

/** What is not limited on a card that the target sees, because values were given for other GPUs only. */
export function noteUnlimited(plan: Plan, cards: Card[], seen: Card[]): string[] {
  const isPlain = (name: string) => (plan.sources[name] ?? "default") !== "default";
  /** The cards without it, where only single ones were given any. */
  const findBare = (isLimited: (limit: GpuLimit) => boolean, names: string[]): string => {
    if (names.some(isPlain) || ![...plan.limits.gpus.values()].some(isLimited)) return "";
    const limits = seen.map((card) => ({ card, limit: limitOf(card, plan, cards) }));
    const bare = limits.filter(({ limit }) => limit === null || !isLimited(limit));
    return bare.map(({ card }) => card.index).join(", ");
  };
  const memory = findBare(({ memBytes }) => memBytes !== null, ["mem"]);
  const compute = findBare(
    ({ sharePercent, smCount }) => sharePercent !== null || smCount != null,
    ["sm", "sms"],
  );
  const say = (noun: string, bare: string) =>
    bare === "" ? [] : [`no limit is given for ${noun} on GPU ${bare}`];
  if (memory === compute) return say("memory and compute", memory);
  return [...say("memory", memory), ...say("compute", compute)];
}

/** One line for each limit that a context alone passes. `seen`: the cards that the target sees; empty where nobody asked. */
export function noteTight(content: RegionContent, costs: ContextCosts, seen: Card[]): string[] {
  const least = costs.size === 0 ? 0 : Math.min(...costs.values());
  const pairs =
    seen.length === 0
      ? [{ limit: content.memLimit, cost: least }]
      : seen.map(({ uuid }) => {
          const own = content.devices.find((device) => device.uuid === uuid);
          return { limit: (own ?? content).memLimit, cost: costs.get(uuid) ?? least };
        });
  const lines = pairs.flatMap(({ limit, cost }) =>
    limit === null || limit >= cost
      ? []
      : [
          `a limit of ${formatBytes(limit)} cannot hold one context (${formatBytes(cost)}): give it more`,
        ],
  );
  return [...new Set(lines)];
}

/** The cards that the target will see. `visible` is its CUDA_VISIBLE_DEVICES; undefined: all. Throws VgpuError where numbers may mean any card. */
export function findVisible(visible: string | undefined, cards: Card[]): Card[] {
  if (visible === undefined) return cards;
  const words = visible.split(",").map((word) => word.trim());
  const isMixed = new Set(cards.map(({ name }) => name)).size > 1;
  if (isMixed && words.some(isNumber) && process.env["CUDA_DEVICE_ORDER"] !== "PCI_BUS_ID") {
    throw new VgpuError(
      `CUDA_VISIBLE_DEVICES=${quote(visible)} does not say which of these different cards it means`,
      { hint: "write --gpu with nvidia-smi's number, or set CUDA_DEVICE_ORDER=PCI_BUS_ID" },
    );
  }
  const found = words.map((word) =>
    isNumber(word)
      ? cards.find(({ index }) => index === Number(word))
      : cards.find(({ uuid }) => word !== "" && uuid.toLowerCase().startsWith(word.toLowerCase())),
  );
  const end = found.indexOf(undefined); // CUDA stops at the first that it does not know
  return [...new Set(end < 0 ? found : found.slice(0, end))] as Card[];
}

/** The same; all of them where numbers may mean any card. */
export function findVisibleOrAll(visible: string | undefined, cards: Card[]): Card[] {
  try {
    return findVisible(visible, cards);
  } catch {
    return cards;
  }
}

const isNumber = (word: string) => /^\d+$/.test(word);

/** Who named a GPU: `--mem`, `VGPU_SM`, `profile two: gpus.1`. */
function labelOfKey({ sources, profile }: Plan, key: string): string {
  const name = PER_GPU.find((flag) => `${flag}.${key}` in sources) ?? "mem";
  return labelOf(name, sources[`${name}.${key}`], `profile ${profile}: gpus.${key}`);
}

const PER_GPU = ["mem", "mem-soft", "sm", "burst", "sms"];

/** By nvidia-smi's number, or the beginning of a UUID. `label`: who named it. */
function findCard(key: string, cards: Card[], label: string): Card {
  const found = /^\d+$/.test(key)
    ? cards.filter((card) => card.index === Number(key))
    : cards.filter((card) => card.uuid.toLowerCase().startsWith(key.toLowerCase()));
  const [card, another] = found;
  if (card === undefined) {
    const known = cards.map(({ index, uuid }) => `${index} (${uuid})`).join(", ");
    throw new VgpuError(`${label}: there is no GPU ${quote(key)}`, {
      hint: known ? `this machine has GPU ${known}` : "NVML lists no GPU here",
    });
  }
  if (another !== undefined) {
    throw new VgpuError(`${label}: GPU ${quote(key)} means more than one`, {
      hint: `${card.uuid} or ${another.uuid}`,
    });
  }
  return card;
}

const isPercent = (size: Size | null | undefined): boolean => size != null && "percent" in size;

/** A limit in bytes; percentages are of what cuDeviceTotalMem gives. */
function resolveSize(size: Size | null, totalBytes: number): number | null {
  if (size === null) return null;
  return "bytes" in size ? size.bytes : Math.floor((totalBytes * size.percent) / 100);
}

function sharePpm(percent: number | null | undefined): number {
  return percent == null ? WHOLE_GPU : Math.max(1, Math.round((percent / 100) * WHOLE_GPU));
}

/** 0: no ceiling above the share. */
function burstPpm(limit: GpuLimit | null): number {
  return limit?.burstPercent == null ? 0 : sharePpm(limit.burstPercent);
}
