import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { device, header, LAYOUT_VERSION } from "../../src/layout.gen.ts";
import { provideMps } from "../../src/mps.ts";
import { readProcess } from "../../src/process.ts";
import { deviceOffset, Region } from "../../src/region.ts";
import { compileFixture, folder, PLAIN, ROOT } from "../vgpu.ts";

const BIN = join(ROOT, "bin/vgpu");
const ROUNDS = Number(process.env["VGPU_TEST_ROUNDS"] ?? 20);
const STATE = `/dev/shm/vgpu-${userInfo().uid}`;
const work = folder();
const smids = join(work.path, "smids");
const load = join(work.path, "load");
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  for (const program of [smids, load]) compileFixture(program);
  Bun.spawnSync([BIN, "run", "--sim", "-q", "true"], { env: machine("built") }); // once: takes seconds
}, 120_000);

/** A simulated machine of its own: its sessions share no card with anybody else's. */
function machine(name: string): Record<string, string> {
  const directory = join(work.path, name);
  mkdirSync(directory);
  return { ...PLAIN, VGPU_SIM_DIR: directory };
}

type Environment = Record<string, string>;

function run(env: Environment, flags: string[], command = [smids]) {
  const words = [BIN, "run", "--sim", ...flags, "--", ...command];
  const { exitCode, stdout, stderr } = Bun.spawnSync(words, { env, stdin: "ignore" });
  return { status: exitCode, out: stdout.toString().trim(), err: stderr.toString().trim() };
}

