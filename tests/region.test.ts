import { expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { join } from "node:path";
import * as layout from "../src/layout.gen.ts";
import { createRegion, deviceOffset, Region, uuidBytes, uuidText } from "../src/region.ts";
import { explain, openStateDirectory } from "../src/state-directory.ts";
import { CONTENT } from "./fixtures/content.ts";
import { folder } from "./vgpu.ts";

const UUID = "GPU-8c1f3c3a-0011-2233-4455-66778899aabb";

test("a region holds what it was made with", () => {
  using work = folder();
  const own = createRegion(work.path, {
    ...CONTENT,
    devices: [{ uuid: UUID, memLimit: null, sharePpm: 1_000_000, contextBytes: 7 }],
  });
  const region = new Region(own.region.path);
  const { header, device } = layout;
  expect(region.isCurrent).toBe(true);
  expect(region.load32(header.region_bytes)).toBe(layout.region.bytes);
  expect(region.text(header.session, 16)).toBe(own.session);
  expect(region.load64(header.default_mem_limit)).toBe(4n * 1024n ** 3n);
  expect(region.load32(header.default_share_ppm)).toBe(250_000);
  expect(region.load32(header.supervisor_pid)).toBe(process.pid);
  expect(region.load64(deviceOffset(0) + device.mem_limit)).toBe(layout.NO_LIMIT);
  expect(region.load32(deviceOffset(0) + device.state)).toBe(layout.DEVICE.READY);
  expect(uuidText(region.slice(deviceOffset(0) + device.uuid, 16))).toBe(UUID);
  expect(region.load32(deviceOffset(1) + device.state)).toBe(layout.DEVICE.EMPTY);
});

test("file and fifo are ours alone, and go together", () => {
  using work = folder();
  const own = createRegion(work.path, CONTENT);
  expect(statSync(own.region.path).mode & 0o777).toBe(0o600);
  expect(lstatSync(own.region.bell).isFIFO()).toBe(true);
  expect(readdirSync(work.path).sort()).toEqual([own.session, `${own.session}.bell`]);
  own.remove();
  expect(readdirSync(work.path)).toEqual([]);
});

test("a region has its memory from the start, so that a full /dev/shm cannot kill it later", () => {
  using work = folder();
  const own = createRegion(work.path, CONTENT);
  expect(statSync(own.region.path).blocks * 512).toBeGreaterThanOrEqual(layout.region.bytes);
  own.remove();
});

test("UUIDs there and back", () => {
  expect(uuidText(uuidBytes(UUID))).toBe(UUID);
  expect(uuidBytes(UUID)).toHaveLength(16);
  expect(uuidBytes(UUID.replace("GPU", "MIG"))).toEqual(uuidBytes(UUID));
});

test("the state directory: made closed, and refused where others could reach in", () => {
  using work = folder();
  const path = join(work.path, "state");
  expect(openStateDirectory(path)).toBe(path);
  expect(statSync(path).mode & 0o777).toBe(0o700);
  chmodSync(path, 0o755);
  expect(() => openStateDirectory(path)).toThrow("open to other users");
  const link = join(work.path, "link");
  symlinkSync("/tmp", link);
  expect(() => openStateDirectory(link)).toThrow("is not a directory");
  mkdirSync(join(work.path, "gone"));
  expect(() => openStateDirectory(join(work.path, "none/state"))).toThrow("missing");
  expect(existsSync(join(work.path, "none"))).toBe(false);
});

test.each([
  ["ENOSPC", "/dev/shm is full"],
  ["EROFS", "/dev/shm is read-only"],
])("%s is said in one line", (code, message) => {
  const error = explain("/dev/shm/vgpu-0", code);
  expect(error.message).toBe(message);
  expect(error.exitCode).toBe(125);
  expect(error.hint).not.toContain("\n");
});
