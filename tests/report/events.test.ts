import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { events } from "../../src/layout.gen.ts";
import { drawDuration, drawTable } from "../../src/report/drawing.ts";
import { formatJson, formatPretty, formatTime, type Frame } from "../../src/report/events.ts";
import { formatMemory } from "../../src/report/memory.ts";
import {
  formatModes,
  formatSummary,
  formatSummaryJson,
  type Summary,
  wasEnforced,
} from "../../src/report/summary.ts";
import type { Event } from "../../src/ring.ts";
import SCHEMA from "../../docs/events.schema.json";
import { findFaults } from "../fixtures/event-schema.ts";
import { ROOT } from "../vgpu.ts";

const plain = (_: unknown, text: string) => text;
const FRAME: Frame = {
  session: "k3f9qa",
  startMonoNs: 1_000_000_000n,
  startWallNs: 1_795_190_400_123_456_789n,
};
const EVENT: Event = {
  monoNs: 1_500_000_000n,
  pid: 4711,
  gpu: "GPU-8c1f3c3a-0011-2233-4455-66778899aabb",
  kind: "memory.denied",
  api: "cuMemAlloc_v2",
  name: "python",
  values: {
    asked_bytes: 1024 ** 3,
    used_bytes: 3.5 * 1024 ** 3,
    limit_bytes: 4 * 1024 ** 3,
    context_bytes: 0,
  },
};

test("NDJSON: design §8's fields, in one line", () => {
  const line = formatJson(EVENT, 7, FRAME);
  expect(line).not.toContain("\n");
  expect(JSON.parse(line)).toEqual({
    v: 1,
    seq: 7,
    time: "2026-11-20T16:00:00.623456Z",
    mono_ns: 1_500_000_000,
    session: "k3f9qa",
    pid: 4711,
    process: "python",
    gpu: EVENT.gpu,
    kind: "memory.denied",
    api: "cuMemAlloc_v2",
    asked_bytes: 1024 ** 3,
    used_bytes: 3.5 * 1024 ** 3,
    limit_bytes: 4 * 1024 ** 3,
  });
});

test("times keep their microseconds across a second", () => {
  expect(formatTime(1_795_190_400_000_001_999n)).toBe("2026-11-20T16:00:00.000001Z");
});

test("a person reads who was denied what", () => {
  expect(formatPretty(EVENT, FRAME, plain)).toBe(
    "vgpu    0.500 s  memory.denied      python[4711] GPU-8c1f3c3a cuMemAlloc_v2 asked 1 GiB, used 3.5 GiB of 4 GiB",
  );
});

test("the schema knows every kind and every value of it", () => {
  const schema = JSON.parse(readFileSync(join(ROOT, "docs/events.schema.json"), "utf8"));
  const kinds: string[] = schema.properties.kind.enum;
  for (const { name, values } of events) {
    expect(kinds).toContain(name);
    for (const value of values) expect(Object.keys(schema.properties)).toContain(value);
  }
});

test("the lines in docs/events.md are as the schema says, and every kind is described", () => {
  const text = readFileSync(join(ROOT, "docs/events.md"), "utf8");
  const lines = text.split("\n").filter((line) => line.startsWith('    {"v":1'));
  expect(lines.length).toBeGreaterThan(6);
  for (const line of lines) expect(findFaults(JSON.parse(line))).toEqual([]);
  for (const kind of SCHEMA.properties.kind.enum) expect(text).toContain(`**\`${kind}\`**`);
  expect(findFaults({ ...JSON.parse(lines[0]!), kind: "nonsense" })).toEqual(['kind: "nonsense"']);
});

test.each([
  [470_000, "470 µs"],
  [9_800_000, "9.8 ms"],
  [980_000_000, "980 ms"],
  [9_500_000_000, "9.5 s"],
  [247_000_000_000, "4 min 07 s"],
])("%d ns is %s", (ns, text) => {
  expect(drawDuration(ns)).toBe(text);
});

test("a table's numbers stand to the right", () => {
  expect(
    drawTable(
      [
        ["GPU", "peak"],
        ["GPU-1", "4 GiB"],
        ["GPU-22", "12 GiB"],
      ],
      plain,
    ),
  ).toEqual(["GPU       peak", "GPU-1    4 GiB", "GPU-22  12 GiB"]);
});

