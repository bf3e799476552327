import type { Census, DeviceState, Member } from "./census.ts";
import type { EventFeed } from "./events.ts";
import * as layout from "./layout.gen.ts";
import { monotonicNs } from "./libc.ts";
import type { Answer } from "./lister.ts";
import type { CardUse } from "./nvml.ts";
import { Outsiders } from "./outsiders.ts";
import { carriesVariable, readProcess } from "./process.ts";
import { type Region, useOffset } from "./region.ts";

const DRIFT_EVENT_BYTES = 32 * 1024 * 1024;
/** NVML may be low for as long as the driver takes to make a context. */
const STEADY_NS = 3_000_000_000n;

/** A charge precedes its context by as long as the driver takes to make one: only then must NVML list it. */
const UNSEEN_NS = 5_000_000_000n;

/** What the last look saw of one process on one device. */
type Sight = {
  chargedBytes: number;
  nvmlBytes: number;
  allocations: number;
  sinceNs: bigint;
  isFar: boolean;
};

/** Those who were looked at, as they stood before NVML was asked. */
export interface Question {
  members: Member[];
  devices: DeviceState[];
}

/**
 * Reconciles the ledger with NVML: writes each process's difference into the region, where the shims
 * add it to the session's use, and reports processes that use a GPU without having joined.
 */
export class Audit {
  readonly #sights = new Map<string, Sight>();
  readonly #reported = new Set<number>();
  readonly #suspects = new Set<number>();
  /** Processes that NVML listed at the last look. */
  #listed = new Set<number>();
  /** The most that NVML listed for a process on a device, and for all of them together. */
  readonly #most = new Map<string, number>();
  /** Since when NVML has been silent about a process that holds memory. */
  readonly #unseen = new Map<string, bigint>();
  #hasSeen = false;
  readonly #region: Region;
  readonly #feed: EventFeed;
  readonly #target: number;
  readonly #outsiders: Outsiders;
  /** NVML cannot see this session's processes: the ledger's figures stand alone. */
  isBlind = false;
  /** False while a lower figure waits to be believed. */
  isSettled = true;

  constructor(region: Region, feed: EventFeed, target: number) {
    this.#region = region;
    this.#feed = feed;
    this.#target = target;
    this.#outsiders = new Outsiders(region, feed);
  }

  /** The driver still holds memory of this process. */
  holdsMemory = (pid: number): boolean => this.#listed.has(pid);

  /** What the ledger's own peak misses: growth that no call named, and contexts where no memory limit is set. Bytes. */
  mostSeen(device: number, member?: Member): number {
    return this.#most.get(peakKey(device, member)) ?? 0;
  }

