import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import about from "../../package.json";
import { folder, PLAIN, ROOT, vgpu } from "../vgpu.ts";

describe("help and version go to stdout, status 0", () => {
  test.each([
    [[], "Usage: vgpu run [flags] [--] COMMAND"],
    [["--help"], "Usage: vgpu run [flags] [--] COMMAND"],
    [["-h"], "Usage: vgpu run [flags] [--] COMMAND"],
    [["help"], "Usage: vgpu run [flags] [--] COMMAND"],
    [["help", "run"], "--require-gpu"],
    [["run", "--help"], "--require-gpu"],
    [["run", "--help"], "Each flag has a variable: VGPU_MEM, VGPU_MEM_SOFT"],
    [["run", "--mem", "4g", "-h"], "--require-gpu"],
    [["help", "profile"], "vgpu profile list | show NAME | check NAME..."],
    [["profile", "--help"], "vgpu profile list | show NAME | check NAME..."],
    [["help", "exit-codes"], "125  vgpu itself failed"],
    [["--version"], `vgpu ${about.version}\n`],
    [["-V"], `vgpu ${about.version}\n`],
  ])("%j", (words, text) => {
    const { status, stdout, stderr } = vgpu(words);
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toContain(text);
    expect(stdout).not.toContain("\x1b");
  });

  test("two examples stand right after the usage line", () => {
    const lines = vgpu([]).stdout.split("\n");
    expect(lines[2]).toBe("Examples:");
    expect(lines.slice(3, 5).every((line) => line.startsWith("  vgpu run "))).toBe(true);
  });
});

describe("mistakes: one line on stderr, status 125", () => {
  test.each<[string[], string]>([
    [["run"], "vgpu: run: no command given; write vgpu run [flags] -- COMMAND [ARGUMENT...]"],
    [["run", "--"], "vgpu: run: no command given"],
    [["rnu", "x"], "vgpu: unknown command 'rnu' (did you mean run?)"],
    [["constructor"], "vgpu: unknown command 'constructor'"],
    [["--mem", "4g", "x"], "vgpu: unknown flag '--mem'; flags stand after the subcommand"],
    [["run", "--memm", "4g", "x"], "vgpu: unknown flag '--memm' (did you mean --mem?)"],
    [["run", "--mem"], "vgpu: --mem needs a value"],
    [["run", "--mem", "4096", "x"], "vgpu: --mem: '4096' is not a size; add a unit: 4096g or"],
    [["run", "--mem", "4g\n\x1b[31m", "x"], "vgpu: --mem: '4g\\x0a\\x1b[31m' is not a size"],
    [["run", "--sm", "0", "x"], "vgpu: --sm: '0' is not a share in percent"],
    [["run", "--profile", "haff", "x"], "vgpu: --profile: no profile 'haff' (did you mean half?)"],
    [
      ["run", "--profile", "./none.yaml", "x"],
      "vgpu: ./none.yaml: no such file, expected a profile",
    ],
    [["profile"], "vgpu: profile: say list, show NAME or check NAME"],
    [
      ["demo", "--jsn"],
      "vgpu: unknown flag '--jsn' (did you mean --json?); vgpu demo --help lists",
    ],
    [["help", "--mem"], "vgpu: unknown flag '--mem'; vgpu help --help lists them"],
    [
      ["help", "limits"],
      "vgpu: unknown topic 'limits'; topics are run, demo, profile, help, exit-",
    ],
    [["version"], "vgpu: unknown command 'version'; vgpu --version shows the version"],
    [["-v"], "vgpu: unknown flag '-v'; vgpu --version shows the version"],
    [["run", "\u2014mem", "4g", "x"], "vgpu: '\u2014mem' begins with a dash of the wrong kind"],
    [["profile", "shwo", "half"], "vgpu: profile: unknown action 'shwo' (did you mean show?)"],
    [["profile", "show"], "vgpu: profile: wrong number of words for show"],
    [["help", "exit-code"], "vgpu: unknown topic 'exit-code' (did you mean exit-codes?)"],
  ])("%j", (words, line) => {
    const { status, stdout, stderr } = vgpu(words);
    expect([status, stdout]).toEqual([125, ""]);
    expect(stderr).toStartWith(line);
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
  });

  test("a variable is named like a flag", () => {
    const { status, stderr } = vgpu(["run", "x"], { env: { ...PLAIN, VGPU_SM: "200" } });
    expect([status, stderr]).toEqual([
      125,
      "vgpu: VGPU_SM: '200' is not a share in percent; good forms: 25, 12.5, none; more than 0, at most 100\n",
    ]);
  });
});

