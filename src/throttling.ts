import type { Census, DeviceState } from "./census.ts";
import type { EventFeed } from "./events.ts";
import { header } from "./layout.gen.ts";
import { monotonicNs } from "./libc.ts";
import type { Region } from "./region.ts";
import type { Event } from "./ring.ts";
import { readSeats, type Seat } from "./seats.ts";

const REPORT_NS = 1_000_000_000n;
const BOARD_DIRECTORY_ROOM = header.header_pad - header.board_dir;

/** What had been held back on a device up to one moment. */
interface Account {
  atNs: bigint;
  waits: number;
  throttledNs: number;
  launches: number;
  chargedNs: number;
  turns: Turns;
}

/** What the session's seat on the board says. */
export type Turns = Pick<Seat, "turns" | "stolen" | "waitedNs">;

const NO_TURNS: Turns = { turns: 0, stolen: 0, waitedNs: 0 };

/** Tells once a second, while it changes, what the gate held back, and when shares are scaled. */
export class Throttling {
  readonly #region: Region;
  readonly #census: Census;
  readonly #feed: EventFeed;
  readonly #note: (text: string) => void;
  readonly #start: Account = {
    atNs: monotonicNs(),
    waits: 0,
    throttledNs: 0,
    launches: 0,
    chargedNs: 0,
    turns: NO_TURNS,
  };
  readonly #reported = new Map<number, Account>();
  readonly #boards = new Map<number, { atNs: bigint; seats: Seat[] }>();
  /** The last that was read of our own seats. */
  readonly #turns = new Map<number, Turns>();
  /** The sum of shares that was told last. */
  readonly #sums = new Map<number, number>();

  constructor(region: Region, census: Census, feed: EventFeed, note: (text: string) => void) {
    this.#region = region;
    this.#census = census;
    this.#feed = feed;
    this.#note = note;
  }

  /** The turns of our session on a device, as far as they are known. */
  turnsOf(device: number): Turns {
    return this.#turns.get(device) ?? NO_TURNS;
  }

  /** Looks at the boards and reports, both at most once a second; at the boards also when they `haveChanged`. */
  look(haveChanged = false): void {
    for (const device of this.#census.devices()) {
      this.#readBoard(device, haveChanged ? 0n : REPORT_NS);
      this.#report(device, REPORT_NS);
    }
  }

  /** The last report, at once. */
  finish(): void {
    for (const device of this.#census.devices()) {
      this.#readBoard(device, 0n);
      this.#report(device, 0n);
    }
  }

  #report(device: DeviceState, minimumNs: bigint): void {
    const { index, uuid, chargedNs, sharePercent, burstPercent } = device;
    const atNs = monotonicNs();
    const last = this.#reported.get(index) ?? this.#start;
    const elapsedNs = atNs - last.atNs;
    if (elapsedNs < minimumNs) return;
    const { waits, throttledNs, launches } = this.#census.totals(index);
    const turns = this.turnsOf(index);
    const isSame = waits === last.waits && throttledNs === last.throttledNs;
    const told = isSame ? last : { launches, turns }; // what is not told now is told next time
    this.#reported.set(index, { ...told, atNs, waits, throttledNs, chargedNs });
    if (isSame) return;
    const realised = ((chargedNs - last.chargedNs) / Math.max(1, Number(elapsedNs))) * 100;
    this.#publish("compute.throttled", uuid, {
      waits: waits - last.waits,
      waited_ns: throttledNs - last.throttledNs,
      launches: launches - last.launches,
      realised_share: Number(realised.toFixed(2)),
      share: sharePercent,
      burst: burstPercent,
      turns: turns.turns - last.turns.turns,
      turns_stolen: turns.stolen - last.turns.stolen,
      turn_waited_ns: turns.waitedNs - last.turns.waitedNs,
    });
  }

  #readBoard({ index, uuid, seat, sharePercent }: DeviceState, minimumNs: bigint): void {
    if (seat === null) return;
    const atNs = monotonicNs();
    if (atNs - (this.#boards.get(index)?.atNs ?? 0n) < minimumNs) return;
    const directory = this.#region.text(header.board_dir, BOARD_DIRECTORY_ROOM);
    const seats = readSeats(directory, uuid);
    this.#boards.set(index, { atNs, seats });
    const own = seats.find((one) => one.index === seat && one.path === this.#region.path);
    if (own === undefined) return;
    const { turns, stolen, waitedNs } = own;
    this.#turns.set(index, { turns, stolen, waitedNs });
    if (sharePercent !== null && !own.isSpatial) this.#checkSum(index, uuid, sharePercent, seats);
  }

  /** Shares that sum above 100 are scaled to 100 while all are busy. */
  #checkSum(index: number, uuid: string, share: number, seats: Seat[]): void {
    const shares = seats.flatMap((seat) => (seat.isSpatial ? [] : (seat.sharePercent ?? [])));
    const sum = Number(shares.reduce((total, one) => total + one, 0).toFixed(4));
    const told = this.#sums.get(index);
    if (sum === told || (sum <= 100 && told === undefined)) return;
    const scaled = sum > 100 ? (share / sum) * 100 : share;
    if (sum > 100 && told === undefined)
      this.#note(
        `the shares of ${shares.length} sessions on ${uuid} come to ${sum} %: while all are busy, this session's ${share} % is ${Number(scaled.toFixed(1))} %`,
      );
    if (sum > 100) this.#sums.set(index, sum);
    else this.#sums.delete(index);
    this.#publish("compute.scaled", uuid, {
      share_sum: sum,
      sessions: shares.length,
      share,
      scaled_share: Number(scaled.toFixed(2)),
    });
  }

  #publish(kind: string, gpu: string, values: Event["values"]): void {
    this.#feed.publish({ pid: 0, gpu, kind, api: null, name: "", values });
  }
}
