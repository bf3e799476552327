import { describe, expect, test } from "bun:test";
import { splitArgv } from "../src/argv.ts";
import run from "../src/commands/run.ts";
import { resolvePlan } from "../src/limits.ts";
import type { Profile } from "../src/profile.ts";
import { failure, plan } from "./fixtures/plan.ts";

const GIB = 1024 ** 3;
const bytes = (gib: number): { bytes: number } => ({ bytes: gib * GIB });

function profile(part: Partial<Profile>): Profile {
  const empty = {
    files: ["p.yaml"],
    description: null,
    memory: {},
    compute: {},
    gpus: {},
    events: {},
    env: {},
    bursts: {},
  };
  return { name: "p", ...empty, ...part };
}

describe("precedence: flag, environment, profile, default", () => {
  const from = profile({
    memory: { limit: bytes(1) },
    compute: { share: 10 },
    events: { format: "json", file: "e" },
  });
  test.each<[string, Record<string, string>, Profile | null, number | null, string]>([
    ["--mem 4g", { VGPU_MEM: "3g" }, from, 4, "flag"],
    ["", { VGPU_MEM: "3g" }, from, 3, "environment"],
    ["", { VGPU_MEM: "" }, from, 1, "profile"],
    ["", {}, from, 1, "profile"],
    ["", {}, null, null, "default"],
    ["--mem none", { VGPU_MEM: "3g" }, from, null, "flag"],
  ])("%s %o", (line, env, under, gib, source) => {
    const { limits, sources } = plan(line, env, under);
    expect(limits.all?.memBytes ?? null).toEqual(gib === null ? null : bytes(gib));
    expect(sources["mem"]).toBe(source as never);
  });

  test("mps", () => {
    const under = profile({ compute: { mps: "on" } });
    expect(plan("", {}, under).mps).toBe("on");
    expect(plan("", { VGPU_MPS: "off" }, under).mps).toBe("off");
    expect(plan("--mps auto", { VGPU_MPS: "off" }, under).mps).toBe("auto");
    expect(plan("").mps).toBeUndefined();
  });

  test("events", () => {
    expect(plan("", {}, from).events).toEqual({
      format: "json",
      file: "e",
      fileLabel: "profile p: file",
    });
    expect(plan("--events none", { VGPU_EVENTS: "pretty" }, from).events.format).toBe("none");
    expect(plan("", { VGPU_EVENTS_FILE: "fd:7" }, from).events.file).toBe("fd:7");
    expect(plan("").events).toEqual({ format: "auto", file: null });
  });

  test("switches", () => {
    const env = {
      VGPU_JSON: "1",
      VGPU_QUIET: "yes",
      VGPU_VERBOSE: "2",
      VGPU_REQUIRE_GPU: "on",
      VGPU_DRY_RUN: "true",
    };
    const { report, requireGpu, dryRun } = plan("--no-json", env);
    expect({ ...report, requireGpu, dryRun }).toEqual({
      json: false,
      quiet: true,
      verbose: 2,
      requireGpu: true,
      dryRun: true,
    });
    expect(plan("-vv").report.verbose).toBe(2);
  });
});

