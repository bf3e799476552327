import type { CardFigures } from "./context-table.ts";
import { findVisible, findVisibleOrAll, limitOf } from "./devices.ts";
import { VgpuError } from "./errors.ts";
import * as layout from "./layout.gen.ts";
import type { GpuLimit, Plan } from "./limits.ts";
import type { Card } from "./nvml.ts";
import { allocate, type Asked, formatGroups, type Partition, type Split } from "./partition.ts";
import { readVariable } from "./process.ts";
import { readSessions, type SessionHead, type Stranger } from "./region.ts";

const ANY = "any card";

/** What another session has on a card. */
export interface Holder {
  session: string;
  pid: number;
  /** 0n: a share of its time. */
  groups: bigint;
  sms: number;
  /** Of a session that has met no card yet: CUDA_VISIBLE_DEVICES. */
  visible?: string | undefined;
}

/** The session's SMs on one card. */
export interface CardPartition extends Partition {
  uuid: string;
  split: Split;
}

/** What each card gets: SMs, or (not in `partitions`) a share of its time. */
export interface Arrangement {
  partitions: CardPartition[];
  /** One line for each thing that the user may not expect. */
  notes: string[];
}

/** The sessions with SMs of their own, or a share of time, by card. Those on other boards (simulated cards) do not count. */
export function readHolders(directory: string, boardDirectory: string): Map<string, Holder[]> {
  const holders = new Map<string, Holder[]>();
  for (const head of readSessions(directory)) {
    if (head.boardDirectory !== boardDirectory) continue;
    // A share for cards that it has not met yet may be meant for any.
    const share = head.view.getUint32(layout.header.default_share_ppm, true);
    if (head.devices.length === 0 && share < layout.WHOLE_GPU) {
      const { session, pid } = head;
      // Its numbers mean our cards if it counts them as we do.
      const order = readVariable(pid, "CUDA_DEVICE_ORDER");
      const isOurs = order === process.env["CUDA_DEVICE_ORDER"];
      const visible = isOurs ? readVariable(pid, "CUDA_VISIBLE_DEVICES") : undefined;
      const holder = { session, pid, groups: 0n, sms: 0, visible };
      holders.set(ANY, [...(holders.get(ANY) ?? []), holder]);
    }
    for (const { uuid, at } of head.devices) {
      const holder = readHolder(head, at);
      if (holder !== null) holders.set(uuid, [...(holders.get(uuid) ?? []), holder]);
    }
  }
  return holders;
}

function readHolder({ session, pid, view }: SessionHead, at: number): Holder | null {
  const { device } = layout;
  const sms = view.getUint32(at + device.sm_count, true);
  const share = view.getUint32(at + device.share_ppm, true);
  if (sms === 0 && share >= layout.WHOLE_GPU) return null;
  const words = Array.from({ length: layout.MAX_GROUPS / 64 }, (_, word) =>
    view.getBigUint64(at + device.sm_groups + 8 * word, true),
  );
  const groups = words.reduceRight((bits, word) => (bits << 64n) | word, 0n);
  return { session, pid, groups, sms };
}

/** What the plan is measured against. */
export interface Scene {
  cards: Card[];
  /** CUDA_VISIBLE_DEVICES of the target. */
  visible: string | undefined;
  figures: Map<string, CardFigures>;
  holders: Map<string, Holder[]>;
  /** They may have SMs of any card. */
  strangers: Stranger[];
}

/** Decides for each visible card. Throws VgpuError, naming the holders, where what was asked for cannot be. */
export function arrange(plan: Plan, scene: Scene): Arrangement {
  const arrangement: Arrangement = { partitions: [], notes: [] };
  for (const card of findVisible(scene.visible, scene.cards)) {
    const limit = limitOf(card, plan, scene.cards);
    const holders = [card.uuid, ANY]
      .flatMap((key) => scene.holders.get(key) ?? [])
      .filter((holder) => maySee(holder, card, scene.cards));
    const { figures, strangers } = scene;
    const site = { card, holders, figures: figures.get(card.uuid), strangers };
    const found = decide(plan, limit, site);
    if (typeof found === "string") arrangement.notes.push(found);
    else if (found !== null) arrangement.partitions.push({ uuid: card.uuid, ...found });
  }
  return arrangement;
}