test("a misspelt variable is noted", () => {
  const words = ["run", "--dry-run", "x"];
  const env = { ...PLAIN, VGPU_MEMORY: "4g" };
  const { status, stderr } = vgpu(words, { env });
  expect([status, stderr]).toEqual([
    0,
    "vgpu: VGPU_MEMORY is no variable of vgpu's (did you mean VGPU_MEM?)\n",
  ]);
  expect(vgpu(["run", "-q", ...words.slice(1)], { env }).stderr).toBe("");
});

describe("--dry-run", () => {
  test("shows limits with their sources, environment and command, and starts nothing", () => {
    using here = folder({ ".vgpu/team.yaml": 'compute: 30\nenv: {A: "b c"}\n' });
    const env = {
      ...PLAIN,
      VGPU_PROFILE: "team",
      VGPU_EVENTS: "json",
      VGPU_COPY_BW: "d2h=8g/s",
      LD_PRELOAD: "",
    };
    const words = [
      "run",
      "--mem",
      "4g,1=50%",
      "--priority=high",
      "--gpu",
      "0,1",
      "--dry-run",
      "sh",
      "-c",
      "touch started",
      "--mem",
      "9g",
    ];
    const { status, stdout, stderr } = vgpu(words, { env, cwd: here.path });
    expect([status, stderr]).toEqual([0, ""]);
    const shown = stdout.replaceAll(/ {2,}/g, "  ").split("\n");
    for (const line of [
      "memory  4 GiB  flag --mem",
      "compute  30 % of GPU time  profile team",
      "compute, burst  none  default",
      "weight  2  flag --priority",
      "quantum  20 ms (4 ms under MPS)  default",
      "copies, h2d  no limit  default",
      "copies, d2h  8 GiB/s  environment VGPU_COPY_BW",
      "GPU 1: memory  50 % of the device  flag --mem",
      "GPU 1: compute  30 % of GPU time  profile team",
      "GPUs  0, 1  flag --gpu",
      "events  json  environment VGPU_EVENTS",
      "profile  team  .vgpu/team.yaml",
      "  A=b c",
      "  CUDA_VISIBLE_DEVICES=<UUIDs of 0,1>",
      "  sh -c 'touch started' --mem 9g",
    ]) {
      expect(shown).toContain(line);
    }
    expect(Bun.spawnSync(["ls", "-A", here.path]).stdout.toString()).toBe(".vgpu\n");
  });

  test("--json gives the same as numbers", () => {
    const { status, stdout } = vgpu([
      "run",
      "--sim=rtx3080",
      "--mem",
      "4GB",
      "--sm",
      "0=12.5",
      "--burst=0=40",
      "--quantum=5ms",
      "--dry-run",
      "--json",
      "a b",
    ]);
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      limits: {
        all: { memory_bytes: 4e9, share_percent: null },
        gpus: { "0": { memory_bytes: 4e9, share_percent: 12.5, burst_percent: 40 } },
      },
      time: { throttle: "adaptive", weight: 1, quantum_us: 5000, copy_bytes_per_s: { h2d: null } },
      sim: "rtx3080",
      sources: { mem: "flag", "sm.0": "flag", sm: "default", sim: "flag" },
      argv: ["a b"],
      notes: [],
    });
  });

  test("notes go to stderr unless quiet", () => {
    const words = ["run", "--mem", "1=4g", "--gpu=0", "--dry-run"];
    expect(vgpu([...words, "x"]).stderr).toBe(
      "vgpu: a limit is given for GPU 1, which --gpu leaves out\n",
    );
    expect(vgpu([...words, "-q", "x"]).stderr).toBe("");
  });
});

describe("vgpu profile", () => {
  test("list shows which file wins", () => {
    using here = folder({
      ".vgpu/half.yaml": "description: ours\n",
      ".vgpu/bad.yaml": "memory: 4\n",
    });
    const rows = JSON.parse(
      vgpu(["profile", "list", "--json"], { cwd: here.path }).stdout,
    ) as Record<string, string | null>[];
    expect(rows.find(({ name }) => name === "bad")?.["problem"]).toStartWith(
      ".vgpu/bad.yaml:1:9: memory: 4, expected",
    );
    expect(rows.filter(({ name }) => name === "half").map((row) => row["shadowed_by"])).toEqual([
      null,
      ".vgpu/half.yaml",
    ]);
    expect(vgpu(["profile", "list"], { cwd: here.path }).stdout).toMatch(
      /^half +ours +\.vgpu\/half\.yaml$/m,
    );
  });

  test("show prints a profile that reads back the same", () => {
    const { stdout } = vgpu(["profile", "show", "notebook"]);
    using here = folder({ "copy.yaml": stdout });
    const resolved = (name: string): unknown => {
      const { limits, environment } = JSON.parse(
        vgpu(["run", "--profile", name, "--dry-run", "--json", "x"]).stdout,
      );
      return { limits, environment };
    };
    expect(resolved(`${here.path}/copy.yaml`)).toEqual(resolved("notebook"));
  });

  test("check names every problem", () => {
    using here = folder({ "p.yaml": "memry: 1g\ncompute: 0\n" });
    const { status, stdout, stderr } = vgpu(["profile", "check", "./p.yaml", "half"], {
      cwd: here.path,
    });
    expect([status, stdout]).toEqual([125, "half: ok\n"]);
    expect(stderr.split("\n").map((line) => line.slice(0, 20))).toEqual([
      "vgpu: ./p.yaml:1:1: ",
      "vgpu: ./p.yaml:2:10:",
      "",
    ]);
  });
});

