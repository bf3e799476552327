import { chmodSync } from "node:fs";
import { Audit } from "./audit.ts";
import { readCause } from "./cause.ts";
import type { Census, DeviceState, Member } from "./census.ts";
import type { EventFeed } from "./events.ts";
import { header } from "./layout.gen.ts";
import { monotonicNs } from "./libc.ts";
import { LimitChanges } from "./limit-changes.ts";
import type { Listing } from "./lister.ts";
import { PressureWatch } from "./pressure.ts";
import { isPresent } from "./process.ts";
import type { Region, RegionContent } from "./region.ts";
import type { Event } from "./ring.ts";
import { Throttling, type Turns } from "./throttling.ts";
import { formatBytes } from "./units.ts";

const SOON_MS = 20;
/** Younger than this a look at NVML is not repeated; the next one comes after SOON_MS. */
const FRESH_MS = 10;
/** While only the GPU is busy. */
const BUSY_MS = 1000;
/** While nothing moves: a glance at the region and at who lives. */
const GLANCE_MS = 2500;
/** While nothing moves: NVML, and the glance where no process has joined. */
const IDLE_MS = 5000;
const MAX_RECORDS = 64;

/** What one process did on one device, for the summary. Bytes, bytes/s, ns. */
export interface ProcessRecord {
  pid: number;
  name: string;
  device: number;
  peakBytes: number;
  allocations: number;
  denials: number;
  velocity: number;
  /** Launches that passed a limited gate, and what they took of the GPU. */
  launches: number;
  busyNs: number;
  throttledNs: number;
  waits: number;
}

/**
 * The supervisor's regular look at its session: who died, what NVML says, how much was held back. Often
 * while memory moves, seldom when nothing does.
 */
export class Watch {
  readonly #region: Region;
  readonly #census: Census;
  readonly #feed: EventFeed;
  readonly #lister: Listing;
  readonly #audit: Audit;
  readonly #pressure: PressureWatch;
  readonly #throttling: Throttling;
  readonly #limitChanges: LimitChanges;
  /** Processes that said goodbye themselves and are not yet told of: their names. */
  readonly goodbyes = new Map<number, string>();
  readonly #note: (text: string) => void;
  readonly #noted = new Set<string>();
  readonly #records: ProcessRecord[] = [];
  readonly #target: number;
  /** The target once it has left: it is told of at the end, when its status is known. */
  readonly #targetLeft: Member[] = [];
  /** How those ended whose end was seen, by pid and start time. */
  readonly #causes = new Map<string, Event["values"]>();
  /** Exits that are being told of, and whose. */
  #reporting: Promise<unknown> = Promise.resolve();
  readonly #telling = new Set<number>();
  #nudge: () => void = () => {};
  #isOver = false;
  #isLooking = false;
  #lookedNs = 0n;
  #fingerprint = 0;
  #limitsVersion = 0;
  #before = { memory: "", compute: 0 };

  /** `start`: what the region was made with; `target`: the pid that vgpu started. */
  constructor(
    region: Region,
    start: RegionContent,
    census: Census,
    feed: EventFeed,
    lister: Listing,
    target: number,
    note: (text: string) => void,
  ) {
    this.#region = region;
    this.#target = target;
    this.#census = census;
    this.#feed = feed;
    this.#lister = lister;
    this.#audit = new Audit(region, feed, target);
    this.#pressure = new PressureWatch(region, feed, () => signalPressure(region));
    this.#throttling = new Throttling(region, census, feed, note);
    this.#limitChanges = new LimitChanges(start, feed, note);
    this.#note = note;
  }

