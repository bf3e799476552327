import type { DeviceState } from "./census.ts";
import type { EventFeed } from "./events.ts";
import * as layout from "./layout.gen.ts";
import { monotonicNs, readBytes, readText } from "./libc.ts";
import type { CardUse } from "./nvml.ts";
import { hasVariable, readProcess } from "./process.ts";
import { type Region, slotOffset } from "./region.ts";
import { readSeats } from "./seats.ts";

/** Our own probes and programs that only look at the card are gone sooner. */
const STAY_NS = 1_000_000_000n;

/**
 * Tells of processes on a GPU that we share by time and that are in no session of this user: they take
 * no turns, so the driver gives them time of its own, and everyone's share suffers. Once a process.
 */
export class Outsiders {
  readonly #region: Region;
  readonly #feed: EventFeed;
  /** Since when a process has been seen on a card; null: it is no outsider, or has been told of. */
  readonly #since = new Map<string, bigint | null>();

  constructor(region: Region, feed: EventFeed) {
    this.#region = region;
    this.#feed = feed;
  }

  /** `uses` is what NVML lists on the device, `isOurs` whether a process is of this session. */
  look(device: DeviceState, uses: CardUse[], isOurs: (pid: number) => boolean): void {
    if (device.sharePercent === null) return;
    for (const { pid, bytes } of uses) {
      const found = readProcess(pid);
      if (found === null || found.isExiting || found.state === "Z") continue;
      const key = `${pid} ${found.startTime}`;
      const since = this.#since.get(key);
      if (since === null) continue;
      if (since === undefined) this.#since.set(key, isOurs(pid) ? null : monotonicNs());
      else if (monotonicNs() - since >= STAY_NS) {
        this.#since.set(key, null);
        if (!this.#isInSession(pid, device) && !isOurs(pid)) this.#publish(pid, device, bytes);
      }
    }
  }

  /** By its environment, or, where a program has overwritten that, by the slots of the sessions on the board. */
  #isInSession(pid: number, { uuid }: DeviceState): boolean {
    if (hasVariable(pid, "VGPU_REGION") || nameOf(pid).startsWith("nvidia-cuda-mps")) return true;
    const { header } = layout;
    const directory = this.#region.text(header.board_dir, header.header_pad - header.board_dir);
    return readSeats(directory, uuid).some(({ path }) => holdsSlot(path, pid));
  }

  #publish(pid: number, { uuid }: DeviceState, nvmlBytes: number): void {
    const values = { nvml_bytes: nvmlBytes };
    this.#feed.publish({
      pid,
      gpu: uuid,
      kind: "compute.outsider",
      api: null,
      name: nameOf(pid),
      values,
    });
  }
}

const nameOf = (pid: number): string => (readText(`/proc/${pid}/comm`) ?? "").trimEnd();

/** Whether a process has joined the session with this region. */
function holdsSlot(path: string, pid: number): boolean {
  const bytes = readBytes(path);
  if (bytes === null || bytes.length < layout.region.bytes) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const used = Math.min(view.getUint32(layout.header.slots_used, true), layout.MAX_SLOTS);
  return Array.from({ length: used }, (_, slot) => slotOffset(slot) + layout.slot.owner).some(
    (at) => {
      const owner = view.getBigUint64(at, true);
      return Number(owner & 0xffn) !== layout.SLOT.FREE && Number(owner >> 32n) === pid;
    },
  );
}
