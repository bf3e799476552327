import type { DeviceState, Member } from "./census.ts";
import type { EventFeed } from "./events.ts";
import { formatBytes } from "./units.ts";

type Limits = Pick<DeviceState, "memLimit" | "sharePercent">;

/** Tells when a limit of the running session has been changed, and that memory in use is above a new one. */
export class LimitChanges {
  readonly #feed: EventFeed;
  readonly #note: (text: string) => void;
  readonly #known = new Map<string, Limits>();
  readonly #set = new Map<string, number>();

  constructor(feed: EventFeed, note: (text: string) => void) {
    this.#feed = feed;
    this.#note = note;
  }

  look(devices: DeviceState[], members: Member[]): void {
    devices.forEach((device) => this.#lookAtPartition(device));
    for (const { index, uuid, memLimit, sharePercent } of devices) {
      const before = this.#known.get(uuid);
      this.#known.set(uuid, { memLimit, sharePercent });
      if (before === undefined) continue;
      if (before.memLimit === memLimit && before.sharePercent === sharePercent) continue;
      const usedBytes = usedOn(index, members);
      const values = {
        limit_bytes: memLimit,
        share_ppm: Math.round((sharePercent ?? 100) * 10_000),
        used_bytes: usedBytes,
      };
      this.#feed.publish({ pid: 0, gpu: uuid, kind: "limit.changed", api: null, name: "", values });
      if (memLimit !== null && usedBytes > memLimit && before.memLimit !== memLimit) {
        const [limit, used] = [formatBytes(memLimit), formatBytes(usedBytes)];
        this.#note(
          `the limit on ${uuid} is now ${limit}, below the ${used} in use: nothing more is given until it fits`,
        );
      }
    }
  }

  /** SMs are given out at the start. What was asked for then may lie above them by the rounding. */
  #lookAtPartition({ uuid, partition }: DeviceState): void {
    if (partition === null) return;
    const { percent, setPercent } = partition;
    const before = this.#set.get(uuid);
    this.#set.set(uuid, setPercent);
    if (before === undefined || before === setPercent || setPercent <= percent) return;
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