describe("single GPUs", () => {
  test("a value for one GPU keeps the others' plain value", () => {
    const { limits, sources, notes } = plan("--mem 4g,1=8g --sm 25");
    const others = { softBytes: null, sharePercent: 25, burstPercent: null, smCount: null };
    expect(limits.all).toEqual({ memBytes: bytes(4), ...others });
    expect([...limits.gpus]).toEqual([["1", { memBytes: bytes(8), ...others }]]);
    expect(sources).toMatchObject({ mem: "flag", "mem.1": "flag", sm: "flag" });
    expect(notes).toEqual([]);
  });

  test("the order within one value does not matter", () => {
    expect(plan("--mem 1=8g,4g").limits).toEqual(plan("--mem 4g,1=8g").limits);
    expect(plan("--copy-bw d2h=2g/s,4g/s").time.copyRates).toMatchObject({ d2h: 2 * GIB });
  });

  test("others are unlimited when only some are named", () => {
    const { limits, notes } = plan("--mem 0=4g,01=8g");
    expect(limits.all).toBeNull();
    expect([...limits.gpus.keys()]).toEqual(["0", "1"]);
    expect(notes).toEqual([]); // devices.ts knows whether there are others
  });

  test("UUIDs take NVML's spelling", () => {
    expect([...plan("--sm gpu-AB=25").limits.gpus.keys()]).toEqual(["GPU-ab"]);
  });

  test("a plain value replaces what lies below it, a keyed one only its GPU's", () => {
    const from = profile({
      memory: { limit: bytes(1) },
      gpus: { "0": { memory: { limit: bytes(2) }, compute: {} } },
    });
    expect(plan("--mem 4g", {}, from).limits.gpus.size).toBe(0);
    const { limits, sources } = plan("--mem 1=4g", {}, from);
    expect(limits.all?.memBytes).toEqual(bytes(1));
    expect(limits.gpus.get("0")?.memBytes).toEqual(bytes(2));
    expect(limits.gpus.get("1")?.memBytes).toEqual(bytes(4));
    expect(sources).toMatchObject({ mem: "profile", "mem.0": "profile", "mem.1": "flag" });
  });

  test("a flag given twice is laid over itself", () => {
    expect(plan("--mem 4g --mem 8g").limits.all?.memBytes).toEqual(bytes(8));
    expect(plan("--mem 0=4g --mem 1=8g").limits.gpus.size).toBe(2);
    expect(plan("--mem 0=4g --mem 8g").limits.gpus.size).toBe(0);
  });

  test("a limit for a GPU that --gpu leaves out is noted", () => {
    expect(plan("--gpu 0 --mem 4g,1=8g").notes).toEqual([
      "a limit is given for GPU 1, which --gpu leaves out",
    ]);
    expect(plan("--gpu 0,2,0").gpu).toEqual(["0", "2"]);
  });
});

describe("a ceiling above the share", () => {
  test("plain, by GPU, from the profile", () => {
    expect(plan("--sm 25 --burst 50").limits.all?.burstPercent).toBe(50);
    expect(plan("--sm 25").limits.all?.burstPercent).toBeNull();
    expect(plan("--sm 25 --burst none").limits.all?.burstPercent).toBeNull();
    const { all, gpus } = plan("--sm 0=25,1=50 --burst 80,1=90").limits;
    expect(all).toBeNull();
    expect([...gpus.values()].map((limit) => limit.burstPercent)).toEqual([80, 90]);
    const from = profile({
      compute: { share: 20, burst: 40 },
      gpus: { "1": { memory: {}, compute: { burst: 60 } } },
    });
    const under = plan("", {}, from);
    expect(under.limits.all?.burstPercent).toBe(40);
    expect(under.limits.gpus.get("1")?.burstPercent).toBe(60);
    expect(under.sources).toMatchObject({ burst: "profile", "burst.1": "profile" });
  });

  test.each<[string, Record<string, string>, string]>([
    ["--burst 50", {}, "--burst without a share to rise from: without --sm"],
    ["--sm none --burst 50", {}, "--burst without a share to rise from"],
    ["--sm 0=25 --burst 1=50", {}, "--burst without a share to rise from on GPU 1"],
    ["--sm 25", { VGPU_BURST: "20" }, "VGPU_BURST: 20 is below the share of 25; the ceiling is"],
    ["--sm 25 --burst 1=10", {}, "--burst: 10 on GPU 1 is below the share of 25"],
    ["--sm 25 --burst 101", {}, "--burst: '101' is not a ceiling in percent; good forms: 25"],
  ])("%s %o", (line, env, message) => {
    expect(failure(line, env)).toStartWith(message);
  });
});

