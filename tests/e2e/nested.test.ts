import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { stateDirectory } from "../../src/state-directory.ts";
import { compileFixture, folder, PLAIN, ROOT, vgpu } from "../vgpu.ts";

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const work = folder();
const hold = join(work.path, "hold");
const load = join(work.path, "load");
const copy = join(work.path, "copy");
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  [hold, load, copy].forEach(compileFixture);
  vgpu(["run", "--sim", "-q", "true"], { env: machine() }); // builds what is not built yet
}, 60_000);

/** A simulated machine of its own, with `vgpu` on the PATH. */
function machine(): Record<string, string> {
  const directory = join(work.path, crypto.randomUUID());
  mkdirSync(directory);
  const PATH = `${join(ROOT, "bin")}:${PLAIN.PATH}`;
  return { ...PLAIN, PATH, VGPU_SIM_DIR: directory, hold, load, copy };
}

/** `vgpu run --sim` on a shell script that uses `vgpu run` itself. */
function nest(flags: string[], script: string, env = machine()) {
  const { status, stdout, stderr } = vgpu(["run", "--sim", ...flags, "--", "sh", "-c", script], {
    env,
  });
  return { status, stdout: stdout.trim().split("\n"), stderr };
}

describe("memory counts against both sessions", () => {
  test.each([
    ["the inner limit holds", "4g", "2g", 5],
    ["a looser one inside does not help", "2g", "3g", 5],
    ["without one inside the outer limit holds", "2g", "none", 5],
    ["without one outside the inner limit holds", "none", "2g", 5],
  ])("%s", (_, outer, inner, blocks) => {
    const script = `vgpu run --sim -q --mem ${inner} -- $hold 256 20 0`;
    expect(nest(["-q", "--mem", outer], script).stdout).toEqual([`held ${blocks} refused 2`]);
  });

  test("what others of the outer session hold is not there for the inner one", () => {
    const script = `$hold 1024 1 2 >/dev/null & sleep 1; vgpu run --sim -q --mem 4g -- $hold 256 20 0; wait`;
    // 4096 − (518 + 1024) − 518 = 2036 MiB
    expect(nest(["-q", "--mem", "4g"], script).stdout).toEqual(["held 7 refused 2"]);
  });

  test("programs are told the least that is left; a refusal is told in each session up to the one that was full", () => {
    const files = [join(work.path, "outer.ndjson"), join(work.path, "inner.ndjson")];
    const script = `vgpu run --sim -q --mem 8g --events-file ${files[1]} -- $hold 256 20 0`;
    const { stdout } = nest(["-q", "--mem", "1g", "--events-file", files[0]!], script);
    expect(stdout).toEqual(["held 1 refused 2"]);
    for (const file of files) {
      const events = readFileSync(file, "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
      const denials = events.filter(({ kind }) => kind === "memory.denied");
      const wanted = { asked_bytes: 256 * MIB, used_bytes: 774 * MIB, limit_bytes: GIB };
      expect(denials).toMatchObject([{ api: "cuMemAlloc_v2", process: "hold", ...wanted }]);
      const named = (kind: string) => events.filter((event) => event.kind === kind);
      expect(named("process.attach").map(({ process }) => process)).toContain("hold");
      expect(named("process.exit").map(({ process }) => process)).toContain("hold");
    }
  });

  test("three deep; what a killed process held is free again in all of them", () => {
    const inmost =
      "vgpu run --sim -q --mem 2g -- sh -c '$hold 256 2 20 & sleep 1; kill -9 $!; $hold 256 20 0'";
    const script = `vgpu run --sim -q --mem 3g -- ${inmost}`;
    expect(nest(["-q", "--mem", "4g"], script).stdout).toEqual([
      "held 2 refused 0",
      "held 5 refused 2",
    ]);
  });
});

describe("compute counts against both sessions", () => {
  test(
    "beside work of the outer session that has no share",
    () => {
      const run = "--us 500 --batch 20 --seconds 2";
      const script = `$load ${run} >/dev/null & vgpu run --sim -q --sm 25 -- $load ${run}; wait`;
      const [line] = nest(["-q", "--mem", "100g"], script).stdout;
      expect((JSON.parse(line!) as { rate: number }).rate).toBeWithin(300, 560); // of 2000; 150 where the others take no slices
    },
    { retry: 2 },
  );

  test.each([
    ["50", "25", 25],
    ["25", "50", 25],
    ["100", "25", 25],
  ])(
    "%s %% outside, %s %% inside",
    (outer, inner, share) => {
      const run = "--us 500 --batch 20 --seconds 2";
      const script = `vgpu run --sim -q --sm ${inner} -- $load ${run}; env -u LD_PRELOAD -u VGPU_REGION VGPU_SIM_DIR=$VGPU_SIM_DIR/native sh -c 'mkdir $VGPU_SIM_DIR; $load ${run}'`;
      const { stdout } = nest(["-q", "--sm", outer], script);
      const [rate, native] = stdout.map((line) => (JSON.parse(line) as { rate: number }).rate);
      expect((100 * rate!) / native!).toBeWithin(share - 3, share + 3);
    },
    { retry: 2 },
  );

  test(
    "the outer session's share is for all; each summary tells of its own",
    () => {
      const run = "--us 500 --batch 20 --seconds 2";
      const script = `vgpu run --sim --json --sm 20 -- $load ${run} & $load ${run}; wait`;
      const { stderr } = nest(["--json", "--sm", "50"], script);
      const summaries = stderr
        .split("\n")
        .filter((line) => line.includes("session.summary"))
        .map((line) => JSON.parse(line) as { gpus: Record<string, number>[] });
      const [inner, outer] = summaries.map(({ gpus }) => gpus[0]!);
      expect(inner!["realised_share"]).toBeWithin(16, 24);
      expect(inner!["waits"]).toBeGreaterThan(10);
      expect(outer!["realised_share"]).toBeWithin(45, 54);
      expect(outer!["launches"]).toBeGreaterThan(inner!["launches"]!);
    },
    { retry: 2 },
  );

  test("copies go through both buckets", () => {
    const script = "vgpu run --sim -q --copy-bw 100m/s -- $copy h2d 1 1";
    const { stdout } = nest(["-q", "--copy-bw", "20m/s"], script);
    expect((JSON.parse(stdout[0]!) as { rate: number }).rate / MIB).toBeWithin(15, 24);
  });
});

describe("lifetimes", () => {
  test("a process of the inner session that joins when both targets have ended keeps both limits", () => {
    const out = join(work.path, crypto.randomUUID());
    const script = `vgpu run --sim -q --mem 3g -- sh -c '(sleep 1; $hold 256 20 0 >${out}.new; mv ${out}.new ${out}) &'`;
    expect(nest(["-q", "--mem", "2g"], script).status).toBe(0);
    vgpu(["run", "--sim", "-q", "true"], { env: machine() }); // sweeps
    for (let i = 0; i < 500 && !existsSync(out); i++) Bun.sleepSync(20);
    expect(readFileSync(out, "utf8")).toBe("held 5 refused 2\n");
  });

  test("the inner vgpu itself is no member of the outer session", () => {
    const { stderr } = nest(
      ["--json", "--mem", "4g"],
      "vgpu run --sim -q --mem 2g -- $hold 64 1 0.3",
    );
    const summary = stderr.split("\n").find((line) => line.includes("session.summary"))!;
    expect(JSON.parse(summary)).toMatchObject({ processes: 1 });
  });

  test("what the environment asks of every vgpu run does not stop an inner one; a profile's LD_PRELOAD stays", () => {
    using here = folder({ "p.yaml": "env: {LD_PRELOAD: /nonexistent/libx.so}\n" });
    const env = { ...machine(), VGPU_SMS: "32", VGPU_PRIORITY: "high" };
    const inner = `vgpu run --sim --profile ${here.path}/p.yaml -- sh -c 'echo $LD_PRELOAD' 2>${here.path}/said`;
    const { stdout, stderr } = nest(["-q"], inner, env);
    expect(stdout[0]).toMatch(/^\/nonexistent\/libx\.so:.*\/vgpu-shim\.so$/);
    expect(stderr).toBe("");
    expect(readFileSync(join(here.path, "said"), "utf8")).not.toContain("vgpu:");
  });

  test("a GPU that the outer session's command does not see", () => {
    const env = { ...machine(), VGPU_SIM_GPUS: "2" };
    const script =
      "vgpu run --sim --gpu 0 -- true; echo $?; vgpu run --sim --gpu 1 -- true; echo $?";
    const { stdout, stderr } = nest(["-q", "--gpu", "1", "--mem", "1=4g"], script, env);
    expect(stdout).toEqual(["125", "0"]);
    expect(stderr).toMatch(
      /^vgpu: --gpu 0: the session around this one does not see GPU-[^;]*; it sees GPU-/,
    );
  });
});

describe("what cannot be", () => {
  test.each([
    ["--mode spatial --sm 25", 125, /SMs of its own.*give them to the outer vgpu run/],
    ["--sms 8", 125, /SMs of its own/],
    [
      "--mem 8g",
      0,
      /--mem 8 GiB is more than the session around this one may use: 4 GiB is the limit/,
    ],
    ["--sm 10 --priority high", 0, /--priority: not heeded here/],
  ])("%s: exit %d", (flags, status, words) => {
    const { stdout, stderr } = nest(["--mem", "4g"], `vgpu run --sim ${flags} -- true; echo $?`);
    expect(stdout).toEqual([`${status}`]);
    expect(stderr).toMatch(words);
    expect(stderr.trim().split("\n")).toHaveLength(1);
  });

  test("no more than four sessions inside each other", () => {
    const script = Array.from({ length: 4 }, () => "vgpu run --sim --mem 1g --").join(" ");
    const { status, stderr } = nest(["--mem", "1g"], `${script} true`);
    expect(status).toBe(125);
    expect(stderr).toBe(
      "vgpu: 4 vgpu sessions are around this one already; run the command without vgpu run\n",
    );
  });

  test("VGPU_REGION that names no session, or one of another version", () => {
    const other = join(work.path, "other");
    Bun.spawnSync(["truncate", "-s", "8192", other]);
    for (const [path, words] of [
      ["/dev/shm/nothing", "names no session"],
      [other, "another version of vgpu"],
    ] as const) {
      const { status, stderr } = vgpu(["run", "--sim", "true"], {
        env: { ...machine(), VGPU_REGION: path },
      });
      expect([status, stderr]).toEqual([125, expect.stringContaining(words)]);
      expect(stderr).toContain("env -u VGPU_REGION");
    }
  });
});

test("inner sessions promise nothing to others, and nothing is left of them", () => {
  const before = readdirSync(stateDirectory());
  const script =
    "vgpu run --sim -q --mem 100g -- vgpu run --sim --mem 100g --admit strict -- $hold 64 1 0";
  const { status, stdout } = nest(["--mem", "100g", "--admit", "strict"], script);
  expect([status, stdout]).toEqual([0, ["held 1 refused 0"]]);
  expect(readdirSync(stateDirectory()).filter((name) => !before.includes(name))).toEqual([]);
});