const SUMMARY: Summary = {
  session: "k3f9qa",
  durationNs: 9.5e9,
  ending: { status: 0 },
  processes: 1,
  denials: 0,
  lostEvents: 0,
  gpus: [
    {
      uuid: EVENT.gpu!,
      memLimit: 4 * 1024 ** 3,
      peakBytes: 1024 ** 3,
      hasContexts: true,
      denials: 0,
      sharePercent: 25,
      burstPercent: null,
      partition: null,
      gpuNs: 2e9,
      realisedPercent: 24.97,
      throttledNs: 6e9,
      waits: 12,
      launches: 500,
      turns: { turns: 0, stolen: 0, waitedNs: 0 },
      copies: { h2dBytes: 0, d2hBytes: 0, d2dBytes: 0, waitedNs: 0, waits: 0 },
      softBytes: null,
      allocations: 3,
      velocity: 512 * 1024 ** 2,
    },
  ],
  uses: [],
};

test("the summary names SMs and modes, and leaves out what was not measured", () => {
  const [gpu] = SUMMARY.gpus;
  const bare = { ...gpu!, sharePercent: null, gpuNs: 0, hasContexts: false, velocity: 0 };
  const partition = { sms: 32, smTotal: 132 };
  const spatial = { ...SUMMARY, gpus: [{ ...bare, partition }] };
  const bursting = { ...SUMMARY, gpus: [{ ...gpu!, burstPercent: 100 }] };
  expect(formatSummary(bursting, plain)[2]).toContain("25.0 %, burst 100.0 %");
  expect(formatSummary(spatial, plain)[2]).toMatch(/^GPU-8c1f3c3a +– +4 GiB +0 +– +32 of 132 SMs /);
  expect(formatModes(spatial)).toEqual(["mode on GPU-8c1f3c3a: spatial, 32 of 132 SMs"]);
  expect(formatModes(SUMMARY)).toEqual(["mode on GPU-8c1f3c3a: time"]);
  expect(formatMemory(spatial, plain, true)).toEqual(["memory on GPU-8c1f3c3a: 3 allocations"]);
});

test("the summary is for sessions in which something was enforced", () => {
  expect(wasEnforced(SUMMARY)).toBe(true);
  expect(wasEnforced({ ...SUMMARY, gpus: [] })).toBe(false);
  expect(wasEnforced({ ...SUMMARY, gpus: [], denials: 1 })).toBe(true);
  expect(formatSummary(SUMMARY, plain)).toEqual([
    "session k3f9qa: 9.5 s, 1 GPU process, 0 denials",
    "GPU           peak memory  limit  denials  GPU share   limit  GPU time  held back",
    "GPU-8c1f3c3a        1 GiB  4 GiB        0     25.0 %  25.0 %     2.0 s      6.0 s",
  ]);
  const copies = { h2dBytes: 2 ** 30, d2hBytes: 0, d2dBytes: 2 ** 20, waitedNs: 2e9, waits: 5 };
  const [gpu] = SUMMARY.gpus;
  const copied = { ...SUMMARY, gpus: [{ ...gpu!, throttledNs: 0, copies }] };
  expect(wasEnforced(copied)).toBe(true);
  expect(formatSummary(copied, plain).at(-1)).toBe(
    "copies on GPU-8c1f3c3a: 1 GiB to the GPU, 0 B back, 1 MiB inside; held back 2.0 s in 5 waits",
  );
  const turnsLine = (stolen: number, waitedNs: number) =>
    formatSummary(
      { ...SUMMARY, gpus: [{ ...gpu!, turns: { turns: 9, stolen, waitedNs } }] },
      plain,
    )[3];
  expect(turnsLine(0, 0)).toBeUndefined(); // alone
  expect(turnsLine(1, 5e6)).toBe(
    "turns on GPU-8c1f3c3a: 9, 1 of them taken away; waited 5.0 ms for them",
  );
  expect(JSON.parse(formatSummaryJson({ ...SUMMARY, lostEvents: 3 }))).toMatchObject({
    kind: "session.summary",
    status: 0,
    lost: 3,
    gpus: [
      {
        limit_bytes: 4 * 1024 ** 3,
        peak_bytes: 1024 ** 3,
        share: 25,
        realised_share: 24.97,
        waits: 12,
      },
    ],
  });
});
