import type { DeviceState, Member } from "./census.ts";
import * as layout from "./layout.gen.ts";
import type { EventFeed } from "./events.ts";
import { deviceOffset, type Region, slotOffset, useOffset } from "./region.ts";

/** Percent of the limit at which a session is told. */
export const LEVELS = [70, 85, 95] as const;
/** Percentage points below a level at which it is over. */
const HYSTERESIS = 5;
/** The moving average forgets a change to a third in this time. */
const AVERAGE_NS = 1_000_000_000;

/** How near a session is to its limits on one device. */
export interface Pressure {
  /** 0, or the highest of LEVELS reached. */
  level: number;
  aboveSoft: boolean;
}

/** The level after `usedBytes`: up as soon as it is reached, down only when use is 5 points below. */
export function stepPressure(
  before: Pressure,
  usedBytes: number,
  limitBytes: number | null,
  softBytes: number | null,
): Pressure {
  const percent = limitBytes === null ? 0 : (usedBytes / limitBytes) * 100;
  const reached = LEVELS.findLast((level) => percent >= level) ?? 0;
  const kept =
    LEVELS.findLast((level) => level <= before.level && percent >= level - HYSTERESIS) ?? 0;
  const slack = ((limitBytes ?? softBytes ?? 0) * HYSTERESIS) / 100;
  const aboveSoft =
    softBytes !== null &&
    (usedBytes > softBytes || (before.aboveSoft && usedBytes > Math.max(0, softBytes - slack)));
  return { level: Math.max(reached, kept), aboveSoft };
}

/** The next use above which something is to be told: where a shim rings the bell; 0: never. */
export function nextThreshold(
  { level, aboveSoft }: Pressure,
  limitBytes: number | null,
  softBytes: number | null,
): number {
  const next = LEVELS.find((one) => one > level);
  const thresholds = [
    ...(limitBytes === null || next === undefined
      ? []
      : [Math.ceil((limitBytes * next) / 100) - 1]),
    ...(softBytes === null || aboveSoft ? [] : [softBytes]),
  ];
  return thresholds.length === 0 ? 0 : Math.max(1, Math.min(...thresholds));
}

/** Growth in bytes per second, averaged exponentially over about a second; frees do not count. */
export class Velocity {
  bytesPerSecond = 0;
  peak = 0;
  #bytes = 0;
  #atNs = 0;

  /** Takes the use at a moment. */
  take(bytes: number, atNs: number): void {
    const elapsedNs = this.#atNs === 0 ? AVERAGE_NS : Math.max(1, atNs - this.#atNs);
    const grown = Math.max(0, bytes - this.#bytes);
    const fresh = 1 - Math.exp(-elapsedNs / AVERAGE_NS);
    const rate = (grown / elapsedNs) * 1e9;
    this.bytesPerSecond += fresh * (rate - this.bytesPerSecond);
    if (this.bytesPerSecond < 1) this.bytesPerSecond = 0;
    this.peak = Math.max(this.peak, this.bytesPerSecond);
    this.#bytes = bytes;
    this.#atNs = atNs;
  }
}

/** Watches how full each device of the session is: into the region for programs that ask (vgpu.h), and as events. */
export class PressureWatch {
  readonly #region: Region;
  readonly #feed: EventFeed;
  /** Lets every process that waits for it know. */
  readonly #signal: () => void;
  readonly #states = new Map<number, Pressure>();
  readonly #velocities = new Map<string, Velocity>();

  constructor(region: Region, feed: EventFeed, signal: () => void) {
    this.#region = region;
    this.#feed = feed;
    this.#signal = signal;
  }

  /** One look at what `members` hold now. */
  look(members: Member[], devices: DeviceState[], nowNs: number): void {
    let hasChanged = false;
    for (const device of devices) {
      const uses = members.flatMap((member) =>
        member.uses.filter((use) => use.device === device.index).map((use) => ({ member, use })),
      );
      let used = 0;
      for (const { member, use } of uses) {
        const bytes = Math.max(0, use.chargedBytes + use.driftBytes);
        used += bytes;
        const at = useOffset(member.slot, device.index) + layout.use.velocity;
        this.#takeVelocity(
          `${member.slot} ${member.owner >> 8n} ${device.index}`,
          bytes,
          nowNs,
          at,
        );
      }
      const at = deviceOffset(device.index);
      this.#takeVelocity(`${device.index}`, used, nowNs, at + layout.device.velocity);
      hasChanged = this.#step(device, used) || hasChanged;
    }
    if (hasChanged) this.#signal();
  }

