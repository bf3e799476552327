import * as layout from "./layout.gen.ts";
import { type Region, uuidText, deviceOffset } from "./region.ts";

/** One thing that happened, from a process of the session or from the supervisor. */
export interface Event {
  /** CLOCK_MONOTONIC. */
  monoNs: bigint;
  pid: number;
  /** UUID, null where no device is concerned. */
  gpu: string | null;
  kind: string;
  /** The driver's entry point, null where none is concerned. */
  api: string | null;
  /** The process's name, empty if not known. */
  name: string;
  /** What the kind says more: bytes, ns, percent by the suffix of the name; null is "no limit". */
  values: Record<string, number | string | null>;
}

const STUCK_NS = 100_000_000n;
const { header, record, region: place } = layout;

/** What a record's `check` is if it is the one that was published with this turn: vgpu_ring_check in shim/ring.c. */
export function checkRecord(bytes: Uint8Array, turn: bigint): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, record.bytes);
  let check = Number(BigInt.asUintN(32, turn));
  for (let at = 8; at < record.bytes; at += 4) {
    const word = at === record.check ? 0 : view.getUint32(at, true);
    check = Math.imul(check ^ word, 16777619);
  }
  return check >>> 0;
}

/** False where a writer that had been stopped and lapped has gone on writing into another's record. */
function isWhole(bytes: Uint8Array, turn: bigint): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, record.bytes);
  return view.getUint32(record.check, true) === checkRecord(bytes, turn);
}

/** The reading end of the region's ring: one reader, which no writer waits for. See shim/ring.c. */
export class Ring {
  /** Events that were claimed and never came here: lapped, or their writer died writing. */
  lost = 0;
  readonly #region: Region;
  #next = 0;
  #stuckSince = 0n;

  constructor(region: Region) {
    this.#region = region;
  }

  get isEmpty(): boolean {
    return this.#region.number(header.ring_head) === this.#next;
  }

  /** All that is published, in order. Stops at a record still being written, and gives it up `patienceNs` after it was first met. */
  *read(now: bigint, patienceNs = STUCK_NS): Generator<Event> {
    for (let head = this.#head(); this.#next < head; head = this.#head()) {
      if (head - this.#next > layout.RING_RECORDS) this.#skipTo(head - layout.RING_RECORDS);
      const at = place.ring + (this.#next % layout.RING_RECORDS) * record.bytes;
      const published = 2n * BigInt(Math.floor(this.#next / layout.RING_RECORDS)) + 2n;
      const turn = this.#region.load64(at + record.turn);
      if (turn < published) {
        if (this.#stuckSince === 0n) this.#stuckSince = now;
        if (now - this.#stuckSince < patienceNs) return;
        this.#skipTo(this.#next + 1);
        continue;
      }
      const bytes = this.#region.slice(at, record.bytes);
      const isLapped = this.#region.load64(at + record.turn) !== published;
      if (isLapped || !isWhole(bytes, published)) {
        this.#skipTo(this.#next + 1);
        continue;
      }
      this.#next++;
      this.#stuckSince = 0n;
      yield this.#parse(bytes);
    }
  }

  #head(): number {
    return this.#region.number(header.ring_head);
  }

  #skipTo(position: number): void {
    this.lost += position - this.#next;
    this.#next = position;
    this.#stuckSince = 0n;
  }

  #parse(bytes: Uint8Array): Event {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const text = (at: number, room: number) => {
      const end = bytes.indexOf(0, at);
      return Buffer.from(
        bytes.subarray(at, end < 0 || end > at + room ? at + room : end),
      ).toString();
    };
    const kind = view.getUint32(record.kind, true);
    const device = view.getUint32(record.device, true);
    const known = layout.events[kind];
    const values: Event["values"] = {};
    known?.values.forEach((name: string, index: number) => {
      const value = view.getBigUint64(record.value + index * 8, true);
      values[name] = value === layout.NO_LIMIT ? null : Number(value);
    });
    const said = text(record.api, 40) || null;
    // Of a turn between sessions the shim says whose it was where other events name their entry point.
    const isTheft = known?.name === "compute.stolen";
    if (isTheft && said !== null) values["victim_session"] = said;
    return {
      monoNs: view.getBigUint64(record.mono_ns, true),
      pid: view.getUint32(record.pid, true),
      gpu:
        device < layout.MAX_DEVICES
          ? uuidText(this.#region.slice(deviceOffset(device) + layout.device.uuid, 16))
          : null,
      kind: known?.name ?? `unknown.${kind}`,
      api: isTheft ? null : said,
      name: text(record.name, 16),
      values,
    };
  }
}
