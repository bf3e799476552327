import * as layout from "./layout.gen.ts";
import {
  closeFile,
  lastError,
  listDirectory,
  makeFifo,
  monotonicNs,
  OPEN,
  openFile,
  readHead,
  removeFile,
  rename,
  reserve,
  tryLock,
  wallNs,
} from "./libc.ts";
import type { Split } from "./partition.ts";
import { isPresent, readProcess } from "./process.ts";
import { explain } from "./state-directory.ts";
import { CLASSES, DIRECTIONS, type TimeMode } from "./time-mode.ts";

/** What a session starts with: limits of devices nobody named, and of those somebody did. */
export interface RegionContent {
  /** Bytes; null: no limit. */
  memLimit: number | null;
  /** Bytes above which programs and the user are told; null: none. */
  softBytes?: number | null;
  /** Parts per million of the GPU's time. */
  sharePpm: number;
  /** The same, while nobody else wants the GPU; 0 or absent: as the share. */
  burstPpm?: number;
  /** Absent: as vgpu does by itself. */
  time?: TimeMode;
  /** What a context costs on a card that is not among `devices`; 0: not known. */
  contextBytes: number;
  devices: {
    uuid: string;
    memLimit: number | null;
    softBytes?: number | null;
    sharePpm: number;
    burstPpm?: number;
    contextBytes: number;
    /** Spatial mode: the session's SMs, and how the card splits. */
    partition?: { groups: bigint; sms: number; split: Split };
  }[];
  /** Whether the supervisor will reconcile with NVML. */
  audit: boolean;
  /** Its processes use the MPS daemon that vgpu started, or may. */
  mps?: boolean;
  /** Path of the region of the session around this one. */
  outer?: string;
  /** Where the boards lie (board.ts); the region's own directory if it is not given. */
  boardDirectory?: string;
}

/** A session's header and device entries as they are now. */
export interface SessionHead {
  session: string;
  /** The supervisor's. */
  pid: number;
  view: DataView;
  boardDirectory: string;
  /** Where the entry of each card that it has met or was made for begins in `view`. */
  devices: { uuid: string; at: number }[];
}

/**
 * The other sessions in the state directory that this version made; call it after the sweep, then all
 * of them live. Those inside others are left out: what they have is part of what the outer one has.
 */
export function readSessions(directory: string): SessionHead[] {
  return readHeads(directory).flatMap(({ session, bytes, view }) => {
    if (!isOurs(view) || bytes[layout.header.outer] !== 0) return [];
    const devices = Array.from({ length: layout.MAX_DEVICES }, (_, index) => deviceOffset(index))
      .filter((at) => view.getUint32(at + layout.device.state, true) === layout.DEVICE.READY)
      .map((at) => {
        const uuid = at + layout.device.uuid;
        return { uuid: uuidText(bytes.subarray(uuid, uuid + 16)), at };
      });
    const pid = view.getUint32(layout.header.supervisor_pid, true);
    return [{ session, pid, view, boardDirectory: readBoardDirectory(bytes), devices }];
  });
}

/** A session of which only its place is known: another version of vgpu made it. */
export interface Stranger {
  session: string;
  path: string;
  /** The supervisor's; null if it has ended, or is not known. */
  pid: number | null;
}

/**
 * The sessions on this board that other versions of vgpu made: what they have cannot be known. Call it after
 * the sweep, which judges them as ours. Every version has magic, version, pid and board where ours has them.
 */
export function readStrangers(directory: string, boardDirectory: string): Stranger[] {
  return readHeads(directory).flatMap(({ session, bytes, view }) => {
    if (isOurs(view)) return [];
    const isKnown = view.getBigUint64(layout.header.magic, true) === layout.MAGIC;
    const board = isKnown ? readBoardDirectory(bytes) : "";
    if (board.startsWith("/") && board !== boardDirectory) return [];
    const pid = isKnown ? view.getUint32(layout.header.supervisor_pid, true) : 0;
    const start = view.getBigUint64(layout.header.supervisor_start, true);
    const isThere = pid !== 0 && isPresent(pid, start);
    return [{ session, path: `${directory}/${session}`, pid: isThere ? pid : null }];
  });
}

/** Every session's file, up to its slots. One that is too short is read as if zeros followed. */
function readHeads(directory: string): { session: string; bytes: Uint8Array; view: DataView }[] {
  const names = (listDirectory(directory) ?? []).filter((name) => /^[0-9a-z]{6}$/.test(name));
  return names.flatMap((session) => {
    const found = readHead(`${directory}/${session}`, layout.region.slots);
    if (found === null) return []; // it has just ended
    const bytes = new Uint8Array(layout.region.slots);
    bytes.set(found);
    return [{ session, bytes, view: new DataView(bytes.buffer) }];
  });
}

