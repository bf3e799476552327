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
  /** Ever charged for managed memory, which NVML lists only as far as it lies on the card. */
  managedBytes: number;
  driftBytes: number;
  /** What the process's own charge was at most. */
  peakBytes: number;
  allocations: number;
  denials: number;
  /** Launches that passed a limited gate. */
  launches: number;
  /** GPU time by the process's own marks. */
  busyNs: number;
  throttledNs: number;
  waits: number;
}

/** A device of the session as the region shows it now. */
export interface DeviceState {
  index: number;
  uuid: string;
  /** Bytes; null: no limit. */
  memLimit: number | null;
  /** Bytes; null: no soft limit. */
  softBytes: number | null;
  /** As it is set. */
  sharePpm: number;
  /** Percent of the GPU's time that the gate holds the session to; null: it holds nothing back. */
  sharePercent: number | null;
  /** What it may take of idle time; null: no more than its share. */
  burstPercent: number | null;
  /** Spatial mode: the partition, and the share as it is set, both in percent of the GPU; its SMs of how many. */
  partition: { percent: number; setPercent: number; sms: number; smTotal: number } | null;
  totalBytes: number;
  peakBytes: number;
  denials: number;
  /** GPU time; in a partition its part of the whole GPU's. */
  chargedNs: number;
  /** The session's seat on the GPU's board; null: none yet. */
  seat: number | null;
  copies: Copies;
}

/** What `--copy-bw` let through and held back on one device. Bytes and ns. */
export interface Copies {
  h2dBytes: number;
  d2hBytes: number;
  d2dBytes: number;
  waitedNs: number;
  waits: number;
}

/** Sums over processes, gone ones too, of one device. */
export type Totals = Pick<Use, "throttledNs" | "waits" | "launches" | "allocations">;

