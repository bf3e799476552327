import { expect, test } from "bun:test";
import { Audit } from "../src/audit.ts";
import { Census } from "../src/census.ts";
import { EventFeed } from "../src/events.ts";
import { header, SLOT, slot, use } from "../src/layout.gen.ts";
import type { CardUse } from "../src/nvml.ts";
import { readProcess } from "../src/process.ts";
import { createRegion, type Region, slotOffset, useOffset } from "../src/region.ts";
import { CONTENT } from "./fixtures/content.ts";
import { folder } from "./vgpu.ts";

const UUID = "GPU-00000000-0000-0000-0000-000000000001";
const MIB = 1024 ** 2;

/** A session with one card, on which NVML lists what `uses` says. */
function session(directory: string, memLimit: number | null = 4096 * MIB) {
  const devices = [{ uuid: UUID, memLimit, sharePpm: 1_000_000, contextBytes: 0 }];
  const { region } = createRegion(directory, { ...CONTENT, devices });
  const uses: CardUse[] = [];
  const feed = new EventFeed(region);
  const census = new Census(region);
  const audit = new Audit(region, feed, process.pid);
  const look = () => {
    const left = census.update(audit.holdsMemory);
    const question = { members: [...census.members.values()], devices: census.devices() };
    audit.compare(
      census,
      question,
      question.devices.map(() => uses),
    );
    return left;
  };
  return { region, uses, feed, census, audit, look };
}

/** Puts a process into slot 0. */
function join(region: Region, pid: number, chargedBytes: number): void {
  region.store32(header.slots_used, 1);
  region.store64(slotOffset(0) + slot.start_time, readProcess(pid)?.startTime ?? 1n);
  region.store64(useOffset(0, 0) + use.charged_bytes, BigInt(chargedBytes));
  region.store64(slotOffset(0) + slot.owner, (BigInt(pid) << 32n) | BigInt(SLOT.LIVE));
}

const drift = (region: Region) =>
  Number(BigInt.asIntN(64, region.load64(useOffset(0, 0) + use.drift_bytes)));

async function eventsOf(feed: EventFeed) {
  feed.close();
  return Array.fromAsync(feed);
}

test("what NVML lists beyond the ledger counts at once, and is told when it is much", async () => {
  using work = folder();
  const { region, uses, feed, look } = session(work.path);
  join(region, process.pid, 100 * MIB);
  uses.push({ pid: process.pid, bytes: 140 * MIB });
  look();
  expect(drift(region)).toBe(40 * MIB);
  look();
  look();
  const events = await eventsOf(feed);
  expect(events.map(({ kind, values }) => [kind, values])).toEqual([
    ["memory.drift", { ledger_bytes: 100 * MIB, nvml_bytes: 140 * MIB }],
  ]);
});

test("without a limit nothing was charged beforehand: that NVML lists more is no news", async () => {
  using work = folder();
  const { region, uses, feed, look } = session(work.path, null);
  join(region, process.pid, 0);
  uses.push({ pid: process.pid, bytes: 518 * MIB });
  for (let i = 0; i < 3; i++) look();
  expect(drift(region)).toBe(518 * MIB);
  expect(await eventsOf(feed)).toEqual([]);
});

test("what NVML does not list yet is not lent to anyone: a charge comes before its allocation", async () => {
  using work = folder();
  const { region, uses, look } = session(work.path);
  join(region, process.pid, 600 * MIB);
  uses.push({ pid: process.pid, bytes: 100 * MIB });
  look();
  await Bun.sleep(30);
  look();
  expect(drift(region)).toBe(0);
  uses[0]!.bytes = 600 * MIB;
  look();
  expect(drift(region)).toBe(0);
});

test("what stays lower for seconds is believed", async () => {
  using work = folder();
  const { region, uses, look } = session(work.path);
  join(region, process.pid, 600 * MIB);
  uses.push({ pid: process.pid, bytes: 590 * MIB });
  look();
  await Bun.sleep(3100);
  look();
  expect(drift(region)).toBe(-10 * MIB);
});

test("managed memory stays charged although NVML need not list it; growth beyond is still seen", async () => {
  using work = folder();
  const { region, uses, look } = session(work.path);
  join(region, process.pid, 600 * MIB);
  region.store64(useOffset(0, 0) + use.managed_bytes, BigInt(500 * MIB));
  uses.push({ pid: process.pid, bytes: 100 * MIB });
  look();
  await Bun.sleep(3100);
  look();
  expect(drift(region)).toBe(0);
  uses[0]!.bytes = 640 * MIB;
  look();
  expect(drift(region)).toBe(40 * MIB);
});

