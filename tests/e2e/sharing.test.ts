import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { findFaults } from "../fixtures/event-schema.ts";
import { compileFixture, folder, PLAIN, ROOT } from "../vgpu.ts";

const BIN = join(ROOT, "bin/vgpu");
const UUID = /GPU-[0-9a-f-]{36}/;
const work = folder();
const hold = join(work.path, "hold");
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  compileFixture(hold);
  Bun.spawnSync([BIN, "run", "--sim", "-q", "true"], { env: machine("built") });
}, 60_000);

function machine(name: string): Record<string, string> {
  const directory = join(work.path, name);
  mkdirSync(directory);
  return { ...PLAIN, VGPU_SIM_DIR: directory };
}

/** Starts `vgpu run --sim` on a command; what it said when it has ended. */
function start(flags: string[], command: string[], env: Record<string, string>) {
  const words = [BIN, "run", "--sim", "--events", "json", "--json", ...flags, "--", ...command];
  const child = Bun.spawn(words, { env, stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  return (async () => {
    const text = await new Response(child.stderr).text();
    expect(await child.exited).toBe(0);
    const lines = text.split("\n").filter(Boolean);
    const objects: Record<string, unknown>[] = lines
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line));
    const events = objects.filter(({ kind }) => kind !== "session.summary");
    for (const event of events) expect(findFaults(event)).toEqual([]);
    const summary = objects.find(({ kind }) => kind === "session.summary") as unknown as {
      gpus: Record<string, number>[];
      uses: Record<string, number>[];
    };
    return { notes: lines.filter((line) => !line.startsWith("{")), events, summary };
  })();
}

test("what is held back is told each second, and summed up by GPU and process", async () => {
  const launching = [hold, "1", "1", "2.5", "launch"];
  const { events, summary } = await start(["--sm", "25"], launching, machine("held"));
  const reports = events.filter(({ kind }) => kind === "compute.throttled");
  expect(reports.length).toBeWithin(2, 5);
  const sum = (field: string) =>
    reports.reduce((total, report) => total + (report[field] as number), 0);
  const [gpu] = summary.gpus;
  const [use] = summary.uses;
  expect(sum("waits")).toBe(gpu!["waits"]!);
  expect(sum("waited_ns")).toBe(gpu!["throttled_ns"]!);
  expect(sum("launches") / gpu!["launches"]!).toBeWithin(0.9, 1.0001); // the last may not have waited
  expect(gpu!["launches"]).toBeGreaterThan(1000);
  expect([use!["waits"], use!["throttled_ns"], use!["launches"]]).toEqual([
    gpu!["waits"],
    gpu!["throttled_ns"],
    gpu!["launches"],
  ]);
  expect(use!["gpu_ns"]! / gpu!["gpu_ns"]!).toBeWithin(0.8, 1.2);
}, 20_000);

test("turns with another session are told and summed up", async () => {
  const env = machine("turns");
  const launching = [hold, "1", "1", "3", "launch"];
  const first = start(["--sm", "50"], launching, env);
  const second = start(["--sm", "50"], launching, env);
  for (const { events, summary } of await Promise.all([first, second])) {
    const reports = events.filter(({ kind }) => kind === "compute.throttled");
    const sum = (field: string) =>
      reports.reduce((total, report) => total + (report[field] as number), 0);
    const [gpu] = summary.gpus;
    expect(gpu!["turns"]).toBeGreaterThan(10);
    expect(gpu!["turn_waited_ns"]).toBeGreaterThan(0);
    expect(sum("turns") / gpu!["turns"]!).toBeWithin(0.8, 1.0001);
    expect(sum("turn_waited_ns")).toBeWithin(1, gpu!["turn_waited_ns"]! + 1);
  }
}, 20_000);

test("two sessions whose shares come to more than the GPU hear of it, and when it is over", async () => {
  const env = machine("scaled");
  const first = start(["--sm", "60"], [hold, "1", "1", "4"], env);
  const second = start(["--sm", "75"], [hold, "1", "1", "1.2"], env);
  const [long, short] = await Promise.all([first, second]);
  const scaled = long.events.filter(({ kind }) => kind === "compute.scaled");
  expect(scaled.map(({ share_sum, scaled_share }) => [share_sum, scaled_share])).toEqual([
    [135, 44.44],
    [60, 60],
  ]);
  const [note] = long.notes.concat(short.notes);
  expect(note).toMatch(/^vgpu: the shares of 2 sessions on GPU-[0-9a-f-]{36} come to 135 %: while/);
}, 20_000);

test("a program outside vgpu on a GPU with a share is named", async () => {
  const env = machine("outsider");
  const { events } = await start(
    ["--sm", "50"],
    ["sh", "-c", `env -u VGPU_REGION -u LD_PRELOAD setsid -f ${hold} 2 1 4; ${hold} 1 1 3.5`],
    env,
  );
  const [outsider] = events.filter(({ kind }) => kind === "compute.outsider");
  expect(outsider).toMatchObject({ process: "hold", nvml_bytes: expect.any(Number) });
  expect(outsider!["gpu"]).toMatch(UUID);
}, 20_000);
