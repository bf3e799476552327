import { expect, test } from "bun:test";
import { admit, findOverbooked, type Promises, readPromises } from "../src/admission.ts";
import { device, DEVICE } from "../src/layout.gen.ts";
import { createRegion, deviceOffset } from "../src/region.ts";
import { CONTENT } from "./fixtures/content.ts";
import { folder } from "./vgpu.ts";

const GIB = 1024 ** 3;
const A = "GPU-00000000-0000-0000-0000-00000000000a";
const B = "GPU-00000000-0000-0000-0000-00000000000b";

/** A session with these limits in GiB on these cards of 80 GiB. */
const session = (
  limits: Record<string, number | null>,
  fallback: number | null = null,
): Promises => ({
  session: "abc123",
  pid: 42,
  fallback: fallback === null ? null : fallback * GIB,
  cards: new Map(
    Object.entries(limits).map(([uuid, gib]) => [
      uuid,
      { limit: gib === null ? null : gib * GIB, totalBytes: 80 * GIB },
    ]),
  ),
});
const asks = (gib: number | null, visible?: string) => ({
  content: { memLimit: gib === null ? null : gib * GIB, devices: [] },
  cards: [],
  visible,
});

test.each([
  ["fits", [session({ [A]: 40 })], asks(40), 0],
  ["does not fit", [session({ [A]: 41 })], asks(40), 1],
  ["does not fit with two others", [session({ [A]: 30 }), session({ [A]: 30 })], asks(40), 1],
  ["on two cards", [session({ [A]: 60, [B]: 60 })], asks(40), 2],
  ["no limit of its own", [session({ [A]: 80 })], asks(null), 0],
  ["the other has no limit", [session({ [A]: null })], asks(80), 0],
  ["a card it does not see", [session({ [A]: 60 })], asks(40, B), 0],
  ["the card it sees, by a prefix", [session({ [A]: 60 })], asks(40, A.slice(0, 20)), 1],
  ["the only card, by number", [session({ [A]: 60 })], asks(40, "0"), 1],
  ["numbers without NVML say nothing of two", [session({ [A]: 60, [B]: 60 })], asks(40, "0"), 0],
  ["no card at all", [session({ [A]: 60 })], asks(40, ""), 0],
  ["one that has met no card yet", [session({ [A]: 20 }), session({}, 40)], asks(40), 1],
  ["nobody knows a size", [session({}, 40)], asks(80), 0],
  ["nobody else", [], asks(80), 0],
])("%s", (_, others, asked, lines) => {
  expect(findOverbooked(others, asked)).toHaveLength(lines);
});

test("numbers are NVML's where it was asked", () => {
  const cards = [B, A].map((uuid) => ({ uuid, totalBytes: 80 * GIB }));
  const found = findOverbooked([session({ [A]: 60 })], { ...asks(40, "1"), cards });
  expect(found).toHaveLength(1);
  expect(findOverbooked([session({ [A]: 60 })], { ...asks(40, "0"), cards })).toEqual([]);
});

test("where NVML was asked there are no other cards: a session that has met none is on its way to the only one", () => {
  const others = [session({ [B]: 10 }), session({}, 60)]; // B: of a simulated machine, say
  const cards = [{ uuid: A, totalBytes: 80 * GIB }];
  expect(findOverbooked(others, { ...asks(40), cards })).toHaveLength(1);
});

test("a warning and a refusal name who holds what", () => {
  const warnings: string[] = [];
  admit([session({ [A]: 60 })], asks(40), false, (text) => warnings.push(text));
  expect(warnings).toEqual([
    `the limits on ${A} come to 100 GiB of its 80 GiB: this session 40 GiB, session abc123 (pid 42) has 60 GiB`,
  ]);
  expect(() => admit([session({ [A]: 60 })], asks(40), true, () => {})).toThrow("abc123 (pid 42)");
});

test("what the regions of others say", () => {
  using work = folder({ notone: "x" });
  const devices = [{ uuid: A, memLimit: 5 * GIB, sharePpm: 1_000_000, contextBytes: 0 }];
  const { region, session } = createRegion(work.path, { ...CONTENT, devices });
  region.store64(deviceOffset(0) + device.total_bytes, BigInt(80 * GIB));
  region.store32(deviceOffset(1) + device.state, DEVICE.CLAIMING);
  expect(readPromises(work.path, work.path)).toEqual([
    {
      session,
      pid: process.pid,
      fallback: 4 * GIB,
      cards: new Map([[A, { limit: 5 * GIB, totalBytes: 80 * GIB }]]),
    },
  ]);
});
