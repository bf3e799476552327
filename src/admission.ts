import { quote, VgpuError } from "./errors.ts";
import * as layout from "./layout.gen.ts";
import type { Card } from "./nvml.ts";
import { readSessions, type RegionContent } from "./region.ts";
import { formatBytes } from "./units.ts";

/** What a session may use of each card. Bytes; null: no limit, so no promise to add up. */
export interface Promises {
  session: string;
  /** The supervisor's. */
  pid: number;
  /** Of cards that it has not met yet. */
  fallback: number | null;
  cards: Map<string, { limit: number | null; totalBytes: number }>;
}

/** What this session would add, and to which cards. */
export interface Asked {
  content: Pick<RegionContent, "memLimit" | "devices">;
  /** With their sizes, where NVML was asked; else empty, and sizes come from the other sessions. */
  cards: Pick<Card, "uuid" | "totalBytes">[];
  /** CUDA_VISIBLE_DEVICES of the target; undefined: every card. */
  visible: string | undefined;
}

/** Every other session in the state directory that meets ours on this board (simulated cards have their own); call it after the sweep. */
export function readPromises(directory: string, boardDirectory: string): Promises[] {
  const sessions = readSessions(directory).filter((head) => head.boardDirectory === boardDirectory);
  return sessions.map(({ session, pid, view, devices }) => {
    const size = (at: number) => {
      const word = view.getBigUint64(at, true);
      return word === layout.NO_LIMIT ? null : Number(word);
    };
    const cards: Promises["cards"] = new Map();
    for (const { uuid, at } of devices) {
      const totalBytes = size(at + layout.device.total_bytes) ?? 0;
      cards.set(uuid, { limit: size(at + layout.device.mem_limit), totalBytes });
    }
    return { session, pid, fallback: size(layout.header.default_mem_limit), cards };
  });
}

/**
 * One line for each card on which the limits of all sessions, this one's too, come to more than the
 * card. A card of which nobody knows the size, or whether the session will see it, is left out.
 */
export function findOverbooked(others: Promises[], asked: Asked): string[] {
  const sizes = new Map(asked.cards.map(({ uuid, totalBytes }) => [uuid, totalBytes]));
  for (const { cards } of asked.cards.length > 0 ? [] : others) {
    for (const [uuid, { totalBytes }] of cards) if (totalBytes > 0) sizes.set(uuid, totalBytes);
  }
  return [...sizes].flatMap(([uuid, totalBytes]) => {
    const own = asked.content.devices.find((device) => device.uuid === uuid);
    const wanted = own === undefined ? asked.content.memLimit : own.memLimit;
    if (wanted === null || !isVisible(uuid, asked, sizes.size)) return [];
    const holders = others.flatMap((other) => {
      const limit = limitOn(uuid, other, sizes.size);
      return limit === null ? [] : [{ ...other, limit: Math.min(limit, totalBytes) }];
    });
    const sum = holders.reduce((total, { limit }) => total + limit, Math.min(wanted, totalBytes));
    if (holders.length === 0 || sum <= totalBytes) return [];
    const names = holders.map(
      ({ session, pid, limit }) => `session ${session} (pid ${pid}) has ${formatBytes(limit)}`,
    );
    return [
      `the limits on ${uuid} come to ${formatBytes(sum)} of its ${formatBytes(totalBytes)}: this session ${formatBytes(Math.min(wanted, totalBytes))}, ${names.join(", ")}`,
    ];
  });
}

/** Warns of overbooked cards, or refuses. Throws VgpuError where `isStrict`. */
export function admit(
  others: Promises[],
  asked: Asked,
  isStrict: boolean,
  warn: (text: string) => void,
): void {
  const [first, ...rest] = findOverbooked(others, asked);
  if (first === undefined) return;
  if (!isStrict) return [first, ...rest].forEach(warn);
  throw new VgpuError(`${quote("--admit strict")}: ${first}`, {
    hint: "wait for one to end, or lower --mem",
  });
}

/** A session that has met no card yet may be on its way to the only one there is. */
function limitOn(uuid: string, { cards, fallback }: Promises, known: number): number | null {
  const met = cards.get(uuid);
  if (met !== undefined) return met.limit;
  return cards.size === 0 && known === 1 ? fallback : null;
}

/** Whether the target will see the card: by UUID; numbers mean something only where there is one card, or by NVML's order. */
function isVisible(uuid: string, { visible, cards }: Asked, known: number): boolean {
  if (visible === undefined) return true;
  const words = visible.split(",").map((word) => word.trim());
  const index = cards.findIndex((card) => card.uuid === uuid);
  return words.some((word) => {
    if (/^\d+$/.test(word)) return index >= 0 ? index === Number(word) : known === 1;
    return word !== "" && uuid.toLowerCase().startsWith(word.toLowerCase());
  });
}
