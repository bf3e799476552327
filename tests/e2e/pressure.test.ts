import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { compileFixture, folder, PLAIN, vgpu } from "../vgpu.ts";

const work = folder();
const program = join(work.path, "pressure");
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  compileFixture(program);
  vgpu(["run", "--sim", "-q", "true"], { env: machine("built") }); // once: takes seconds
}, 60_000);

function machine(name: string): Record<string, string> {
  const directory = join(work.path, name);
  mkdirSync(directory, { recursive: true });
  return { ...PLAIN, VGPU_SIM_DIR: directory };
}

function run(flags: string[], env: Record<string, string>) {
  const words = ["run", "--sim", "--events", "json", "--json", ...flags, "--", program];
  const { stdout, stderr } = vgpu(words, { env });
  const lines = stderr
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line));
  return {
    stdout,
    told: lines
      .filter(({ kind }) => kind === "memory.pressure")
      .map(({ level, above_soft }) => `${level}${above_soft ? " soft" : ""}`),
    events: lines,
    summary: lines.find(({ kind }) => kind === "session.summary"),
  };
}

test("each level is told on the way up and on the way down, to the user and to the program", () => {
  const { stdout, told, summary } = run(["--mem", "4g", "--mem-soft", "2g"], machine("levels"));
  expect(told).toEqual(["0 soft", "70 soft", "85 soft", "95 soft", "0"]);
  expect(stdout).toStartWith("limit 4096 soft 2048\n");
  expect(stdout).toMatch(/^up 0 1 /m);
  expect(stdout).toMatch(/^up 70 1 /m);
  expect(stdout).toMatch(/^up 85 1 /m);
  expect(stdout).toMatch(/^down 0 0 /m);
  expect(summary.gpus[0]).toMatchObject({ soft_bytes: 2 * 1024 ** 3, allocations: 27 });
  expect(summary.gpus[0].velocity_bytes_per_s).toBeGreaterThan(100 * 1024 ** 2);
  expect(summary.uses).toHaveLength(1);
  expect(summary.uses[0]).toMatchObject({ process: "pressure", allocations: 27, denials: 1 });
  expect(summary.uses[0].peak_bytes).toBeGreaterThan(3.8 * 1024 ** 3);
}, 20_000);

test("the summary for a person: the soft limit always, the processes where one of several was denied or with -v", () => {
  const words = ["run", "--sim", "--events", "none", "--mem", "4g", "--mem-soft", "2g"];
  const alone = vgpu([...words, "--", program], { env: machine("told") }).stderr;
  expect(alone).toMatch(/^vgpu: memory on GPU-[0-9a-f]{8}: soft limit 2 GiB, passed$/m);
  expect(alone).not.toContain("pressure[");
  const verbose = vgpu([...words, "-v", "--", program], { env: machine("told") }).stderr;
  expect(verbose).toMatch(/: soft limit 2 GiB, passed; 27 allocations, at most [\d.]+ [MG]iB\/s$/m);
  expect(verbose).toMatch(/^vgpu: pressure\[\d+\] +GPU-[0-9a-f]{8} +3\.\d+ GiB +27 +1 /m);
  const two = ["--", "sh", "-c", `${program}; ${program}`];
  const both = vgpu([...words, ...two], { env: machine("told") }).stderr;
  expect(both.match(/^vgpu: pressure\[\d+\]/gm)).toHaveLength(2);
}, 30_000);

test("a soft limit alone refuses nothing", () => {
  const env = { ...machine("alone"), VGPU_MEM_SOFT: "1g" };
  const { stdout, told, summary } = run([], env);
  expect(told).toEqual(["0 soft", "0"]);
  expect(stdout).toStartWith("limit 17592186044415 soft 1024\n"); // UINT64_MAX
  expect(summary.denials).toBe(0);
}, 20_000);

test("outside a session there is nothing to ask", () => {
  expect(Bun.spawnSync([program]).stdout.toString()).toBe("absent\n");
});

test("a profile's soft limit", () => {
  using here = folder({ "p.yaml": "memory: {limit: 4g, soft: 3g}\n" });
  const { stdout } = run(["--profile", join(here.path, "p.yaml")], machine("profile"));
  expect(stdout).toStartWith("limit 4096 soft 3072\n");
}, 20_000);