/** A session that stays; resolves once its kernel has run. */
async function start(env: Environment, flags: string[]) {
  const child = Bun.spawn([BIN, "run", "--sim", "-q", ...flags, "--", smids, "60"], {
    env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  const out = Buffer.from(value ?? [])
    .toString()
    .trim();
  return {
    out,
    child,
    async end() {
      child.kill("SIGTERM");
      await child.exited;
    },
  };
}

describe("SMs of one's own", () => {
  test("a share in whole groups, and the program sees no others", () => {
    const env = machine("share");
    const { out, err, status } = run(env, ["--mode", "spatial", "--sm", "25", "--events", "json"]);
    expect([status, out]).toEqual([0, "32 of 32: 0-31"]);
    const events = err.split("\n").filter((line) => line.startsWith("{"));
    const partition = events
      .map((line) => JSON.parse(line))
      .find(({ kind }) => kind === "compute.partition");
    expect(partition).toMatchObject({
      sms: 32,
      sms_wanted: 32,
      sms_total: 132,
      group_sms: 8,
      groups: "0-3",
    });
    expect(run(env, ["--sms", "39"]).out).toBe("32 of 32: 0-31"); // free again, the same SMs
    expect(run(env, ["--sm", "25"]).out).toBe("132 of 132: 0-131"); // unnamed: time mode
  });

  test("sessions that run together have disjoint SMs; the last gets what is left", async () => {
    const env = machine("disjoint");
    const first = await start(env, ["--sms", "56"]);
    const second = await start(env, ["--mode", "spatial", "--sm", "50"]);
    const outsider = run(env, []);
    await first.end();
    const third = run(env, ["--sms", "16"]);
    await second.end();
    expect(first.out).toBe("56 of 56: 0-55");
    expect(second.out).toBe("64 of 64: 56-119");
    expect([outsider.status, outsider.out]).toEqual([125, ""]);
    expect(third.out).toBe("16 of 16: 0-15");
  });

  test("a quarter for whom one group is missing gets one less, and is told", async () => {
    const env = machine("quarters");
    const quarter = ["--mode", "spatial", "--sm", "25"];
    const others = [
      await start(env, quarter),
      await start(env, quarter),
      await start(env, quarter),
    ];
    const last = run(env, [...quarter, "--events", "pretty"]);
    for (const other of others) await other.end();
    expect(last.out).toBe("24 of 24: 96-119");
    expect(last.err).toContain("24 of 132 SMs, groups 12-14, less than 32: the rest is taken");
  });

  test("a share below one group is the time gate inside it; raised past it, in words", async () => {
    const env = { ...machine("small"), VGPU_SIM_KERNEL_US: "20" };
    const flags = [
      "--mode",
      "spatial",
      "--sm",
      "3",
      "--json",
      "--",
      load,
      ...["--us", "50", "--seconds", "3"],
    ];
    const child = Bun.spawn([BIN, "run", "--sim", ...flags], {
      env,
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    while (mine(env).length === 0) await Bun.sleep(10);
    const region = new Region(join(STATE, mine(env)[0]!));
    while (region.load32(header.slots_used) === 0) await Bun.sleep(10);
    await Bun.sleep(2500);
    region.store32(deviceOffset(0) + device.share_ppm, 500_000);
    region.store32(header.limits_version, region.load32(header.limits_version) + 1);
    const err = await new Response(child.stderr).text();
    expect(await child.exited).toBe(0);
    const summary = JSON.parse(err.split("\n").find((line) => line.startsWith("{"))!);
    // 3 % of the GPU while held; what is not is not charged. Not held it would have 6.06 % (8 of 132 SMs).
    expect(summary.gpus[0].realised_share).toBeGreaterThan(1.8);
    expect(summary.gpus[0].realised_share).toBeLessThan(3.2);
    expect(err).toContain("is now 50 %, above the session's own SMs (6.1 %)");
  }, 20_000);

  test("on a card that only the command's own child sees the share is one of time", () => {
    const env = { ...machine("hidden"), VGPU_SIM_GPUS: "2", CUDA_VISIBLE_DEVICES: "0" };
    const second = `CUDA_VISIBLE_DEVICES=1 ${load} --us 500 --seconds 2`;
    const { err } = run(env, ["--mode", "spatial", "--sm", "25", "--json"], ["sh", "-c", second]);
    const summary = JSON.parse(err.split("\n").find((line) => line.startsWith("{"))!);
    const used = summary.gpus.find(({ launches }: { launches: number }) => launches > 0);
    expect(used).toMatchObject({ share: 25 });
    expect(used.realised_share).toBeLessThan(30);
  }, 20_000);

  test("a session without a share gets what is free on a spatial card", async () => {
    const env = machine("rest");
    const first = await start(env, ["--sms", "56"]);
    const { out } = run(env, []);
    await first.end();
    expect(out).toBe("64 of 64: 56-119");
  });
});

describe("refusals", () => {
  test("no room: the holders are named; auto takes time mode and says so", async () => {
    const env = machine("full");
    const holder = await start(env, ["--sms", "112"]);
    const full = run(env, ["--sms", "16"]);
    const timed = run(env, ["--mode", "time", "--sm", "10"]);
    const auto = run(env, ["--mode", "auto", "--sm", "25"]);
    await holder.end();
    expect(full.status).toBe(125);
    expect(full.err).toMatch(
      /has no room: session \w+ \(pid \d+\) has 112 SMs \(groups 0-13\); wait/,
    );
    expect([timed.status, timed.err]).toEqual([125, expect.stringContaining("is in spatial mode")]);
    expect([auto.status, auto.out]).toEqual([0, "132 of 132: 0-131"]);
    expect(auto.err).toContain("--mode auto: time mode, on all SMs");
  });

  test("a card in time mode", async () => {
    const env = machine("timed");
    const holder = await start(env, ["--sm", "50"]);
    const spatial = run(env, ["--mode", "spatial", "--sm", "25"]);
    const auto = run(env, ["--mode", "auto", "--sm", "25"]);
    const free = run(env, []);
    await holder.end();
    expect([spatial.status, spatial.err]).toEqual([
      125,
      expect.stringContaining("is in time mode"),
    ]);
    expect(auto.err).toContain("--mode auto: time mode");
    expect(auto.status).toBe(0);
    expect(free.out).toBe("132 of 132: 0-131");
  });

  const contradictions: [string[], string][] = [
    [["--sms", "8", "--sm", "10"], "--sms and --sm both say how much of the GPU"],
    [["--sms", "8", "--mode", "time"], "--mode time shares them all"],
    [["--mode", "spatial"], "how many SMs?"],
    [["--mode", "spatial", "--sm", "10", "--burst", "50"], "--burst is for time mode"],
    [["--sms", "8", "--burst", "50"], "--burst is for time mode"],
    [["--sms", "0"], "--sms: '0' is not a number of SMs"],
    [["--mode", "space"], "--mode: 'space' is not one of time, spatial, auto"],
  ];
  test.each(contradictions)("%j", (flags, words) => {
    const { status, err } = run(PLAIN, flags);
    expect([status, err.replaceAll('"', "'")]).toEqual([125, expect.stringContaining(words)]);
  });
});

describe("MPS", () => {
  const daemonOf = (env: Environment, directory = join(env["VGPU_SIM_DIR"]!, "mps")) => {
    const file = join(directory, "nvidia-cuda-mps-control.pid");
    const pid = existsSync(file) ? Number(readFileSync(file, "utf8")) : 0;
    return pid > 0 && isAlive(pid) ? pid : null;
  };

  test("the first spatial session starts a daemon, the last one ends it", async () => {
    const env = machine("mps");
    expect(run(env, ["--sms", "8"]).err).toContain("share its faults");
    const first = await start(env, ["--sms", "8"]);
    const daemon = daemonOf(env);
    const second = await start(env, ["--sms", "8"]);
    expect(daemon).not.toBeNull();
    await first.end();
    expect(daemonOf(env)).toBe(daemon);
    await second.end();
    expect(daemonOf(env)).toBeNull();
  });

  test("it hides no card, whatever its first session sees", async () => {
    const env = { ...machine("mps-cards"), VGPU_SIM_GPUS: "2", CUDA_VISIBLE_DEVICES: "1" };
    expect(run(env, ["--sms", "8"]).out).toBe("8 of 8: 0-7");
    const session = await start(env, ["--sms", "8"]);
    const environ = readFileSync(`/proc/${daemonOf(env)}/environ`, "utf8");
    await session.end();
    expect(environ).not.toContain("CUDA_VISIBLE_DEVICES");
    expect(environ).toContain("CUDA_MPS_PIPE_DIRECTORY");
  });

  test("after kill -9 of everything the next command ends it", async () => {
    const env = machine("mps-killed");
    const session = await start(env, ["--sms", "8"]);
    const targets = childrenOf(session.child.pid);
    session.child.kill("SIGKILL");
    await session.child.exited;
    const daemon = daemonOf(env)!;
    for (const pid of targets) process.kill(pid, "SIGKILL");
    while (targets.some(isAlive)) await Bun.sleep(2);
    expect(isAlive(daemon)).toBe(true);
    run(env, [], ["true"]);
    expect(daemonOf(env)).toBeNull();
    expect(isAlive(daemon)).toBe(false);
  });

  test("a session of another version keeps it, and nobody gets SMs beside it until it is dead", async () => {
    const env = machine("mps-version");
    const session = await start(env, ["--sms", "32"]);
    const daemon = daemonOf(env)!;
    const [name] = mine(env);
    new Region(join(STATE, name!)).store32(header.layout_version, LAYOUT_VERSION - 1);
    const beside = run(env, ["--sms", "8"]);
    const timed = run(env, ["--sm", "25"]);
    const kept = daemonOf(env);
    const targets = childrenOf(session.child.pid);
    session.child.kill("SIGKILL");
    await session.child.exited;
    const orphaned = run(env, ["--sms", "8"]);
    for (const pid of targets) process.kill(pid, "SIGKILL");
    while (targets.some(isAlive)) await Bun.sleep(2);
    const after = run(env, ["--sms", "8"]);

    expect([beside.status, beside.out, timed.status]).toEqual([125, "", 0]);
    expect(beside.err).toBe(
      `vgpu: session ${name} (pid ${session.child.pid}) is of another version of vgpu: which SMs it has is not known; wait for it to end, or stop it`,
    );
    expect(kept).toBe(daemon);
    expect([orphaned.status, orphaned.err]).toEqual([
      125,
      expect.stringContaining(`if there are none: rm ${STATE}/${name}`),
    ]);
    expect(after.out).toBe("8 of 8: 0-7");
    expect(daemonOf(env)).toBeNull();
  });

  test("off: none; time mode: none unless asked for, and then turns are shorter", async () => {
    const env = machine("mps-off");
    const show = ["sh", "-c", `${smids} >/dev/null; echo "pipes $CUDA_MPS_PIPE_DIRECTORY"`];
    expect(run(env, ["--sms", "8", "--mps", "off"], show).out).toBe("pipes");
    expect(run(env, ["--sm", "50"], show).out).toBe("pipes");
    expect(run(env, ["--sm", "50", "--mps", "on"], show).out).toBe(
      `pipes ${join(env["VGPU_SIM_DIR"]!, "mps")}`,
    );
    const session = await start(env, ["--sm", "50", "--mps", "on"]);
    const [name] = mine(env);
    const quantum = new Region(join(STATE, name!)).load32(header.quantum_us);
    await session.end();
    expect(quantum).toBe(4000);
    expect(daemonOf(env)).toBeNull();
  });

  test("who inherits its pipes is counted, in time mode too; with --mps off the command does not get them", async () => {
    const plain = machine("mps-inherited");
    const pipes = join(plain["VGPU_SIM_DIR"]!, "mps");
    const env = { ...plain, CUDA_MPS_PIPE_DIRECTORY: pipes, CUDA_MPS_LOG_DIRECTORY: pipes };
    const first = await start(plain, ["--sms", "112"]);
    const daemon = daemonOf(plain)!;
    const timed = await start(env, ["--mode", "auto", "--sm", "25"]);
    const show = ["sh", "-c", `${smids}; env | grep -c CUDA_MPS`];
    const off = run(env, ["--sms", "8", "--mps", "off"], show);
    await first.end();
    const kept = daemonOf(plain);
    await timed.end();
    expect([timed.out, off.out]).toEqual(["132 of 132: 0-131", "8 of 8: 112-119\n0"]);
    expect(kept).toBe(daemon);
    expect(daemonOf(plain)).toBeNull();
  });

  test("a server that the user has configured is used and stays", async () => {
    const env = machine("mps-own");
    const other = machine("mps-theirs");
    const session = await start(other, ["--sms", "8"]); // stands for the user's own daemon
    const pipes = join(other["VGPU_SIM_DIR"]!, "mps");
    const daemon = daemonOf(other)!;
    const show = ["sh", "-c", `${smids} >/dev/null; echo "pipes $CUDA_MPS_PIPE_DIRECTORY"`];
    const { out } = run({ ...env, CUDA_MPS_PIPE_DIRECTORY: pipes }, ["--sms", "8"], show);
    expect(out).toBe(`pipes ${pipes}`);
    expect(daemonOf(env)).toBeNull();
    expect(isAlive(daemon)).toBe(true);
    await session.end();
  });

  test("where it is not installed, spatial mode says what that means", () => {
    const home = {
      directory: "/nonexistent",
      control: "/nonexistent/control",
      pidFile: "/nonexistent",
    };
    const mps = provideMps(home, true, undefined);
    expect(mps).toMatchObject({ set: {}, isThere: false, isOurs: false });
    expect(mps.note).toBe(
      "no MPS server (nvidia-cuda-mps-control is not installed): sessions on one card take turns on it, each on its own SMs",
    );
  });
});

test(
  `${ROUNDS} rounds of overlapping sessions killed with their supervisors: nothing is lost`,
  async () => {
    const env = machine("killed");
    for (let round = 0; round < ROUNDS; round++) {
      const sessions = await Promise.all([
        start(env, ["--sms", "40"]),
        start(env, ["--sms", "40"]),
        start(env, ["--sms", "40"]),
      ]);
      const sets = sessions.map(({ out }) => out).toSorted();
      expect(sets).toEqual(["40 of 40: 0-39", "40 of 40: 40-79", "40 of 40: 80-119"]);
      const targets = sessions.flatMap(({ child }) => childrenOf(child.pid));
      expect(targets).toHaveLength(3);
      // Supervisors first: as long as their trees live, nobody else gets their SMs.
      for (const { child } of sessions) child.kill("SIGKILL");
      await Promise.all(sessions.map(({ child }) => child.exited));
      if (round === 0) expect(run(env, ["--sms", "8"]).status).toBe(125);
      for (const pid of targets) process.kill(pid, "SIGKILL");
      while (targets.some(isAlive)) await Bun.sleep(2);
    }
    expect(run(env, ["--sms", "120"]).out).toBe("120 of 120: 0-119");
    expect(mine(env)).toEqual([]);
    expect(existsSync(join(env["VGPU_SIM_DIR"]!, "mps/nvidia-cuda-mps-control.pid"))).toBe(false);
  },
  10_000 + ROUNDS * 5000,
);

function childrenOf(pid: number): number[] {
  const children = Bun.file(`/proc/${pid}/task/${pid}/children`);
  const { stdout } = Bun.spawnSync(["cat", children.name!]);
  return stdout.toString().trim().split(" ").filter(Boolean).map(Number);
}

/** A zombie is not: this container's init may take its time. */
const isAlive = (pid: number): boolean => !["Z", "X", undefined].includes(readProcess(pid)?.state);

/** The session files left behind of those that ran on this machine. */
function mine(env: Environment): string[] {
  return readdirSync(STATE).filter((name) => {
    if (!/^[0-9a-z]{6}$/.test(name)) return false;
    const { stdout } = Bun.spawnSync(["grep", "-c", env["VGPU_SIM_DIR"]!, join(STATE, name)]);
    return stdout.toString().trim() !== "0";
  });
}
