import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compileFixture, folder, PLAIN, ROOT, vgpu } from "../vgpu.ts";

const BIN = join(ROOT, "bin/vgpu");
const work = folder();
const hold = join(work.path, "hold");
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  compileFixture(hold);
  Bun.spawnSync([BIN, "run", "--sim", "-q", "true"], { env: machine("built") }); // once: takes seconds
}, 60_000);

/** A simulated machine of its own for each test: nobody else's memory is in the way. */
function machine(name: string): Record<string, string> {
  const directory = join(work.path, name);
  mkdirSync(directory, { recursive: true });
  return { ...PLAIN, VGPU_SIM_DIR: directory, hold };
}

interface Line {
  kind: string;
  pid: number;
  [name: string]: unknown;
}

/** `vgpu run --sim` with these flags on a shell script, and its events. */
function run(flags: string[], script: string, env: Record<string, string>) {
  const words = [
    BIN,
    "run",
    "--sim",
    "--events",
    "json",
    "--json",
    ...flags,
    "--",
    "sh",
    "-c",
    script,
  ];
  const { exitCode, stdout, stderr } = Bun.spawnSync(words, { env, stdin: "ignore" });
  const lines: Line[] = stderr
    .toString()
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line));
  return {
    status: exitCode,
    stdout: stdout.toString(),
    events: lines.filter(({ kind }) => kind !== "session.summary"),
    summary: lines.find(({ kind }) => kind === "session.summary") as unknown as {
      denials: number;
      lost: number;
      gpus: { peak_bytes: number; realised_share: number }[];
    },
  };
}

const GIB = 1024 ** 3;

describe("memory", () => {
  test("the summary counts contexts without a limit too", () => {
    const { summary } = run([], "$hold 512 1 0.01", machine("unlimited"));
    expect(summary.gpus[0]!.peak_bytes).toBe((512 + 518) * 1024 ** 2);
  });

  test("a denial says who asked for how much of what", () => {
    const { stdout, events, summary } = run(["--mem", "4g"], "$hold 512 20 0.1", machine("denial"));
    expect(stdout).toBe("held 6 refused 2\n"); // a context of 518 MiB is in the 4 GiB
    const denied = events.filter(({ kind }) => kind === "memory.denied");
    expect(denied).toHaveLength(1);
    expect(denied[0]).toMatchObject({
      v: 1,
      process: "hold",
      api: "cuMemAlloc_v2",
      asked_bytes: 512 * 1024 ** 2,
      limit_bytes: 4 * GIB,
    });
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, index) => index + 1));
    expect(summary).toMatchObject({ denials: 1, lost: 0 });
    expect(summary.gpus[0]!.peak_bytes).toBeLessThanOrEqual(4 * GIB);
  });

  test("two processes of one run share one limit", () => {
    const { stdout } = run(
      ["--mem", "4g"],
      "$hold 256 20 1 & sleep 0.3; $hold 256 20 0; wait",
      machine("share"),
    );
    const held = [...stdout.matchAll(/held (\d+)/g)].reduce(
      (sum, [, count]) => sum + Number(count),
      0,
    );
    expect(held).toBeLessThanOrEqual(Math.floor((4096 - 518) / 256));
    expect(held).toBeGreaterThanOrEqual(Math.floor((4096 - 2 * 518) / 256));
  });

  test("what a killed process held is free again", () => {
    const script = "$hold 1024 3 60 & sleep 0.3; kill -9 $!; sleep 0.1; $hold 1024 3 0";
    const { stdout, events } = run(["--mem", "4g"], script, machine("killed"));
    expect(stdout).toBe("held 3 refused 0\nheld 3 refused 0\n");
    expect(events.filter(({ kind }) => kind === "process.exit")).toHaveLength(2);
  });

  test("a limit above the card is told of once, however short the program", () => {
    for (const [seconds, name] of [
      ["0", "short"],
      ["2.5", "long"],
    ] as const) {
      const words = ["run", "--sim", "--mem", "300g", "--", hold, "64", "1", seconds];
      const { stderr } = vgpu(words, { env: machine(`above-${name}`) });
      expect(stderr.match(/^vgpu: the limit of 300 GiB is more than GPU-\S+ has: /gm)).toHaveLength(
        1,
      );
    }
  });

  test("half of the card, of one GPU by its number", () => {
    const { stdout } = run(["--mem", "0=50%", "--gpu", "0"], "$hold 8192 20 0", machine("half"));
    expect(stdout).toBe("held 8 refused 2\n"); // 143,155 MiB / 2 less a context
  });

  test("without limits nothing is denied", () => {
    const { stdout, summary } = run([], "$hold 8192 10 0", machine("free"));
    expect(stdout).toBe("held 10 refused 0\n");
    expect(summary.denials).toBe(0);
  });

  test("a process that uses the GPU and has not joined is reported", () => {
    const { events } = run(
      ["--mem", "4g"],
      "env -u LD_PRELOAD $hold 512 1 1 & $hold 512 1 1; wait",
      machine("missing"),
    );
    expect(events.filter(({ kind }) => kind === "shim.missing")).toHaveLength(1);
  });
});

