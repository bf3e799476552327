import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compileFixture, folder, PLAIN, ROOT, vgpu } from "../vgpu.ts";

// The kinds of events that no other test here raises, each by what causes it.

const MIB = 1024 ** 2;
const work = folder();
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  for (const name of ["hold", "behind"]) compileFixture(join(work.path, name));
  run("built", [], "true"); // once: takes seconds
}, 60_000);

/** Events and stderr of a shell script in a session on a simulated machine of its own; `$events` is where they go. */
function run(name: string, flags: string[], script: string, env: Record<string, string> = {}) {
  const machine = join(work.path, name);
  mkdirSync(machine);
  const events = join(machine, "events");
  const words = ["run", "--sim", "--events-file", events, ...flags, "--", "sh", "-c", script];
  const programs = { hold: join(work.path, "hold"), behind: join(work.path, "behind") };
  const all = { ...PLAIN, VGPU_SIM_DIR: machine, events, ...programs, ...env };
  const { stderr } = vgpu(words, { env: all });
  const lines = readFileSync(events, "utf8").split("\n").filter(Boolean);
  const told: Record<string, unknown>[] = lines.map((line) => JSON.parse(line));
  return { stderr, of: (kind: string) => told.filter((event) => event["kind"] === kind) };
}

test("memory.unseen: NVML knows none of the session's processes", () => {
  // The target is on a simulated machine of its own: to the supervisor's NVML its card is idle.
  const elsewhere = join(work.path, "elsewhere");
  mkdirSync(elsewhere);
  const script = `export VGPU_SIM_DIR=${elsewhere}; $hold 64 1 6 & sleep 5.3; $hold 1 1 0.2; wait`;
  const { stderr, of } = run("unseen", ["--mem", "4g"], script);
  expect(of("memory.unseen")).toHaveLength(1);
  expect(of("memory.unseen")[0]).toMatchObject({ process: "hold", ledger_bytes: (518 + 64) * MIB });
  expect(stderr).toMatch(/^vgpu: NVML does not list this session's processes/m);
}, 20_000);

test("process.exit: the process that vgpu started with its status or signal, however it ended", () => {
  for (let round = 0; round < 3; round++) {
    const { of } = run(`status${round}`, [], "exec $hold 64 1 0");
    expect(of("process.exit")).toHaveLength(1);
    expect(of("process.exit")[0]).toMatchObject({ process: "hold", cause: "exit", status: 0 });
  }
  const script = "(sleep 0.4; kill -TERM $$) & exec $hold 64 1 9";
  const killed = run("signal", [], script).of("process.exit");
  expect(killed).toHaveLength(1);
  expect(killed[0]).toMatchObject({ process: "hold", cause: "killed", signal: "SIGTERM" });
});

test("memory.drift: a process holds more than its calls named", () => {
  const { of } = run("drift", ["--mem", "4g"], "$behind 64 0.5");
  expect(of("memory.drift")).toHaveLength(1);
  expect(of("memory.drift")[0]).toMatchObject({
    process: "behind",
    ledger_bytes: 518 * MIB,
    nvml_bytes: (518 + 64) * MIB,
  });
});

test("memory.unknown: the program asks for an entry point that nobody has heard of", () => {
  const driver = join(work.path, "driver");
  const tomorrow = join(work.path, "tomorrow.c");
  writeFileSync(
    tomorrow,
    '__attribute__((visibility("default"))) int cuMemAllocTomorrow(void) { return 0; }\n',
  );
  const built = Bun.spawnSync(["sh", join(ROOT, "shim/sim/build.sh"), driver, "-O0", tomorrow]);
  expect(built.stderr.toString()).toBe("");
  const script = `LD_LIBRARY_PATH=${driver} $behind unknown; echo $? >&2`;
  const { stderr, of } = run("unknown", ["--mem", "4g"], script);
  expect(stderr).toBe("0\n");
  expect(of("memory.unknown")).toHaveLength(1);
  expect(of("memory.unknown")[0]).toMatchObject({ process: "behind", api: "cuMemAllocTomorrow" });
}, 60_000);

test("compute.stolen: whoever holds the turn is stopped", () => {
  const script = `$hold 1 1 20 launch & one=$!; $hold 1 1 20 launch & other=$!
    for round in $(seq 40); do
      kill -STOP $one; sleep 0.2; kill -CONT $one; sleep 0.0$((round % 8))
      grep -q compute.stolen $events && break
    done; kill $one $other; echo $one >&2; wait`;
  const { stderr, of } = run("stolen", ["--sm", "90"], script, { VGPU_SIM_KERNEL_US: "2000" });
  const stolen = of("compute.stolen")[0];
  expect(stolen).toMatchObject({ victim_pid: Number(stderr.match(/^\d+$/m)![0]) });
  expect(stolen?.["overdue_ns"]).toBeGreaterThan(0);
}, 60_000);

test("on stderr and in a file an event has one number; a file that takes no more is told of once", () => {
  const { stderr, of } = run("numbers", ["--events", "json"], "$hold 1 1 0; $hold 1 1 0");
  const numbers = stderr
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line).seq as number);
  expect(numbers.length).toBeGreaterThan(5);
  expect(numbers).toEqual(numbers.map((_, index) => index + 1));
  expect(of("session.end")[0]!["seq"]).toBe(numbers.length);

  const env = { ...PLAIN, VGPU_SIM_DIR: join(work.path, "numbers") };
  const words = ["run", "--sim", "--events-file", "/dev/full", "--", "true"];
  expect(vgpu(words, { env })).toMatchObject({
    status: 0,
    stderr:
      "vgpu: --events-file /dev/full: cannot be written (ENOSPC); events are lost from here on\n",
  });
});

test("process.attach: each process, once", () => {
  const { of } = run("attach", ["--mem", "4g"], "$hold 1 1 0; true; $hold 1 1 0");
  expect(of("process.attach").map((event) => event["process"])).toEqual(["hold", "hold"]);
});
