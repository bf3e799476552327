import { describe, expect, test } from "bun:test";
import * as layout from "../src/layout.gen.ts";
import type { Plan } from "../src/limits.ts";
import type { Profile } from "../src/profile.ts";
import { createRegion } from "../src/region.ts";
import { UNASKED } from "../src/time-mode.ts";
import { CONTENT } from "./fixtures/content.ts";
import { failure, plan } from "./fixtures/plan.ts";
import { folder } from "./vgpu.ts";

const GIB = 1024 ** 3;

function profile(compute: Profile["compute"]): Profile {
  const empty = { description: null, memory: {}, gpus: {}, events: {}, env: {}, bursts: {} };
  return { name: "p", files: ["p.yaml"], ...empty, compute };
}

const rates = (h2d: number | null, d2h: number | null, d2d: number | null) => ({
  copyRates: { h2d, d2h, d2d },
});

test.each<[string, Partial<Plan["time"]>]>([
  ["", {}],
  ["--throttle strict", { throttle: "strict" }],
  ["--throttle Cooperative", { throttle: "cooperative" }],
  ["--priority low", { weight: 0.5 }],
  ["--priority normal", { weight: 1 }],
  ["--priority high", { weight: 2 }],
  ["--weight 0.1", { weight: 0.1 }],
  ["--weight 10", { weight: 10 }],
  ["--quantum 20ms", { quantumUs: 20_000 }],
  ["--quantum 500us", { quantumUs: 500 }],
  ["--quantum 0.1s", { quantumUs: 100_000 }],
  ["--dampening 0.5", { dampening: 0.5 }],
  ["--gang on", { gang: "on" }],
  ["--copy-bw 8g/s", rates(8 * GIB, 8 * GIB, 8 * GIB)],
  ["--copy-bw 8GB/s", rates(8e9, 8e9, 8e9)],
  ["--copy-bw h2d=8g/s,D2H=4g/s", rates(8 * GIB, 4 * GIB, null)],
  ["--copy-bw h2d=8g/s --copy-bw d2h=4g/s", rates(8 * GIB, 4 * GIB, null)],
  ["--copy-bw 8g/s --copy-bw d2d=none", rates(8 * GIB, 8 * GIB, null)],
  ["--copy-bw h2d=1g/s --copy-bw 8g/s", rates(8 * GIB, 8 * GIB, 8 * GIB)],
])("%s", (line, asked) => {
  expect(plan(line).time).toEqual({ ...UNASKED, ...asked });
});

test("no setting of time mode needs --sm", () => {
  expect(plan("--copy-bw 8g/s --quantum 5ms --priority low").limits.all).toBeNull();
});

describe("flag, environment, profile", () => {
  const from = profile({
    share: 40,
    quantum: "10ms",
    priority: "high",
    throttle: "strict",
    copy_bw: { h2d: "1g/s", d2h: "2g/s" },
    dampening: 2,
    classes: { attention: 2 },
    gang: "off",
  });

  test("a profile's values", () => {
    const { time, sources } = plan("", {}, from);
    expect(time).toEqual({
      throttle: "strict",
      weight: 2,
      quantumUs: 10_000,
      dampening: 2,
      classes: { default: 1, attention: 2, ffn: 1, copy: 1 },
      ...rates(GIB, 2 * GIB, null),
      gang: "off",
    });
    expect(sources).toMatchObject({ quantum: "profile", "copy-bw.h2d": "profile" });
  });

  test("are covered one by one", () => {
    const { time, sources } = plan("--quantum 5ms --copy-bw d2h=9g/s", { VGPU_GANG: "on" }, from);
    expect(time).toMatchObject({ quantumUs: 5000, gang: "on", ...rates(GIB, 9 * GIB, null) });
    expect(sources).toMatchObject({ quantum: "flag", gang: "environment" });
    expect(sources).toMatchObject({ "copy-bw.h2d": "profile", "copy-bw.d2h": "flag" });
  });

  test("the nearer of priority and weight counts", () => {
    expect(plan("--weight 3", {}, from).time.weight).toBe(3);
    expect(plan("--weight 3", { VGPU_PRIORITY: "low" }, from).time.weight).toBe(3);
    expect(plan("--priority low", { VGPU_WEIGHT: "3" }, from).time.weight).toBe(0.5);
    expect(plan("--priority low", { VGPU_WEIGHT: "3" }).sources).toMatchObject({
      priority: "flag",
      weight: "default",
    });
  });
});