describe("compute", () => {
  test("a share of 25 % is held and reported once a second", () => {
    const env = { ...machine("compute"), VGPU_SIM_KERNEL_US: "200" };
    const { events, summary } = run(["--sm", "25"], "$hold 1 1 3 launch", env);
    const reports = events.filter(({ kind }) => kind === "compute.throttled");
    expect(reports.length).toBeGreaterThanOrEqual(2);
    expect(reports.at(-1)).toMatchObject({ share: 25 });
    expect(summary.gpus[0]!.realised_share).toBeGreaterThan(22);
    expect(summary.gpus[0]!.realised_share).toBeLessThan(28);
  }, 15_000);
});

describe("the supervisor dies", () => {
  test("its target keeps its limit, a child it starts later has it too, and then nothing is left", async () => {
    const env = machine("orphan");
    const go = join(work.path, "go");
    const script = `echo $VGPU_REGION; $hold 1024 1 0 >/dev/null; while [ ! -e ${go} ]; do sleep 0.02; done; $hold 512 20 0`;
    const child = Bun.spawn([BIN, "run", "--sim", "--mem", "4g", "-q", "sh", "-c", script], {
      env,
      stdout: "pipe",
    });
    const reader = child.stdout.getReader();
    const path = new TextDecoder().decode((await reader.read()).value).trim();
    await Bun.sleep(200);
    child.kill("SIGKILL");
    await child.exited;
    Bun.spawnSync([BIN, "run", "-q", "true"], { env });
    expect(existsSync(path)).toBe(true);
    writeFileSync(go, "");
    expect(new TextDecoder().decode((await reader.read()).value)).toBe("held 6 refused 2\n");
    await Bun.sleep(100);
    Bun.spawnSync([BIN, "run", "-q", "true"], { env });
    expect(existsSync(path)).toBe(false);
    expect(existsSync(`${path}.bell`)).toBe(false);
  });
});

const ROUNDS = Number(process.env["VGPU_TEST_KILLS"] ?? 12);

test(`kill -9 at ${ROUNDS} random moments leaves nothing after one further command`, async () => {
  const env = machine("kills");
  for (let round = 0; round < ROUNDS; round++) {
    const script = 'echo "$VGPU_REGION $$ $PPID"; $hold 64 8 0.3 & echo $!; $hold 64 8 0.3 & wait';
    const child = Bun.spawn([BIN, "run", "--sim", "--mem", "4g", "-q", "sh", "-c", script], {
      env,
      stdout: "pipe",
      stderr: "ignore",
    });
    const reader = child.stdout.getReader();
    let text = "";
    const until = Date.now() + 20 + Math.random() * 250;
    const reading = (async () => {
      for (let part = await reader.read(); !part.done; part = await reader.read())
        text += new TextDecoder().decode(part.value);
    })();
    await Bun.sleep(until - Date.now());
    const [first = "", second = ""] = text.split("\n");
    const [region = "", target, supervisor] = first.split(" ");
    const victims = [target, supervisor, second, `${child.pid}`].filter((pid) =>
      /^\d+$/.test(pid ?? ""),
    );
    try {
      process.kill(Number(victims[round % victims.length]), "SIGKILL");
    } catch {} // it had ended
    await child.exited;
    await reading; // the whole tree has ended: nobody holds stdout any more
    Bun.spawnSync([BIN, "run", "-q", "true"], { env });
    if (region !== "") {
      expect(existsSync(region)).toBe(false);
      expect(existsSync(`${region}.bell`)).toBe(false);
    }
    const { stdout } = run(["--mem", "4g"], "$hold 512 20 0", env);
    expect(stdout).toBe("held 6 refused 2\n");
  }
}, 120_000);