test("a dead process keeps its slot while NVML lists it", async () => {
  using work = folder();
  const { region, uses, census, look } = session(work.path);
  const child = Bun.spawn(["/bin/sleep", "60"]);
  join(region, child.pid, 100 * MIB);
  uses.push({ pid: child.pid, bytes: 100 * MIB });
  expect(look()).toEqual([]);
  child.kill();
  await child.exited;
  expect(look()).toEqual([]);
  expect(census.members.size).toBe(1);
  uses.length = 0;
  look(); // NVML has let go of it
  expect(look().map(({ pid }) => pid)).toEqual([child.pid]);
  expect(census.members.size).toBe(0);
  expect(region.load64(slotOffset(0) + slot.owner) & 0xffn).toBe(BigInt(SLOT.FREE));
});

test("a process of the tree without a slot is reported once, when it is missing twice", async () => {
  using work = folder();
  const { uses, feed, look } = session(work.path);
  const child = Bun.spawn(["/bin/sleep", "60"]); // a child of the target, which here is the test
  uses.push({ pid: child.pid, bytes: MIB }, { pid: 1, bytes: MIB });
  for (let i = 0; i < 4; i++) look();
  child.kill();
  await child.exited;
  const events = await eventsOf(feed);
  expect(events.map(({ kind, pid, gpu }) => [kind, pid, gpu])).toEqual([
    ["shim.missing", child.pid, UUID],
  ]);
});

test("a slot that a shim reaped and another process took is two processes", () => {
  using work = folder();
  const { region, census, look } = session(work.path);
  join(region, process.pid, MIB);
  look();
  const next = (BigInt(process.ppid) << 32n) | (1n << 8n) | BigInt(SLOT.LIVE);
  region.store64(slotOffset(0) + slot.start_time, readProcess(process.ppid)!.startTime);
  region.store64(slotOffset(0) + slot.owner, next);
  expect(look().map(({ pid }) => pid)).toEqual([process.pid]);
  expect(census.joined).toBe(2);
});

test("NVML that never lists the session's processes is believed in nothing, and that is told once", async () => {
  using work = folder();
  const { region, uses, feed, audit, look } = session(work.path);
  join(region, process.pid, 100 * MIB);
  look();
  expect(audit.isBlind).toBe(false); // its context may still be on its way
  await Bun.sleep(5100);
  look();
  look();
  expect(audit.isBlind).toBe(true);
  uses.push({ pid: process.pid, bytes: 900 * MIB }); // somebody else's, of another pid namespace
  look();
  expect(drift(region)).toBe(0);
  const events = await eventsOf(feed);
  expect(events.map(({ kind, values }) => [kind, values])).toEqual([
    ["memory.unseen", { ledger_bytes: 100 * MIB }],
  ]);
}, 10_000);

test("one process that NVML does not list among others that it does makes nobody blind", async () => {
  using work = folder();
  const { region, uses, audit, look } = session(work.path);
  join(region, process.pid, 100 * MIB);
  uses.push({ pid: process.pid, bytes: 100 * MIB });
  look();
  uses.length = 0;
  look();
  await Bun.sleep(5100);
  look();
  expect(audit.isBlind).toBe(false);
}, 10_000);

test("switched off, it writes no drift", () => {
  using work = folder();
  const { region, uses, look } = session(work.path);
  region.store32(header.audit, 0);
  join(region, process.pid, 100 * MIB);
  uses.push({ pid: process.pid, bytes: 300 * MIB });
  look();
  look();
  expect(drift(region)).toBe(0);
});

test("the most that NVML listed is kept by process and for the card", () => {
  using work = folder();
  const { region, uses, census, audit, look } = session(work.path, null);
  join(region, process.pid, 1 * MIB);
  uses.push({ pid: process.pid, bytes: 518 * MIB }, { pid: 1, bytes: 900 * MIB });
  look();
  const [first] = census.members.values();
  uses[0] = { pid: process.pid, bytes: 20 * MIB };
  look();
  expect(audit.mostSeen(0)).toBe(518 * MIB); // of ours, not the stranger's
  expect(audit.mostSeen(0, first)).toBe(518 * MIB);
  expect(audit.mostSeen(0, { ...first!, startTime: 2n })).toBe(0); // another in the same slot
  expect(audit.mostSeen(1)).toBe(0);
});
