import * as layout from "./layout.gen.ts";
import { readHead } from "./libc.ts";
import { isPresent } from "./process.ts";

/** A session's place on the board of one GPU (shim/board.h), as it stood when it was read. */
export interface Seat {
  index: number;
  session: string;
  /** Of its region. */
  path: string;
  /** Percent; null: it asked for none. */
  sharePercent: number | null;
  /** It has SMs of its own, so that its share is none of the card's time. */
  isSpatial: boolean;
  /** Turns it took, and those it lost because it did not answer. */
  turns: number;
  stolen: number;
  /** ns that it waited for the turn. */
  waitedNs: number;
}

/** The seats of live sessions on a GPU's board; none where there is no board, or another version's. */
export function readSeats(directory: string, uuid: string): Seat[] {
  const bytes = readHead(`${directory}/board-${uuid}`, layout.board.bytes);
  if (bytes === null || bytes.length < layout.board.bytes) return [];
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const number = (at: number) => Number(view.getBigUint64(at, true));
  const text = (at: number, room: number) => {
    const end = bytes.indexOf(0, at);
    return Buffer.from(
      bytes.subarray(at, Math.min(end < 0 ? Infinity : end, at + room)),
    ).toString();
  };
  const { board_header: head, seat } = layout;
  if (view.getBigUint64(head.magic, true) !== layout.BOARD_MAGIC) return [];
  if (view.getUint32(head.board_version, true) !== layout.BOARD_VERSION) return [];
  const used = Math.min(view.getUint32(head.seats_used, true), layout.MAX_SEATS);
  return Array.from({ length: used }, (_, index) => index).flatMap((index) => {
    const at = layout.board.seats + index * seat.bytes;
    const state = Number(view.getBigUint64(at + seat.owner, true) & 0xffn);
    const supervisor = view.getUint32(at + seat.supervisor_pid, true);
    if (state !== layout.SLOT.LIVE) return [];
    if (!isPresent(supervisor, view.getBigUint64(at + seat.supervisor_start, true))) return [];
    const share = view.getUint32(at + seat.share_ppm, true);
    return {
      index,
      session: text(at + seat.session, 16),
      path: text(at + seat.region, 256),
      sharePercent: share >= layout.WHOLE_GPU ? null : share / (layout.WHOLE_GPU / 100),
      isSpatial: view.getUint32(at + seat.group_count, true) > 0,
      turns: number(at + seat.turns),
      stolen: number(at + seat.stolen),
      waitedNs: number(at + seat.waited_ns),
    };
  });
}