  /** True if a use lies above the threshold that its shims watch: the next look will have something to tell. */
  isCrossed(devices: DeviceState[]): boolean {
    return devices.some(({ index }) => {
      const next = this.#region.number(deviceOffset(index) + layout.device.pressure_next_bytes);
      return next > 0 && this.#usedBytes(index) > next;
    });
  }

  /** True while an average is still falling. */
  get isMoving(): boolean {
    for (const { bytesPerSecond } of this.#velocities.values()) if (bytesPerSecond > 0) return true;
    return false;
  }

  /** The fastest growth of a device (bytes/s) so far. */
  peakVelocity(device: number): number {
    return this.#velocities.get(`${device}`)?.peak ?? 0;
  }

  /** The fastest growth of a process on a device (bytes/s) so far. */
  peakVelocityOf({ slot, owner }: Member, device: number): number {
    return this.#velocities.get(`${slot} ${owner >> 8n} ${device}`)?.peak ?? 0;
  }

  /** As vgpu_ledger_used in shim/ledger.c sums it. */
  #usedBytes(device: number): number {
    const slots = Math.min(this.#region.load32(layout.header.slots_used), layout.MAX_SLOTS);
    let sum = 0;
    for (let slot = 0; slot < slots; slot++) {
      const state = Number(this.#region.load64(slotOffset(slot) + layout.slot.owner) & 0xffn);
      if (state !== layout.SLOT.LIVE && state !== layout.SLOT.DYING) continue;
      const at = useOffset(slot, device);
      const drift = BigInt.asIntN(64, this.#region.load64(at + layout.use.drift_bytes));
      sum += Math.max(0, this.#region.number(at + layout.use.charged_bytes) + Number(drift));
    }
    return sum;
  }

  #takeVelocity(key: string, bytes: number, nowNs: number, at: number): void {
    let velocity = this.#velocities.get(key);
    if (velocity === undefined) this.#velocities.set(key, (velocity = new Velocity()));
    velocity.take(bytes, nowNs);
    this.#region.store64(at, BigInt(Math.round(velocity.bytesPerSecond)));
  }

  #step(device: DeviceState, used: number): boolean {
    const { index, softBytes } = device;
    const limit = limitInForce(device);
    if (limit === null && softBytes === null) return false;
    const at = deviceOffset(index);
    const before = this.#states.get(index) ?? { level: 0, aboveSoft: false };
    const after = stepPressure(before, used, limit, softBytes);
    const next = nextThreshold(after, limit, softBytes);
    this.#region.store64(at + layout.device.pressure_next_bytes, BigInt(next));
    this.#region.store32(at + layout.device.pressure_crossed, 0);
    if (after.level === before.level && after.aboveSoft === before.aboveSoft) return false;
    this.#states.set(index, after);
    const word = after.level | (after.aboveSoft ? layout.PRESSURE_SOFT : 0);
    this.#region.store32(at + layout.device.pressure, word);
    const changes = this.#region.load32(at + layout.device.pressure_changes);
    this.#region.store32(at + layout.device.pressure_changes, changes + 1);
    this.#feed.publish({
      pid: 0,
      gpu: device.uuid,
      kind: "memory.pressure",
      api: null,
      name: "",
      values: {
        level: after.level,
        above_soft: after.aboveSoft ? 1 : 0,
        used_bytes: used,
        limit_bytes: limit,
        soft_bytes: softBytes,
      },
    });
    return true;
  }
}

/** What holds: the limit as set, or the card's size where that is less. */
export function limitInForce({ memLimit, totalBytes }: DeviceState): number | null {
  if (memLimit === null || totalBytes === 0) return memLimit;
  return Math.min(memLimit, totalBytes);
}