/** Numbers that may mean any card may mean this one. */
function maySee({ visible }: Holder, card: Card, cards: Card[]): boolean {
  return findVisibleOrAll(visible, cards).includes(card);
}

interface Site {
  card: Card;
  holders: Holder[];
  figures: CardFigures | undefined;
  strangers: Stranger[];
}

/** The SMs on one card; null or a note: time mode. */
function decide(
  { mode }: Plan,
  limit: GpuLimit | null,
  site: Site,
): Omit<CardPartition, "uuid"> | string | null {
  const { card, holders, figures, strangers } = site;
  const asked = readAsked(limit);
  const isSpatial = holders.some(({ sms }) => sms > 0);
  const isTimed = !isSpatial && holders.length > 0;
  const wants = mode ?? (limit?.smCount != null ? "spatial" : null);

  if (wants === "time") {
    if (isSpatial)
      throw refuse(site, "is in spatial mode", "leave out --mode time, or use another GPU");
    return null;
  }
  if (asked === null && !isSpatial) return null;
  if (wants === null && !isSpatial) return null;
  const [stranger] = strangers;
  if (stranger !== undefined) {
    if (wants === "auto") return `${describe(stranger)}; --mode auto: time mode`;
    throw new VgpuError(describe(stranger), { hint: adviseOn(stranger) });
  }
  const obstacle = isTimed
    ? `${card.uuid} is in time mode: ${nameHolders(holders)}`
    : (figures?.groups ?? 0) === 0
      ? `the driver cannot give out the SMs of ${card.uuid} (green contexts: CUDA 12.4, driver 550, or later)`
      : wants === "auto" && limit?.burstPercent != null
        ? "--burst is for time mode"
        : null;
  if (obstacle !== null) {
    if (wants === "auto") return `${obstacle}; --mode auto: time mode`;
    throw isTimed
      ? refuse(site, "is in time mode", "leave out --mode spatial, or use another GPU")
      : new VgpuError(obstacle, { hint: "use --sm without --mode spatial: a share of GPU time" });
  }
  const taken = holders.reduce((bits, { groups }) => bits | groups, 0n);
  const { sms, groupSms, groups } = figures!;
  const split = { sms, groupSms, groups };
  const partition = allocate(asked ?? "rest", split, taken);
  if (partition !== null) return { ...partition, split };
  if (wants === "auto")
    return `no room on ${card.uuid} (${nameHolders(holders)}); --mode auto: time mode, on all SMs`;
  throw refuse(site, "has no room", "wait for one to end, ask for less, or use another GPU");
}

function readAsked(limit: GpuLimit | null): Asked | null {
  if (limit?.smCount != null) return { sms: limit.smCount };
  return limit?.sharePercent == null ? null : { percent: limit.sharePercent };
}

function refuse({ card, holders }: Site, what: string, hint: string): VgpuError {
  return new VgpuError(`${card.uuid} ${what}: ${nameHolders(holders)}`, { hint });
}

function describe({ session, pid }: Stranger): string {
  const who = pid === null ? "its supervisor is gone" : `pid ${pid}`;
  return `session ${session} (${who}) is of another version of vgpu: which SMs it has is not known`;
}

const adviseOn = ({ pid, path }: Stranger) =>
  pid === null
    ? `find its programs with: fuser -v ${path}; if there are none: rm ${path}`
    : "wait for it to end, or stop it";

const nameHolders = (holders: Holder[]) =>
  holders
    .map(({ session, pid, groups, sms }) => {
      const what = sms > 0 ? `${sms} SMs (groups ${formatGroups(groups)})` : "a share of its time";
      return `session ${session} (pid ${pid}) has ${what}`;
    })
    .join(", ");
