import { describe, expect, test } from "bun:test";
import {
  needsCards,
  noteTight,
  noteUnlimited,
  resolveContent,
  visibleDevices,
} from "../src/devices.ts";
import type { GpuLimit, Plan, Source } from "../src/limits.ts";
import type { Card } from "../src/nvml.ts";
import { UNASKED } from "../src/time-mode.ts";

const GIB = 1024 ** 3;
const CARDS: Card[] = [
  { index: 0, uuid: "GPU-aaaa1111-0000-0000-0000-000000000000", name: "A", totalBytes: 100 * GIB },
  { index: 1, uuid: "GPU-aaaa2222-0000-0000-0000-000000000000", name: "B", totalBytes: 10 * GIB },
];

function plan(
  all: GpuLimit | null,
  gpus: [string, GpuLimit][] = [],
  gpu: string[] | null = null,
): Plan {
  return {
    limits: { all, gpus: new Map(gpus) },
    time: UNASKED,
    gpu,
    sources: {},
  } as unknown as Plan;
}

const limit = (memBytes: GpuLimit["memBytes"], sharePercent: number | null = null): GpuLimit => ({
  memBytes,
  sharePercent,
});

test("a plain limit needs no look at the cards and holds for each", () => {
  const asked = plan(limit({ bytes: 4 * GIB }, 12.5));
  expect(needsCards(asked)).toBe(false);
  expect(resolveContent(asked, [], new Map())).toEqual({
    memLimit: 4 * GIB,
    softBytes: null,
    sharePpm: 125_000,
    burstPpm: 0,
    time: UNASKED,
    contextBytes: 0,
    audit: true,
    devices: [],
  });
});

test("a percentage is of each card's own memory", () => {
  const asked = plan(limit({ percent: 50 }));
  expect(needsCards(asked)).toBe(true);
  const { memLimit, devices } = resolveContent(asked, CARDS, new Map());
  expect(memLimit).toBeNull();
  expect(devices.map((device) => device.memLimit)).toEqual([50 * GIB, 5 * GIB]);
});

test("named cards get theirs, by number or by the beginning of the UUID, the rest no limit", () => {
  const asked = plan(null, [["1", limit({ bytes: GIB }, 10)]]);
  const costs = new Map([[CARDS[1]!.uuid, 500]]);
  expect(resolveContent(asked, CARDS, costs)).toEqual({
    memLimit: null,
    softBytes: null,
    sharePpm: 1_000_000,
    burstPpm: 0,
    time: UNASKED,
    contextBytes: 500,
    audit: true,
    devices: [
      {
        uuid: CARDS[1]!.uuid,
        memLimit: GIB,
        softBytes: null,
        sharePpm: 100_000,
        burstPpm: 0,
        contextBytes: 500,
      },
    ],
  });
  const byUuid = resolveContent(plan(null, [["gpu-AAAA2", limit({ bytes: GIB })]]), CARDS, costs);
  expect(byUuid.devices.map(({ uuid }) => uuid)).toEqual([CARDS[1]!.uuid]);
});

test("the largest context cost holds for cards the region does not name", () => {
  const costs = new Map([
    ["GPU-a", 1],
    ["GPU-b", 3],
  ]);
  expect(resolveContent(plan(null), [], costs).contextBytes).toBe(3);
});

describe("--gpu", () => {
  test("becomes UUIDs in the order asked for", () => {
    expect(visibleDevices(["1", "GPU-aaaa1"], CARDS)).toBe(`${CARDS[1]!.uuid},${CARDS[0]!.uuid}`);
  });

  test.each([
    ["2", "--gpu: there is no GPU '2'"],
    ["GPU-ffff", "--gpu: there is no GPU 'GPU-ffff'"],
    ["GPU-aaaa", "--gpu: GPU 'GPU-aaaa' means more than one"],
  ])("%s is refused", (key, message) => {
    expect(() => visibleDevices([key], CARDS, "--gpu")).toThrow(message);
  });
});

test("a ceiling goes where its share goes", () => {
  const asked = plan({ ...limit(null, 25), burstPercent: 50 }, [
    ["1", { ...limit(null, 10), burstPercent: 100 }],
  ]);
  const { burstPpm, devices } = resolveContent(asked, CARDS, new Map());
  expect([burstPpm, devices.map((device) => device.burstPpm)]).toEqual([500_000, [1_000_000]]);
});

test.each<[string, Source, string]>([
  ["mem.7", "flag", "--mem: there is no GPU '7'"],
  ["sm.7", "environment", "VGPU_SM: there is no GPU '7'"],
  ["burst.7", "profile", "profile two: gpus.7: there is no GPU '7'"],
])("a GPU that is not there: %s from %s", (name, source, message) => {
  const asked = plan(null, [["7", limit({ bytes: GIB })]]);
  const named = { ...asked, sources: { [name]: source }, profile: "two" };
  expect(() => resolveContent(named, CARDS, new Map())).toThrow(message);
});

describe("cards without a limit", () => {
  const both = plan(null, [["0", limit({ bytes: GIB }, 25)]]);
  test("are named once", () => {
    expect(noteUnlimited(both, CARDS, CARDS)).toEqual([
      "no limit is given for memory and compute on GPU 1",
    ]);
    const one = plan(null, [["0", limit(null, 25)]]);
    expect(noteUnlimited(one, CARDS, CARDS)).toEqual(["no limit is given for compute on GPU 1"]);
  });

  test("are none where each visible card has one, or none was chosen", () => {
    expect(noteUnlimited(both, CARDS, [CARDS[0]!])).toEqual([]);
    const all = plan(null, [
      ["0", limit({ bytes: GIB })],
      ["1", limit({ bytes: GIB })],
    ]);
    expect(noteUnlimited(all, CARDS, CARDS)).toEqual([]);
    const chosen = { ...both, sources: { mem: "flag" as const, sm: "flag" as const } };
    expect(noteUnlimited(chosen, CARDS, CARDS)).toEqual([]);
  });
});

test("a limit that a context alone passes is noted, on cards that are seen", () => {
  const costs = new Map(CARDS.map(({ uuid }, index) => [uuid, (index + 1) * 2 ** 29]));
  const note = (asked: Plan, seen: Card[]) =>
    noteTight(resolveContent(asked, seen.length > 0 ? CARDS : [], costs), costs, seen);
  const tight = "a limit of 100 MiB cannot hold one context (512 MiB): give it more";
  const small = limit({ bytes: 100 * 2 ** 20 });
  expect(note(plan(small), [])).toEqual([tight]);
  expect(note(plan(limit({ bytes: GIB })), [])).toEqual([]);
  const second = plan(small, [["0", limit(null)]]);
  expect(note(second, CARDS)).toEqual([
    "a limit of 100 MiB cannot hold one context (1 GiB): give it more",
  ]);
  expect(note(second, [CARDS[0]!])).toEqual([]);
  expect(note(plan(limit({ percent: 0.1 })), [CARDS[0]!])).toEqual([
    "a limit of 102.4 MiB cannot hold one context (512 MiB): give it more",
  ]);
});