test("check refuses what a run would: values that contradict each other, files that cannot be read", () => {
  using here = folder({ "low.yaml": "compute: {share: 40, burst: 20}\n", "d.yaml/x": "" });
  Bun.spawnSync(["mkfifo", `${here.path}/pipe.yaml`]);
  const check = (name: string) => vgpu(["profile", "check", name], { cwd: here.path });
  for (const [name, words] of [
    ["./low.yaml", /^vgpu: \.\/low\.yaml:1:29: compute\.burst: 20 is below the share of 40/],
    ["./d.yaml", /^vgpu: \.\/d\.yaml: is a directory/],
    ["./pipe.yaml", /^vgpu: \.\/pipe\.yaml: is no regular file/],
  ] as const) {
    const { status, stderr } = check(name);
    expect([status, stderr]).toEqual([125, expect.stringMatching(words)]);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    const run = ["run", "--profile", name, "true"];
    expect(vgpu(run, { cwd: here.path })).toEqual({ status, stdout: "", stderr });
  }
});

test("a profile from stdin, from a descriptor, and one whose name lacks the ending", () => {
  using here = folder({ "a.yaml": "memory: 1g\n" });
  const bash = (script: string) => {
    const words = ["bash", "-c", script, "bash", join(ROOT, "bin/vgpu")];
    const { stdout, stderr } = Bun.spawnSync(words, { cwd: here.path, env: PLAIN });
    return stdout.toString() + stderr.toString();
  };
  const flags = '"$1" run --dry-run --profile';
  expect(bash(`cat a.yaml | ${flags} /dev/stdin x`)).toMatch(/^memory +1 GiB +profile/);
  expect(bash(`${flags} <(cat a.yaml) x`)).toMatch(/^memory +1 GiB +profile/);
  expect(bash(`${flags} a x`)).toStartWith(
    "vgpu: --profile: no profile 'a' (did you mean ./a.yaml?)",
  );
});

test.each([
  [
    ["demo", "extra"],
    125,
    "vgpu: demo takes no words, and was given 'extra'; write vgpu demo [--json]\n",
  ],
  [
    ["run", "--sim", "a100", "true"],
    127,
    "vgpu: a100 is taken for the command; the simulated card is --sim=a100\nvgpu: a100: command not found\n",
  ],
  [["run", "-q", ""], 127, "vgpu: '': command not found\n"],
])("%o: exit %d", (words, status, stderr) => {
  expect(vgpu(words)).toEqual({ status, stdout: "", stderr });
});

test.each(["--help", "--version", "profile list", "run --dry-run true", "demo"])(
  "%s > /dev/full: one line, 125",
  (words) => {
    const script = `exec ${ROOT}/bin/vgpu ${words} >/dev/full`;
    const { exitCode, stderr } = Bun.spawnSync(["sh", "-c", script], {
      env: { ...PLAIN, VGPU_SIM: "1" },
    });
    expect(stderr.toString()).toMatch(/^vgpu: cannot write to stdout \(ENOSPC\); .*\n$/m);
    expect(exitCode).toBe(125);
  },
  60_000,
);

test("a reader that has seen enough is no error, and one that is slow gets all", () => {
  const run = (reader: string) => {
    const script = `"$0" help run | ${reader}; echo "\${PIPESTATUS[0]}"`;
    const words = ["bash", "-c", script, `${ROOT}/bin/vgpu`];
    return Bun.spawnSync(words, { env: PLAIN }).stdout.toString();
  };
  expect(run("true")).toBe("0\n");
  expect(run("(sleep 0.2; cat)")).toBe(`${vgpu(["help", "run"]).stdout}0\n`);
});

test("cli.ts works without the launcher", () => {
  const { exitCode, stdout } = Bun.spawnSync([`${import.meta.dir}/../../cli.ts`, "--version"], {
    env: { ...PLAIN, PATH: `${import.meta.dir}/../../node_modules/.bin:/usr/bin:/bin` },
  });
  expect([exitCode, stdout.toString()]).toEqual([0, `vgpu ${about.version}\n`]);
});