  /** Looks until `stop`. */
  async run(): Promise<void> {
    let pause = IDLE_MS;
    while (!this.#isOver) {
      const nudged = new Promise<boolean>((resolve) => (this.#nudge = () => resolve(true)));
      let timer: Timer | undefined;
      const slept = new Promise<boolean>((resolve) => {
        timer = setTimeout(resolve, pause, false);
      });
      const isNudged = await Promise.race([nudged, slept]);
      clearTimeout(timer);
      if (this.#isOver) break;
      const moved = this.look(isNudged || pause < BUSY_MS);
      const isAlone = this.#census.members.size === 0;
      const longest = isAlone ? IDLE_MS : moved === "compute" ? BUSY_MS : GLANCE_MS;
      if (moved === "memory" || isNudged) pause = SOON_MS;
      else pause = Math.min(pause * 2, longest);
    }
  }

  /** A shim waits for a fresh look at NVML, or has crossed the next level of pressure; or limits have changed, or who shares a GPU. */
  answerBell(): void {
    const isAsked =
      this.#region.load32(header.audit_wanted) !== this.#region.load32(header.audit_done);
    // The answer first: it is waited for.
    if (isAsked) this.#startAudit().then(() => this.#nudge());
    else if (this.#region.load32(header.limits_version) !== this.#limitsVersion) this.#nudge();
    else if (this.#pressure.isCrossed(this.#census.devices())) this.#nudge();
  }

  /** Something happened: look now. */
  nudge(): void {
    this.#nudge();
  }

  stop(): void {
    this.#isOver = true;
    this.#nudge();
  }

  /** One look, which asks NVML if that is due, or memory moved lately; the answer is dealt with when it comes. */
  look(isActive = true): "memory" | "compute" | null {
    if (!isActive && this.#isQuiet()) return null;
    this.#reportExits(this.#update());
    for (const [pid, name] of this.#unseen()) {
      if (pid === this.#target) continue; // told of at the end, with its status
      this.goodbyes.delete(pid);
      this.#publishExit(pid, name, { cause: "exit" });
    }
    const moved = this.#whatMoved();
    const devices = this.#census.devices();
    this.#pressure.look([...this.#census.members.values()], devices, Number(monotonicNs()));
    // A bell has just been answered by a look: each one at NVML holds up every driver call on the card.
    const isFresh = monotonicNs() - this.#lookedNs < BigInt(FRESH_MS) * 1_000_000n;
    const isWanted = isActive || moved !== null || this.#isAuditDue() || !this.#audit.isSettled;
    if (isWanted && !isFresh) this.#startAudit();
    this.#limitChanges.look(devices, [...this.#census.members.values()]);
    for (const device of devices) this.#checkLimit(device);
    const version = this.#region.load32(header.limits_version);
    this.#throttling.look(version !== this.#limitsVersion); // raised too when a seat is taken or freed
    this.#limitsVersion = version;
    return moved;
  }

  /** Who has left since the last look and what is known of how, the last to be told of. */
  async finish(): Promise<[Pick<Member, "pid" | "name">, Event["values"]][]> {
    const left = this.#census.update();
    await Promise.all([this.#feed.flush(), this.#reporting]);
    for (const device of this.#census.devices()) this.#checkLimit(device);
    this.#throttling.finish();
    this.#keepRecords([...left, ...this.#census.members.values()]);
    const told: Awaited<ReturnType<Watch["finish"]>> = [];
    for (const member of [...this.#targetLeft, ...left]) told.push([member, this.#causeOf(member)]);
    for (const [pid, name] of this.#unseen()) told.push([{ pid, name }, { cause: "exit" }]);
    return told;
  }

  /** What each process did on each device, those that used most first; at most 64. */
  get records(): ProcessRecord[] {
    return this.#records.toSorted((a, b) => b.peakBytes - a.peakBytes).slice(0, MAX_RECORDS);
  }

  /** What the session's seat on a device's board says. */
  turnsOf(device: number): Turns {
    return this.#throttling.turnsOf(device);
  }

  /** The most memory that NVML listed for the session on this device, bytes. */
  mostSeen(device: number): number {
    return this.#audit.mostSeen(device);
  }

  /** The fastest growth of a device in bytes/s. */
  peakVelocity(device: number): number {
    return this.#pressure.peakVelocity(device);
  }

  /** Nothing moved, nobody died, nothing is due: the glance of a session that rests, which is most of them. */
  #isQuiet(): boolean {
    const fingerprint = this.#census.fingerprint();
    const isSame = fingerprint === this.#fingerprint;
    this.#fingerprint = fingerprint;
    if (!isSame || !this.#audit.isSettled) return false;
    if (this.#pressure.isMoving) return false;
    if (this.#isAuditDue()) return false;
    for (const { pid, startTime } of this.#census.members.values())
      if (!isPresent(pid, startTime)) return false;
    return true;
  }

  #isAuditDue(): boolean {
    return (
      this.#census.members.size > 0 &&
      monotonicNs() - this.#lookedNs >= BigInt(IDLE_MS - SOON_MS) * 1_000_000n
    );
  }

  /** Brings the census up to date. Until NVML has answered once, the dead keep what they held: the driver may hold it still. */
  #update(): Member[] {
    for (const { pid, startTime } of this.#census.members.values()) {
      const cause = readCause(pid, startTime);
      if (cause !== null) this.#causes.set(`${pid} ${startTime}`, cause);
    }
    const isStarting = this.#lister.state === "starting";
    return this.#census.update((pid) => isStarting || this.#audit.holdsMemory(pid));
  }

  /** Asks NVML and compares. Requests that come meanwhile are answered by one further look. */
  async #startAudit(): Promise<void> {
    if (this.#isLooking || this.#isOver) return;
    this.#isLooking = true;
    try {
      for (let isWanted = true; isWanted && !this.#isOver;) {
        const wanted = this.#region.load32(header.audit_wanted);
        await this.#auditOnce();
        if (this.#isOver) return;
        this.#region.store64(header.audit_ns, this.#lookedNs);
        this.#region.store32(header.audit_done, wanted);
        isWanted = this.#region.load32(header.audit_wanted) !== wanted;
      }
    } finally {
      this.#isLooking = false;
    }
  }

  /** Where nobody holds a charge nobody has a context: NVML is left alone, and so are those who start. */
  async #auditOnce(): Promise<void> {
    this.#lookedNs = monotonicNs();
    this.#reportExits(this.#census.refresh());
    if (!this.#census.holdsCharge || this.#lister.state === "absent") return;
    const question = {
      members: [...this.#census.members.values()],
      devices: this.#census.devices(),
    };
    const answer = await this.#lister.ask(question.devices.map(({ uuid }) => uuid));
    if (answer === null || this.#isOver) return;
    const wasBlind = this.#audit.isBlind;
    this.#audit.compare(this.#census, question, answer);
    if (this.#audit.isBlind && !wasBlind)
      this.#note(
        "NVML does not list this session's processes (a pid namespace?): memory that no call names is not counted",
      );
  }

  /** The card's size is known once a process has asked the driver. */
  #checkLimit({ uuid, memLimit, totalBytes }: DeviceState): void {
    if (totalBytes === 0 || (memLimit ?? 0) <= totalBytes || this.#noted.has(uuid)) return;
    this.#noted.add(uuid);
    const limit = formatBytes(memLimit ?? 0);
    this.#note(
      `the limit of ${limit} is more than ${uuid} has: its ${formatBytes(totalBytes)} are the limit`,
    );
  }

  #reportExits(left: Member[]): void {
    if (left.length > 0) this.#reporting = Promise.all([this.#reporting, this.#tellExits(left)]);
  }

  /** Told when its own goodbye, if there is one, has been read. */
  async #tellExits(left: Member[]): Promise<void> {
    this.#keepRecords(left);
    this.#targetLeft.push(...left.filter((member) => this.#isEndedTarget(member)));
    for (const { pid } of left) this.#telling.add(pid);
    await this.#feed.flush();
    for (const member of left.filter((member) => !this.#targetLeft.includes(member))) {
      this.#publishExit(member.pid, member.name, this.#causeOf(member));
      this.#telling.delete(member.pid);
    }
  }

  #publishExit(pid: number, name: string, values: Event["values"]): void {
    this.#feed.publish({ pid, gpu: null, kind: "process.exit", api: null, name, values });
  }

  /** Processes that came and said goodbye between two looks. */
  #unseen(): [pid: number, name: string][] {
    const members = new Set([...this.#census.members.values()].map(({ pid }) => pid));
    return [...this.goodbyes].filter(([pid]) => !members.has(pid) && !this.#telling.has(pid));
  }

  /** Our own child: whoever collects it, which is Bun, knows its status. After an exec it lives on. */
  #isEndedTarget({ pid, startTime }: Member): boolean {
    return pid === this.#target && !isPresent(pid, startTime);
  }

  #causeOf({ pid, startTime }: Member): Event["values"] {
    const seen = this.#causes.get(`${pid} ${startTime}`);
    this.#causes.delete(`${pid} ${startTime}`);
    const isClean = this.goodbyes.delete(pid);
    return seen ?? { cause: isClean ? "exit" : "unknown" };
  }

  #keepRecords(members: Member[]): void {
    for (const member of members) {
      for (const use of member.uses) {
        const { device, allocations, denials, launches, busyNs, waits } = use;
        const peakBytes = Math.max(use.peakBytes, this.#audit.mostSeen(device, member));
        if (peakBytes === 0 && denials === 0 && launches === 0) continue;
        const { throttledNs } = use;
        const velocity = this.#pressure.peakVelocityOf(member, device);
        const memory = { peakBytes, allocations, denials, velocity };
        const compute = { launches, busyNs, throttledNs, waits };
        this.#records.push({ pid: member.pid, name: member.name, device, ...memory, ...compute });
      }
    }
    if (this.#records.length > 2 * MAX_RECORDS) {
      const kept = this.records;
      this.#records.splice(0, this.#records.length, ...kept);
    }
  }

  #whatMoved(): "memory" | "compute" | null {
    const members = [...this.#census.members.values()];
    const memory = members
      .map(
        ({ owner, uses }) =>
          `${owner}:${uses.map((use) => `${use.chargedBytes},${use.driftBytes},${use.allocations}`)}`,
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

/** A change of the region's attributes is what vgpu_pressure_fd (shim/include/vgpu.h) waits for; its mode stays what it is. */
function signalPressure({ path }: Region): void {
  try {
    chmodSync(path, 0o600);
  } catch {} // removed: the session is over
}
