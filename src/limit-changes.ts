import type { DeviceState, Member } from "./census.ts";
import type { EventFeed } from "./events.ts";
import { type RegionContent, uuidBytes, uuidText } from "./region.ts";
import { formatBytes } from "./units.ts";

type Limits = Pick<DeviceState, "memLimit" | "sharePpm">;
type Start = Pick<RegionContent, "memLimit" | "sharePpm" | "devices">;

/** Tells when a limit of the running session has been changed, and that memory in use is above a new one. */
export class LimitChanges {
  readonly #start: Start;
  readonly #feed: EventFeed;
  readonly #note: (text: string) => void;
  readonly #known = new Map<string, Limits>();

  /** `start`: the limits that the session was made with. A card may be met for the first time when they have changed. */
  constructor(start: Start, feed: EventFeed, note: (text: string) => void) {
    this.#start = start;
    this.#feed = feed;
    this.#note = note;
  }

  look(devices: DeviceState[], members: Member[]): void {
    for (const { index, uuid, memLimit, sharePpm, partition } of devices) {
      const before = this.#known.get(uuid) ?? this.#startOf(uuid);
      this.#known.set(uuid, { memLimit, sharePpm });
      if (before.memLimit === memLimit && before.sharePpm === sharePpm) continue;
      const usedBytes = usedOn(index, members);
      const values = {
        limit_bytes: memLimit,
        share_ppm: sharePpm,
        used_bytes: usedBytes,
      };
      this.#feed.publish({ pid: 0, gpu: uuid, kind: "limit.changed", api: null, name: "", values });
      if (memLimit !== null && usedBytes > memLimit && before.memLimit !== memLimit) {
        const [limit, used] = [formatBytes(memLimit), formatBytes(usedBytes)];
        this.#note(
          `the limit on ${uuid} is now ${limit}, below the ${used} in use: nothing more is given until it fits`,
        );
      }
      if (partition !== null && before.sharePpm !== sharePpm) this.#notePartition(uuid, partition);
    }
  }

  #startOf(uuid: string): Limits {
    const isThis = (named: { uuid: string }) => uuidText(uuidBytes(named.uuid)) === uuid;
    return this.#start.devices.find(isThis) ?? this.#start;
  }

  /** SMs are given out at the start. What was asked for then may lie above them by the rounding. */
  #notePartition(uuid: string, { percent, setPercent }: NonNullable<DeviceState["partition"]>) {
    if (setPercent <= percent) return;
    this.#note(
      `the share on ${uuid} is now ${setPercent} %, above the session's own SMs (${percent.toFixed(1)} %): all of those are used, more needs a new start`,
    );
  }
}

const usedOn = (device: number, members: Member[]): number =>
  members
    .flatMap(({ uses }) => uses)
    .filter((use) => use.device === device)
    .reduce((sum, { chargedBytes, driftBytes }) => sum + chargedBytes + driftBytes, 0);