  #notePeaks(members: Member[], { index }: DeviceState, uses: CardUse[]): void {
    let all = 0;
    for (const member of members) {
      const own = uses.filter(({ pid }) => pid === member.pid);
      const bytes = own.reduce((sum, use) => sum + use.bytes, 0);
      all += bytes;
      this.#raise(peakKey(index, member), bytes);
    }
    this.#raise(peakKey(index), all);
  }

  #raise(key: string, bytes: number): void {
    this.#most.set(key, Math.max(bytes, this.#most.get(key) ?? 0));
  }

  /** Compares what stood in the region before NVML was asked with its answer and with the region now. */
  compare(census: Census, { members, devices }: Question, answer: Answer): void {
    const listed = new Set<number>();
    this.isSettled = true;
    const isWanted = this.#region.load32(layout.header.audit) === 1;
    devices.forEach((device, index) => {
      const uses = answer[index] ?? null;
      if (uses === null) return;
      for (const { pid } of uses) listed.add(pid);
      this.#notePeaks(members, device, uses);
      for (const member of members) {
        if (!census.isCurrent(member)) continue;
        if (!this.isBlind && isWanted) this.#reconcile(member, device, uses, census);
        this.#checkSeen(member, device, uses);
      }
      for (const { pid } of uses) this.#checkMember(pid, device, census);
      this.#outsiders.look(device, uses, (pid) => isMember(pid, census) || this.#descends(pid));
    });
    this.#listed = listed;
  }

  #reconcile(member: Member, device: DeviceState, uses: CardUse[], census: Census): void {
    const listed = uses.filter(({ pid }) => pid === member.pid);
    const before = member.uses.find((use) => use.device === device.index);
    if (before === undefined || listed.length === 0) return;
    const nvmlBytes = listed.reduce((sum, { bytes }) => sum + bytes, 0);
    const now = census.readUse(member.slot, device.index);
    const key = keyOf(member, device);
    const last = this.#sights.get(key);
    // Managed memory is charged in full and need not lie on the card: less in NVML means nothing then.
    const lacking = nvmlBytes - now.chargedBytes;
    const drift = now.managedBytes > 0 ? Math.max(0, lacking) : lacking;
    const { chargedBytes, allocations } = now;
    const isSame =
      last?.chargedBytes === chargedBytes &&
      last.nvmlBytes === nvmlBytes &&
      last.allocations === allocations;
    const sinceNs = isSame ? last.sinceNs : monotonicNs();
    const sight = { chargedBytes, nvmlBytes, allocations, sinceNs, isFar: last?.isFar ?? false };
    this.#sights.set(key, sight);

    // Moved between NVML's answer and ours: not comparable.
    if (chargedBytes !== before.chargedBytes || allocations !== before.allocations) return;
    // A charge comes before its allocation and a refund after its free, so NVML may be low for a
    // while. Believing it at once would lend the difference to someone: only what stays is believed.
    if (drift < now.driftBytes && monotonicNs() - sinceNs < STEADY_NS) {
      this.isSettled = false;
      return;
    }
    if (drift !== now.driftBytes) this.#writeDrift(member, device, drift);
    // Without a limit nothing was charged beforehand: a context alone is that far off.
    const isFar = device.memLimit !== null && Math.abs(drift) >= DRIFT_EVENT_BYTES;
    if (isSame && isFar && !sight.isFar) this.#reportDrift(member, device, chargedBytes, nvmlBytes);
    if (isSame) sight.isFar = isFar;
    if (!isSame && isFar !== sight.isFar) this.isSettled = false;
  }

  /**
   * In a pid namespace NVML lists a process by its host pid or not at all. If none of ours was ever
   * listed, nothing that it says can be laid to anyone here: no drift is written from then on.
   */
  #checkSeen(member: Member, device: DeviceState, uses: CardUse[]): void {
    const key = keyOf(member, device);
    const use = member.uses.find((one) => one.device === device.index);
    const isListed = uses.some(({ pid }) => pid === member.pid);
    if (isListed) this.#hasSeen = true;
    if (isListed || (use?.chargedBytes ?? 0) === 0) return void this.#unseen.delete(key);
    const sinceNs = this.#unseen.get(key) ?? monotonicNs();
    this.#unseen.set(key, sinceNs);
    if (this.isBlind || this.#hasSeen || monotonicNs() - sinceNs < UNSEEN_NS) return;
    this.isBlind = true;
    this.#feed.publish({
      pid: member.pid,
      gpu: device.uuid,
      kind: "memory.unseen",
      api: null,
      name: member.name,
      values: { ledger_bytes: use?.chargedBytes ?? 0 },
    });
  }

  #writeDrift(member: Member, device: DeviceState, drift: number): void {
    const at = useOffset(member.slot, device.index) + layout.use.drift_bytes;
    this.#region.store64(at, BigInt(drift));
  }

  #reportDrift(
    { pid, name }: Member,
    { uuid }: DeviceState,
    ledgerBytes: number,
    nvmlBytes: number,
  ): void {
    const values = { ledger_bytes: ledgerBytes, nvml_bytes: nvmlBytes };
    this.#feed.publish({ pid, gpu: uuid, kind: "memory.drift", api: null, name, values });
  }

  /** A process of the tree on the GPU without a slot runs without limits: a static program, or a scrubbed environment. */
  #checkMember(pid: number, { uuid }: DeviceState, census: Census): void {
    if (this.#reported.has(pid)) return;
    if (isMember(pid, census)) return;
    const found = readProcess(pid);
    if (found === null || found.isExiting || found.state === "Z") return;
    if (!carriesVariable(pid, `VGPU_REGION=${this.#region.path}`) && !this.#descends(pid)) return;
    // It may have joined since the slots were read: only what is missing twice is missing.
    if (!this.#suspects.delete(pid)) return void this.#suspects.add(pid);
    this.#reported.add(pid);
    this.#feed.publish({ pid, gpu: uuid, kind: "shim.missing", api: null, name: "", values: {} });
  }

  #descends(pid: number): boolean {
    for (let depth = 0, at = pid; depth < 64 && at > 1; depth++) {
      if (at === this.#target) return true;
      at = readProcess(at)?.parent ?? 0;
    }
    return false;
  }
}

const isMember = (pid: number, census: Census): boolean =>
  [...census.members.values()].some((member) => member.pid === pid);

const keyOf = ({ slot, owner }: Member, { index }: DeviceState) =>
  `${slot} ${owner >> 8n} ${index}`;

/** A slot serves one process after another: a member's name is its process. */
const peakKey = (device: number, member?: Member): string =>
  member === undefined ? `${device}` : `${device} ${member.pid} ${member.startTime}`;