/** Who is in the session and who has left it: reads the slots, frees those of the dead. */
export class Census {
  readonly members = new Map<number, Member>();
  /** Processes that ever joined. */
  joined = 0;
  readonly #region: Region;
  readonly #gone: Totals[] = Array.from({ length: layout.MAX_DEVICES }, () => ({
    throttledNs: 0,
    waits: 0,
    launches: 0,
    allocations: 0,
  }));

  constructor(region: Region) {
    this.#region = region;
  }

  /**
   * Brings `members` up to date and returns who has left since the last look. A dead process keeps its
   * slot, and its bytes count, while `holdsMemory` says that the driver still lists it.
   */
  update(holdsMemory: (pid: number) => boolean = () => false): Member[] {
    const left = this.refresh();
    for (let slot = 0; slot < this.#used(); slot++) {
      const owner = this.#region.load64(slotOffset(slot) + layout.slot.owner);
      const state = Number(owner & 0xffn);
      if (state === layout.SLOT.FREE) continue;
      const startTime = this.#region.load64(slotOffset(slot) + layout.slot.start_time);
      const pid = Number(owner >> 32n);
      const isNamed = state !== layout.SLOT.CLAIMING; // its start time is not written yet
      if (isPresent(pid, isNamed ? startTime : 0n) || holdsMemory(pid)) continue;
      const free = (((owner >> 8n) + 1n) & 0xff_ffffn) << 8n;
      if (!this.#region.swap64(slotOffset(slot) + layout.slot.owner, owner, free)) continue;
      const member = this.members.get(slot);
      if (member !== undefined) this.#bury(member, left);
    }
    return left;
  }

  /** Reads the slots into `members` and returns those whose slot is no longer theirs: a shim reaped them. */
  refresh(): Member[] {
    const left: Member[] = [];
    const devices = this.devices();
    for (let slot = 0; slot < this.#used(); slot++) {
      const owner = this.#region.load64(slotOffset(slot) + layout.slot.owner);
      const before = this.members.get(slot);
      if (before !== undefined && before.owner >> 8n !== owner >> 8n) this.#bury(before, left);
      const state = Number(owner & 0xffn);
      if (state === layout.SLOT.FREE || state === layout.SLOT.CLAIMING) continue;
      const startTime = this.#region.load64(slotOffset(slot) + layout.slot.start_time);
      const pid = Number(owner >> 32n);
      this.members.set(slot, this.#read(slot, owner, pid, startTime, devices));
    }
    return left;
  }

  /** True once some process may hold memory on a card: before that NVML has nothing to tell. */
  get holdsCharge(): boolean {
    return [...this.members.values()].some(({ uses }) =>
      uses.some(({ chargedBytes }) => chargedBytes > 0),
    );
  }

  /** A number that is another one when anything of the slots' or devices' accounts has moved; makes no garbage. */
  fingerprint(): number {
    const { device, slot, use } = layout;
    const region = this.#region;
    const used = this.#used();
    let hash = used;
    const mix = (at: number) => {
      hash = (Math.imul(hash, 31) + region.load32(at)) | 0;
      hash = (Math.imul(hash, 31) + region.load32(at + 4)) | 0;
    };
    for (let index = 0; index < layout.MAX_DEVICES; index++) {
      const at = deviceOffset(index);
      if (region.load32(at + device.state) !== layout.DEVICE.READY) continue;
      mix(at + device.charged_ns);
      mix(at + device.mem_limit);
      mix(at + device.share_ppm);
      for (let place = 0; place < used; place++) {
        mix(slotOffset(place) + slot.owner);
        mix(useOffset(place, index) + use.charged_bytes);
        mix(useOffset(place, index) + use.drift_bytes);
        mix(useOffset(place, index) + use.allocations);
        mix(useOffset(place, index) + use.throttled_ns);
      }
    }
    return hash;
  }

  /** True while the slot is still the member's: what was learnt about it may be written there. */
  isCurrent({ slot, owner }: Member): boolean {
    return this.#region.load64(slotOffset(slot) + layout.slot.owner) >> 8n === owner >> 8n;
  }

  #used(): number {
    return Math.min(this.#region.load32(layout.header.slots_used), layout.MAX_SLOTS);
  }

  devices(): DeviceState[] {
    return Array.from({ length: layout.MAX_DEVICES }, (_, index) => index).flatMap((index) => {
      const at = deviceOffset(index);
      const { device } = layout;
      if (this.#region.load32(at + device.state) !== layout.DEVICE.READY) return [];
      const limit = this.#region.load64(at + device.mem_limit);
      const share = this.#region.load32(at + device.share_ppm);
      const burst = this.#region.load32(at + device.burst_ppm);
      const sms = this.#region.load32(at + device.sm_count);
      const smTotal = this.#region.load32(at + device.sm_total);
      const part = sms === 0 ? 1 : sms / smTotal;
      const setPercent = share / (layout.WHOLE_GPU / 100);
      const seat = this.#region.load32(at + device.board_seat);
      const sharePercent = share >= part * layout.WHOLE_GPU ? null : setPercent;
      const mayBurst = sharePercent !== null && burst > share;
      return {
        index,
        uuid: uuidText(this.#region.slice(at + device.uuid, 16)),
        memLimit: limit === layout.NO_LIMIT ? null : Number(limit),
        softBytes: this.#readSoft(at + device.soft_bytes),
        sharePpm: share,
        sharePercent,
        burstPercent: mayBurst ? burst / (layout.WHOLE_GPU / 100) : null,
        partition: sms === 0 ? null : { percent: 100 * part, setPercent, sms, smTotal },
        totalBytes: this.#region.number(at + device.total_bytes),
        peakBytes: this.#region.number(at + device.peak_bytes),
        denials: this.#region.number(at + device.denials),
        chargedNs: this.#region.number(at + device.charged_ns) * part,
        seat: seat === 0 ? null : seat - 1,
        copies: this.#readCopies(at),
      };
    });
  }

  #readCopies(at: number): Copies {
    const { device, COPY } = layout;
    const bytes = (way: number) => this.#region.number(at + device.copied_bytes + 8 * way);
    return {
      h2dBytes: bytes(COPY.H2D),
      d2hBytes: bytes(COPY.D2H),
      d2dBytes: bytes(COPY.D2D),
      waitedNs: this.#region.number(at + device.copy_waited_ns),
      waits: this.#region.number(at + device.copy_waits),
    };
  }

  #readSoft(at: number): number | null {
    const own = this.#region.load64(at);
    const word = own === 0n ? this.#region.load64(layout.header.default_soft_bytes) : own;
    return word === 0n || word === layout.NO_LIMIT ? null : Number(word);
  }

  /** Of one device, over all processes that ever joined. */
  totals(device: number): Totals {
    const sum = { ...this.#gone[device]! };
    for (const { uses } of this.members.values()) {
      const use = uses.find((one) => one.device === device);
      sum.throttledNs += use?.throttledNs ?? 0;
      sum.waits += use?.waits ?? 0;
      sum.launches += use?.launches ?? 0;
      sum.allocations += use?.allocations ?? 0;
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
      managedBytes: number(use.managed_bytes),
      driftBytes: Number(BigInt.asIntN(64, this.#region.load64(at + use.drift_bytes))),
      peakBytes: number(use.peak_bytes),
      allocations: number(use.allocations),
      denials: number(use.denials),
      launches: number(use.launches),
      busyNs: number(use.busy_ns),
      throttledNs: number(use.throttled_ns),
      waits: number(use.waits),
    };
  }

  #bury(member: Member, left: Member[]): void {
    this.members.delete(member.slot);
    left.push(member);
    for (const { device, throttledNs, waits, launches, allocations } of member.uses) {
      this.#gone[device]!.throttledNs += throttledNs;
      this.#gone[device]!.waits += waits;
      this.#gone[device]!.launches += launches;
      this.#gone[device]!.allocations += allocations;
    }
  }
}