test("no room in /dev/shm, or no writing there: one line, 125, nothing left", () => {
  const script = (size: string, options: string) =>
    `mount -t tmpfs -o size=${size} tmpfs /dev/shm && ${options} ${BIN} run -q true; echo "status $?"; ls -A /dev/shm/vgpu-* 2>/dev/null`;
  const inNamespace = (command: string) => {
    const { stdout, stderr } = Bun.spawnSync(["unshare", "-m", "sh", "-c", command], {
      env: { ...PLAIN, HOME: work.path },
    });
    return { stdout: stdout.toString(), stderr: stderr.toString() };
  };
  Bun.spawnSync([BIN, "run", "-q", "true"], { env: { ...PLAIN, HOME: work.path } }); // builds the shim
  if (inNamespace("mount -t tmpfs tmpfs /dev/shm").stderr !== "") return; // not allowed here
  const full = inNamespace(script("512k", ""));
  expect(full.stderr).toMatch(/^vgpu: \/dev\/shm is full; .*\n$/);
  expect(full.stdout).toBe("status 125\n");
  const readOnly = inNamespace(script("512k", "mount -o remount,ro /dev/shm &&"));
  expect(readOnly.stderr).toMatch(/^vgpu: \/dev\/shm is read-only; .*\n$/);
  expect(readOnly.stdout).toBe("status 125\n");
});

test.each(["abc", "0", "17", "99", "2x", "-1"])("VGPU_SIM_GPUS=%s: one line, 125", (cards) => {
  const env = { ...PLAIN, VGPU_SIM_GPUS: cards };
  const { exitCode, stderr } = Bun.spawnSync([BIN, "run", "--sim", "true"], { env });
  expect([exitCode, stderr.toString()]).toEqual([
    125,
    `vgpu: VGPU_SIM_GPUS: '${cards}' is not a number of cards from 1 to 16; good forms: 1, 2\n`,
  ]);
});

test("no room for the simulated card's state: a line and an error of CUDA's, no SIGBUS", () => {
  const directory = join(work.path, "full");
  mkdirSync(directory);
  const command = `mount -t tmpfs -o size=8k,mode=700 tmpfs ${directory} && VGPU_SIM_DIR=${directory} ${BIN} run --sim ${hold} 1 1 0`;
  const { exitCode, signalCode, stderr } = Bun.spawnSync(["unshare", "-m", "sh", "-c", command], {
    env: PLAIN,
  });
  const said = stderr.toString();
  if (/mount|unshare/.test(said)) return; // not allowed here
  expect(signalCode).toBeUndefined();
  expect(exitCode).toBeLessThan(125);
  expect(said).toMatch(
    /^vgpu: the simulated GPU cannot keep its state in \S+: No space left on device; /m,
  );
});

// A busy machine may slow one of the two runs that it compares.
test(
  "the demo: 4 GiB and 25 %, in one object",
  () => {
    const { exitCode, stdout } = Bun.spawnSync([BIN, "demo", "--json"], { env: machine("demo") });
    expect(exitCode).toBe(0);
    const result = JSON.parse(stdout.toString());
    expect(result).toMatchObject({ limit_bytes: 4 * GIB, share: 25, denials: 1 });
    expect(result.had_bytes).toBeLessThan(4 * GIB);
    expect(result.realised_share).toBeGreaterThan(22);
    expect(result.realised_share).toBeLessThan(28);
  },
  { timeout: 60_000, retry: 2 },
);