describe("the simulated card", () => {
  test.each<[string, Record<string, string>, string | null]>([
    ["", {}, null],
    ["--sim", {}, "h200"],
    ["--sim=RTX3080", {}, "rtx3080"],
    ["--sim-card rtx3080", {}, "rtx3080"],
    ["--sim", { VGPU_SIM_CARD: "rtx3080" }, "rtx3080"],
    ["", { VGPU_SIM_CARD: "rtx3080" }, null],
    ["", { VGPU_SIM: "1" }, "h200"],
    ["", { VGPU_SIM: "rtx3080" }, "rtx3080"],
    ["", { VGPU_SIM: "0" }, null],
    ["--no-sim", { VGPU_SIM: "1" }, null],
  ])("%s %o", (line, env, card) => {
    expect(plan(line, env).sim).toBe(card);
  });
});

describe("mistakes name the flag or variable, the value and good forms", () => {
  test.each<[string, Record<string, string>, string]>([
    ["--mem 4096", {}, "--mem: '4096' is not a size; add a unit: 4096g or 4096m"],
    ["", { VGPU_MEM: "lots" }, "VGPU_MEM: 'lots' is not a size; good forms"],
    ["--sm 0", {}, "--sm: '0' is not a share in percent; good forms: 25"],
    ["--sim=rtx308", {}, "--sim-card: 'rtx308' is not one of h200, a100, rtx3080, rtx4090"],
    ["--sm 101", {}, "--sm: '101' is not a share"],
    ["--sm 0=25,1=x", {}, "--sm: 'x' is not a share"],
    ["--mem 4g,8g", {}, "names two values without a GPU number"],
    ["--mem 0=4g,00=8g", {}, "names GPU 0 twice"],
    ["--mem a=4g", {}, "--mem: 'a' is not a GPU; good forms: 0=VALUE"],
    ["--mem 0=", {}, "--mem: '' is not a size"],
    ["--gpu all", {}, "--gpu: 'all' is not a list of GPUs"],
    ["--events jsn", {}, "--events: 'jsn' is not one of pretty, json, none (did you mean json?)"],
    ["--events-file fd:x", {}, "--events-file: 'fd:x' is not a file or a descriptor"],
    ["--sim=a/b", {}, "--sim-card: 'a/b' is not one of h200, a100, rtx3080, rtx4090"],
    ["", { VGPU_JSON: "maybe" }, "VGPU_JSON: 'maybe' is not yes or no"],
    ["", { VGPU_SIM: "maybe" }, "'maybe' is not one of h200, a100, rtx3080, rtx4090, 1, 0"],
    ["--mem 150%", {}, "--mem: '150%' is not a size; a size is more than 0 and at most 100 %"],
    ["--mem 0=0g", {}, "--mem: '0g' is not a size; a size is more than 0"],
    ["--mem 9999999999999g", {}, "'9999999999999g' is not a size; a size is at most 8191t"],
    ["", { VGPU_MEM: "4" }, "VGPU_MEM: '4' is not a size; add a unit: 4g or 4m"],
    ["", { VGPU_SMS: "1", VGPU_SM: "5" }, "VGPU_SMS and VGPU_SM both say how much"],
    ["--sms 0=1", { VGPU_SM: "0=5" }, "--sms and VGPU_SM both say how much of the GPU"],
    ["--sms 8", { VGPU_MODE: "time" }, "--sms gives SMs of one's own, VGPU_MODE time shares them"],
    ["", { VGPU_MODE: "spatial" }, "VGPU_MODE spatial: how many SMs?"],
    ["--sms 8", { VGPU_BURST: "50" }, "VGPU_BURST is for time mode: a partition has its SMs"],
  ])("%s %o", (line, env, message) => {
    expect(failure(line, env)).toContain(message);
  });

  test("no command", () => {
    expect(() => resolvePlan(splitArgv(["--mem", "4g"], run.args), {}, null)).toThrow(
      "no command given",
    );
  });
});
