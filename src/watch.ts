import { Audit } from "./audit.ts";
import type { Census, Member } from "./census.ts";
import type { EventFeed } from "./events.ts";
import { header } from "./layout.gen.ts";
import { monotonicNs } from "./libc.ts";
import type { Nvml } from "./nvml.ts";
import type { Region } from "./region.ts";

const SOON_MS = 20;
const BUSY_MS = 1000;
const IDLE_MS = 2000;
const THROTTLE_REPORT_NS = 1_000_000_000n;

type Reported = { waits: number; throttledNs: number; chargedNs: number; atNs: bigint };

/**
 * The supervisor's regular look at its session: who died, what NVML says, how much was held back. Often
 * while memory moves, seldom when nothing does.
 */
export class Watch {
  readonly #region: Region;
  readonly #census: Census;
  readonly #feed: EventFeed;
  readonly #openNvml: () => Nvml | null;
  readonly #reported = new Map<number, Reported>();
  /** Processes that said goodbye themselves. */
  readonly cleanExits = new Set<number>();
  readonly #nothing: Reported = { waits: 0, throttledNs: 0, chargedNs: 0, atNs: monotonicNs() };
  #audit: Audit | null | undefined;
  #nudge: () => void = () => {};
  #isOver = false;
  #before = { memory: "", compute: 0 };

  constructor(region: Region, census: Census, feed: EventFeed, openNvml: () => Nvml | null) {
    this.#region = region;
    this.#census = census;
    this.#feed = feed;
    this.#openNvml = openNvml;
  }

  /** Looks until `stop`. `target` is the pid that vgpu started. */
  async run(target: number): Promise<void> {
    let pause = IDLE_MS;
    while (!this.#isOver) {
      const nudged = new Promise<boolean>((resolve) => (this.#nudge = () => resolve(true)));
      const isNudged = await Promise.race([nudged, Bun.sleep(pause)]);
      if (this.#isOver) break;
      this.look(target);
      const moved = this.#whatMoved();
      if (moved === "memory" || isNudged) pause = SOON_MS;
      else pause = Math.min(pause * 2, moved === "compute" ? BUSY_MS : IDLE_MS);
    }
  }

  /** A shim asks for a fresh look at NVML before it refuses. */
  nudgeIfWanted(): void {
    if (this.#region.load32(header.audit_wanted) !== this.#region.load32(header.audit_done))
      this.#nudge();
  }

  /** Something happened: look now. */
  nudge(): void {
    this.#nudge();
  }

  stop(): void {
    this.#isOver = true;
    this.#nudge();
  }

  /** One look. Nothing is done before a process has joined. */
  look(target: number): void {
    const wanted = this.#region.load32(header.audit_wanted);
    for (const member of this.#census.update(this.#audit?.holdsMemory)) this.#reportExit(member);
    if (this.#census.members.size > 0) {
      if (this.#audit === undefined) this.#audit = this.#startAudit(target);
      this.#audit?.look(this.#census);
    }
    this.#region.store32(header.audit_done, wanted);
    this.reportThrottling(THROTTLE_REPORT_NS);
  }

  /** What the gate held back since the last report, if that is `minimumNs` ago. */
  reportThrottling(minimumNs: bigint): void {
    const atNs = monotonicNs();
    for (const device of this.#census.devices()) {
      if (device.sharePercent === null) continue;
      const { waits, throttledNs } = this.#census.totals(device.index);
      const now: Reported = { waits, throttledNs, chargedNs: device.chargedNs, atNs };
      const last = this.#reported.get(device.index) ?? this.#nothing;
      const elapsedNs = atNs - last.atNs;
      if (elapsedNs < minimumNs) continue;
      this.#reported.set(device.index, now);
      if (waits === last.waits && throttledNs === last.throttledNs) continue;
      const realised = ((now.chargedNs - last.chargedNs) / Math.max(1, Number(elapsedNs))) * 100;
      const values = {
        waits: waits - last.waits,
        waited_ns: throttledNs - last.throttledNs,
        realised_share: Number(realised.toFixed(2)),
        share: device.sharePercent,
      };
      this.#feed.publish({
        pid: 0,
        gpu: device.uuid,
        kind: "compute.throttled",
        api: null,
        name: "",
        values,
      });
    }
  }

  #startAudit(target: number): Audit | null {
    const nvml = this.#openNvml();
    return nvml === null ? null : new Audit(this.#region, nvml, this.#feed, target);
  }

  #reportExit({ pid, name }: Member): void {
    const values = { cause: this.cleanExits.has(pid) ? "exit" : "unknown" };
    this.#feed.publish({ pid, gpu: null, kind: "process.exit", api: null, name, values });
  }

  #whatMoved(): "memory" | "compute" | null {
    const members = [...this.#census.members.values()];
    const memory = members
      .map(
        ({ owner, uses }) =>
          `${owner}:${uses.map((use) => `${use.chargedBytes},${use.allocations}`)}`,
      )
      .join(" ");
    const compute = this.#census.devices().reduce((sum, { chargedNs }) => sum + chargedNs, 0);
    const moved =
      memory !== this.#before.memory
        ? "memory"
        : compute !== this.#before.compute
          ? "compute"
          : null;
    this.#before = { memory, compute };
    return moved;
  }
}