test.each<[string, Record<string, string>, string]>([
  ["--throttle adaptiv", {}, "--throttle: 'adaptiv' is not one of adaptive, cooperative, strict"],
  ["--priority urgent", {}, "--priority: 'urgent' is not one of low, normal, high"],
  ["--weight 11", {}, "--weight: '11' is not a number from 0.1 to 10; good forms: 0.5, 1, 2"],
  ["--weight 1e0", {}, "--weight: '1e0' is not a number"],
  ["--weight 2 --priority low", {}, "--priority and --weight both say how much turns weigh; give"],
  ["", { VGPU_WEIGHT: "2", VGPU_PRIORITY: "low" }, "VGPU_PRIORITY and VGPU_WEIGHT both say"],
  ["--quantum 20", {}, "--quantum: '20' is not the length of a turn (0.5 to 100 ms); good forms"],
  ["--quantum 499us", {}, "--quantum: '499us' is not the length of a turn"],
  ["", { VGPU_QUANTUM: "101ms" }, "VGPU_QUANTUM: '101ms' is not the length of a turn"],
  ["--dampening 0.05", {}, "--dampening: '0.05' is not a number from 0.1 to 10"],
  ["--gang yes", {}, "--gang: 'yes' is not one of auto, on, off"],
  ["--copy-bw 8g", {}, "--copy-bw: '8g' is not a rate; good forms: 8g/s, 500m/s"],
  ["--copy-bw 50%/s", {}, "--copy-bw: '50%/s' is not a rate"],
  ["--copy-bw none/s", {}, "--copy-bw: 'none/s' is not a rate"],
  [
    "--copy-bw up=8g/s",
    {},
    "--copy-bw: 'up' is not a direction of copies; good forms: 8g/s, or h2d",
  ],
  ["--copy-bw h2d=1g/s,h2d=2g/s", {}, "names h2d twice"],
  ["--copy-bw 1g/s,2g/s", {}, "names two values without a direction"],
])("%s %o", (line, env, message) => {
  expect(failure(line, env)).toContain(message);
});

test("the region's header holds them", () => {
  using work = folder();
  const line =
    "--throttle strict --weight 2.5 --quantum 5ms --dampening 0.5 --gang on --copy-bw d2h=4g/s";
  const { time } = plan(line, {}, profile({ classes: { ffn: 3 } }));
  const own = createRegion(work.path, { ...CONTENT, burstPpm: 500_000, time });
  const { header, THROTTLE, GANG, CLASS, COPY } = layout;
  expect(own.region.load32(header.throttle)).toBe(THROTTLE.STRICT);
  expect(own.region.load32(header.weight_ppm)).toBe(2_500_000);
  expect(own.region.load32(header.quantum_us)).toBe(5000);
  expect(own.region.load32(header.dampening_ppm)).toBe(500_000);
  expect(own.region.load32(header.gang)).toBe(GANG.ON);
  expect(own.region.load32(header.default_burst_ppm)).toBe(500_000);
  expect(own.region.load32(header.class_weight_ppm + 4 * CLASS.FFN)).toBe(3_000_000);
  expect(own.region.load32(header.class_weight_ppm + 4 * CLASS.COPY)).toBe(1_000_000);
  expect(own.region.number(header.copy_bytes_per_s + 8 * COPY.D2H)).toBe(4 * GIB);
  expect(own.region.number(header.copy_bytes_per_s + 8 * COPY.H2D)).toBe(0);
  own.remove();
});
