import * as layout from "./layout.gen.ts";
import { isPresent } from "./process.ts";
import { deviceOffset, type Region, slotOffset, useOffset, uuidText } from "./region.ts";

/** A process that has joined the session. */
export interface Member {
  slot: number;
  owner: bigint;
  pid: number;
  startTime: bigint;
  name: string;
  attachNs: bigint;
  /** By device index. */
  uses: Use[];
}

/** What one process did on one device. Bytes and ns. */
export interface Use {
  device: number;
  chargedBytes: number;
  driftBytes: number;
  allocations: number;
  denials: number;
  throttledNs: number;
  waits: number;
}

/** A device of the session as the region shows it now. */
export interface DeviceState {
  index: number;
  uuid: string;
  /** Bytes; null: no limit. */
  memLimit: number | null;
  sharePercent: number | null;
  totalBytes: number;
  peakBytes: number;
  denials: number;
  chargedNs: number;
}

/** Sums over processes, gone ones too, of one device. */
export type Totals = Pick<Use, "throttledNs" | "waits">;

/** Who is in the session and who has left it: reads the slots, frees those of the dead. */
export class Census {
  readonly members = new Map<number, Member>();
  /** Processes that ever joined. */
  joined = 0;
  readonly #region: Region;
  readonly #gone: Totals[] = Array.from({ length: layout.MAX_DEVICES }, () => ({
    throttledNs: 0,
    waits: 0,
  }));

  constructor(region: Region) {
    this.#region = region;
  }

  /**
   * Brings `members` up to date and returns who has left since the last look. A dead process keeps its
   * slot, and its bytes count, while `holdsMemory` says that the driver still lists it.
   */
  update(holdsMemory: (pid: number) => boolean = () => false): Member[] {
    const left: Member[] = [];
    const devices = this.devices();
    const used = Math.min(this.#region.load32(layout.header.slots_used), layout.MAX_SLOTS);
    for (let slot = 0; slot < used; slot++) {
      const owner = this.#region.load64(slotOffset(slot) + layout.slot.owner);
      const before = this.members.get(slot);
      if (before !== undefined && before.owner >> 8n !== owner >> 8n) {
        this.#bury(before, left); // a shim reaped it before us
      }
      const state = Number(owner & 0xffn);
      if (state === layout.SLOT.FREE) continue;
      const startTime = this.#region.load64(slotOffset(slot) + layout.slot.start_time);
      const pid = Number(owner >> 32n);
      const isNamed = state !== layout.SLOT.CLAIMING; // its start time is not written yet
      if (isNamed) this.members.set(slot, this.#read(slot, owner, pid, startTime, devices));
      if (isPresent(pid, isNamed ? startTime : 0n) || holdsMemory(pid)) continue;
      const free = (((owner >> 8n) + 1n) & 0xff_ffffn) << 8n;
      if (!this.#region.swap64(slotOffset(slot) + layout.slot.owner, owner, free)) continue;
      const member = this.members.get(slot);
      if (member !== undefined) this.#bury(member, left);
    }
    return left;
  }

  devices(): DeviceState[] {
    return Array.from({ length: layout.MAX_DEVICES }, (_, index) => index).flatMap((index) => {
      const at = deviceOffset(index);
      const { device } = layout;
      if (this.#region.load32(at + device.state) !== layout.DEVICE.READY) return [];
      const limit = this.#region.load64(at + device.mem_limit);
      const share = this.#region.load32(at + device.share_ppm);
      return {
        index,
        uuid: uuidText(this.#region.slice(at + device.uuid, 16)),
        memLimit: limit === layout.NO_LIMIT ? null : Number(limit),
        sharePercent: share >= layout.WHOLE_GPU ? null : share / (layout.WHOLE_GPU / 100),
        totalBytes: this.#region.number(at + device.total_bytes),
        peakBytes: this.#region.number(at + device.peak_bytes),
        denials: this.#region.number(at + device.denials),
        chargedNs: this.#region.number(at + device.charged_ns),
      };
    });
  }

  /** Of one device, over all processes that ever joined. */
  totals(device: number): Totals {
    const sum = { ...this.#gone[device]! };
    for (const { uses } of this.members.values()) {
      const use = uses.find((one) => one.device === device);
      sum.throttledNs += use?.throttledNs ?? 0;
      sum.waits += use?.waits ?? 0;
    }
    return sum;
  }

  #read(
    slot: number,
    owner: bigint,
    pid: number,
    startTime: bigint,
    devices: DeviceState[],
  ): Member {
    const known = this.members.get(slot);
    const uses = devices.map(({ index }) => this.readUse(slot, index));
    if (known?.owner === owner) return { ...known, uses };
    if (known === undefined) this.joined++;
    const at = slotOffset(slot);
    const name = this.#region.text(at + layout.slot.name, 16);
    const attachNs = this.#region.load64(at + layout.slot.attach_mono_ns);
    return { slot, owner, pid, startTime, name, attachNs, uses };
  }

  readUse(slot: number, device: number): Use {
    const at = useOffset(slot, device);
    const number = (field: number) => this.#region.number(at + field);
    const { use } = layout;
    return {
      device,
      chargedBytes: number(use.charged_bytes),
      driftBytes: Number(BigInt.asIntN(64, this.#region.load64(at + use.drift_bytes))),
      allocations: number(use.allocations),
      denials: number(use.denials),
      throttledNs: number(use.throttled_ns),
      waits: number(use.waits),
    };
  }

  #bury(member: Member, left: Member[]): void {
    this.members.delete(member.slot);
    left.push(member);
    for (const { device, throttledNs, waits } of member.uses) {
      this.#gone[device]!.throttledNs += throttledNs;
      this.#gone[device]!.waits += waits;
    }
  }
}
