import { expect, test } from "bun:test";
import { closeSync, mkdirSync, openSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { header, slot } from "../src/layout.gen.ts";
import { tryLock } from "../src/libc.ts";
import { readProcess } from "../src/process.ts";
import { createRegion, slotOffset } from "../src/region.ts";
import { hasMembers, sweep } from "../src/sweep.ts";
import { CONTENT } from "./fixtures/content.ts";
import { folder } from "./vgpu.ts";

/** A region whose supervisor is dead: the pid is ours, the start time is not. */
function makeStale(directory: string) {
  const own = createRegion(directory, CONTENT);
  own.region.store64(header.supervisor_start, 1n);
  own.leave();
  return own;
}

test("a live supervisor's region stays", () => {
  using work = folder();
  createRegion(work.path, CONTENT);
  sweep(work.path);
  expect(readdirSync(work.path)).toHaveLength(2);
});

test("what a dead supervisor left goes, fifo and unfinished files too; nothing else does", () => {
  using work = folder();
  makeStale(work.path);
  writeFileSync(join(work.path, "abcdef.4194399.new"), "");
  writeFileSync(join(work.path, "zzzzzz.bell"), "");
  writeFileSync(join(work.path, "abcdef"), ""); // of no size: no supervisor can be read
  writeFileSync(join(work.path, "notes.txt"), "");
  mkdirSync(join(work.path, "cache"));
  sweep(work.path);
  expect(readdirSync(work.path).sort()).toEqual(["cache", "notes.txt"]);
});

test("a region that a process has locked stays, and goes once it lets go", () => {
  using work = folder();
  const { region } = makeStale(work.path);
  const fd = openSync(region.path, "r+");
  expect(tryLock(fd, "shared")).toBe(true);
  sweep(work.path);
  expect(readdirSync(work.path)).toHaveLength(2);
  closeSync(fd);
  sweep(work.path);
  expect(readdirSync(work.path)).toEqual([]);
});

test("a board stays while somebody has it open, and goes with the last", () => {
  using work = folder();
  const board = join(work.path, "board-GPU-8c1f0000-0000-0000-0000-000000000000");
  writeFileSync(board, "");
  const fd = openSync(board, "r+");
  expect(tryLock(fd, "shared")).toBe(true);
  sweep(work.path);
  expect(readdirSync(work.path)).toHaveLength(1);
  closeSync(fd);
  sweep(work.path);
  expect(readdirSync(work.path)).toEqual([]);
});

test("a region that a process could still join stays: it carries VGPU_REGION", async () => {
  using work = folder();
  const { region } = makeStale(work.path);
  // Beyond the first 64 KiB of the environment, where readers with a fixed buffer would not see it.
  const env = { FILL: "x".repeat(100_000), VGPU_REGION: region.path };
  const child = Bun.spawn(["/bin/sleep", "60"], { env });
  sweep(work.path);
  expect(readdirSync(work.path)).toHaveLength(2);
  child.kill();
  await child.exited;
  sweep(work.path);
  expect(readdirSync(work.path)).toEqual([]);
});

test("members: by slot, by environment, and not the target itself", async () => {
  using work = folder();
  const { region } = createRegion(work.path, CONTENT);
  const child = Bun.spawn(["/bin/sleep", "60"], { env: { VGPU_REGION: region.path } });
  expect(hasMembers(region, process.pid, 0)).toBe(true);
  expect(hasMembers(region, process.pid, 5000)).toBe(true);
  child.kill();
  await child.exited;
  expect(hasMembers(region, process.pid, 5000)).toBe(false);

  region.store32(header.slots_used, 1);
  region.store64(slotOffset(0) + slot.start_time, readProcess(process.ppid)!.startTime);
  region.store64(slotOffset(0) + slot.owner, (BigInt(process.ppid) << 32n) | 2n);
  expect(hasMembers(region, process.pid, 0)).toBe(true);
  expect(hasMembers(region, process.ppid, 0)).toBe(false);
});