const isOurs = (view: DataView): boolean =>
  view.getBigUint64(layout.header.magic, true) === layout.MAGIC &&
  view.getUint32(layout.header.layout_version, true) === layout.LAYOUT_VERSION;

function readBoardDirectory(bytes: Uint8Array): string {
  const room = bytes.subarray(layout.header.board_dir, layout.header.mps);
  return Buffer.from(room.subarray(0, Math.max(0, room.indexOf(0)))).toString();
}

/** A session's shared file, mapped: words by their byte offset (see layout.gen.ts). Everything shared is read atomically. */
export class Region {
  readonly path: string;
  readonly #bytes: Uint8Array;
  readonly #words32: Uint32Array;
  readonly #words64: BigUint64Array;

  /** Maps an existing region; check `isCurrent` before use. */
  constructor(path: string) {
    this.path = path;
    this.#bytes = Bun.mmap(path);
    const { buffer, byteOffset, byteLength } = this.#bytes;
    this.#words32 = new Uint32Array(buffer, byteOffset, byteLength >> 2);
    this.#words64 = new BigUint64Array(buffer, byteOffset, byteLength >> 3);
  }

  get bell(): string {
    return `${this.path}.bell`;
  }

  /** False for a file that another version of vgpu made, or nobody finished. */
  get isCurrent(): boolean {
    return (
      this.#bytes.byteLength === layout.region.bytes &&
      this.load64(layout.header.magic) === layout.MAGIC &&
      this.load32(layout.header.layout_version) === layout.LAYOUT_VERSION
    );
  }

  load32(offset: number): number {
    return Atomics.load(this.#words32, offset >> 2);
  }

  load64(offset: number): bigint {
    return Atomics.load(this.#words64, offset >> 3);
  }

  /** A 64-bit word as a number: for counters and sizes below 2⁵³. */
  number(offset: number): number {
    return Number(this.load64(offset));
  }

  store32(offset: number, value: number): void {
    Atomics.store(this.#words32, offset >> 2, value);
  }

  store64(offset: number, value: bigint): void {
    Atomics.store(this.#words64, offset >> 3, BigInt.asUintN(64, value));
  }

  /** Replaces `expected` by `value`; false if another process was faster. */
  swap64(offset: number, expected: bigint, value: bigint): boolean {
    return Atomics.compareExchange(this.#words64, offset >> 3, expected, value) === expected;
  }

  /** A NUL-terminated text of at most `room` bytes. */
  text(offset: number, room: number): string {
    const bytes = this.#bytes.subarray(offset, offset + room);
    const end = bytes.indexOf(0);
    return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString();
  }

  copy(offset: number, bytes: Uint8Array): void {
    this.#bytes.set(bytes, offset);
  }

  slice(offset: number, length: number): Uint8Array {
    return this.#bytes.slice(offset, offset + length);
  }
}

export const deviceOffset = (index: number) => layout.region.devices + index * layout.device.bytes;
export const slotOffset = (index: number) => layout.region.slots + index * layout.slot.bytes;
export const useOffset = (slot: number, device: number) =>
  slotOffset(slot) + layout.slot.use + device * layout.use.bytes;

/** A region that this process made and holds a shared lock on. */
export interface OwnRegion {
  region: Region;
  session: string;
  /** What it was made with. */
  content: RegionContent;
  /** Deletes fifo and file; processes that still map it keep their limits but nobody can join any more. */
  remove(): void;
  /** Leaves the file to the processes that still use it. */
  leave(): void;
}

/**
 * Makes a session's file and fifo in the state directory. The file gets its final name only when it
 * is complete, and the fifo exists only while the file does, so that a kill at any moment leaves
 * nothing that the next sweep cannot judge. Throws VgpuError if /dev/shm has no room.
 */
export function createRegion(directory: string, content: RegionContent): OwnRegion {
  const session = makeId();
  const path = `${directory}/${session}`;
  const unfinished = `${path}.${process.pid}.new`;
  const fd = openFile(unfinished, OPEN.readWrite | OPEN.create | OPEN.exclusive, 0o600);
  if (fd < 0) throw explain(unfinished, lastError());
  const shortage = reserve(fd, layout.region.bytes);
  if (shortage !== null) {
    removeFile(unfinished);
    throw explain(unfinished, shortage);
  }
  tryLock(fd, "shared");
  const region = new Region(unfinished);
  fill(region, session, { boardDirectory: directory, ...content });
  if (!rename(unfinished, path)) throw explain(path, lastError());
  const named = Object.assign(region, { path });
  makeFifo(named.bell);
  const leave = () => closeFile(fd);
  const remove = () => {
    removeFile(named.bell);
    removeFile(path);
    leave();
  };
  return { region: named, session, content, remove, leave };
}

/** Six letters and digits: enough to tell a user's sessions apart. */
function makeId(): string {
  const [random] = crypto.getRandomValues(new Uint32Array(1));
  return (random! % 36 ** 6).toString(36).padStart(6, "0");
}

function fill(region: Region, session: string, content: RegionContent): void {
  const { header } = layout;
  region.store32(header.layout_version, layout.LAYOUT_VERSION);
  region.store32(header.region_bytes, layout.region.bytes);
  region.store64(header.start_mono_ns, monotonicNs());
  region.store64(header.start_wall_ns, wallNs());
  region.copy(header.session, Buffer.from(session));
  region.store32(header.supervisor_pid, process.pid);
  region.store64(header.supervisor_start, readProcess(process.pid)?.startTime ?? 0n);
  region.store64(header.default_mem_limit, limitWord(content.memLimit));
  region.store64(header.default_soft_bytes, BigInt(content.softBytes ?? 0));
  region.store32(header.default_share_ppm, content.sharePpm);
  region.store32(header.default_burst_ppm, content.burstPpm ?? 0);
  if (content.time !== undefined) fillTimeMode(region, content.time);
  region.store32(header.audit, content.audit ? 1 : 0);
  region.store32(header.mps, content.mps ? 1 : 0);
  region.store64(header.default_context_bytes, BigInt(content.contextBytes));
  region.copy(header.board_dir, Buffer.from(content.boardDirectory ?? ""));
  region.copy(header.outer, Buffer.from(content.outer ?? ""));
  content.devices.forEach((device, index) => {
    const at = deviceOffset(index);
    region.copy(at + layout.device.uuid, uuidBytes(device.uuid));
    region.store32(at + layout.device.share_ppm, device.sharePpm);
    region.store32(at + layout.device.burst_ppm, device.burstPpm ?? 0);
    region.store64(at + layout.device.mem_limit, limitWord(device.memLimit));
    region.store64(at + layout.device.soft_bytes, limitWord(device.softBytes ?? null));
    region.store64(at + layout.device.context_bytes, BigInt(device.contextBytes));
    if (device.partition !== undefined) fillPartition(region, at, device.partition);
    region.store32(at + layout.device.state, layout.DEVICE.READY);
  });
  region.store64(header.magic, layout.MAGIC);
}

function fillPartition(
  region: Region,
  at: number,
  { groups, sms, split }: { groups: bigint; sms: number; split: Split },
): void {
  const { device } = layout;
  region.store32(at + device.mode, layout.MODE.SPATIAL);
  region.store32(at + device.sm_count, sms);
  region.store32(at + device.sm_total, split.sms);
  region.store32(at + device.group_sms, split.groupSms);
  for (let word = 0; word < layout.MAX_GROUPS / 64; word++)
    region.store64(at + device.sm_groups + 8 * word, groups >> BigInt(64 * word));
}

function fillTimeMode(region: Region, time: TimeMode): void {
  const { header } = layout;
  const ppm = (factor: number) => Math.round(factor * 1e6);
  const upper = <T extends string>(word: T) => word.toUpperCase() as Uppercase<T>;
  region.store32(header.throttle, layout.THROTTLE[upper(time.throttle)]);
  region.store32(header.weight_ppm, ppm(time.weight));
  region.store32(header.quantum_us, time.quantumUs ?? 0);
  region.store32(header.dampening_ppm, ppm(time.dampening));
  region.store32(header.gang, layout.GANG[upper(time.gang)]);
  for (const name of CLASSES)
    region.store32(
      header.class_weight_ppm + 4 * layout.CLASS[upper(name)],
      ppm(time.classes[name]),
    );
  for (const name of DIRECTIONS)
    region.store64(
      header.copy_bytes_per_s + 8 * layout.COPY[upper(name)],
      BigInt(time.copyRates[name] ?? 0),
    );
}

const limitWord = (bytes: number | null) => (bytes === null ? layout.NO_LIMIT : BigInt(bytes));

/** The 16 bytes of "GPU-8c1f…" or "MIG-…". */
export function uuidBytes(uuid: string): Uint8Array {
  return Buffer.from(uuid.replace(/^[A-Z]+-/, "").replaceAll("-", ""), "hex");
}

/** The other way round. The prefix is always GPU: the region does not say what kind of device it is. */
export function uuidText(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString("hex");
  return `GPU-${[hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-")}`;
}
