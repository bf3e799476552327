import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { folder, PLAIN, ROOT, vgpu } from "../vgpu.ts";

const BIN = join(ROOT, "bin/vgpu");
const STATE = `/dev/shm/vgpu-${process.getuid!()}`;

/** Runs a bash script in which $vgpu is the real CLI. */
function bash(script: string, env: Record<string, string> = PLAIN) {
  const { exitCode, signalCode, stdout, stderr } = Bun.spawnSync(["bash", "--norc", "-c", script], {
    env: { ...env, vgpu: BIN },
    stdin: "ignore",
  });
  return {
    status: exitCode,
    signal: signalCode,
    stdout: stdout.toString(),
    stderr: stderr.toString(),
  };
}

/** Regions and fifos of this user now; other tests may run at the same time. */
const sessions = () =>
  existsSync(STATE) ? readdirSync(STATE).filter((name) => /^[0-9a-z]{6}(\.|$)/.test(name)) : [];

describe("exit status", () => {
  test.each([
    [["true"], 0],
    [["sh", "-c", "exit 3"], 3],
    [["nosuchprogram"], 127],
    [["/nonexistent/program"], 127],
    [["/etc/passwd"], 126],
    [["/tmp"], 126],
  ])("%j gives %d", (words, status) => {
    expect(vgpu(["run", "-q", "--", ...words]).status).toBe(status);
  });

  test.each([300, 5000])("a name of %d letters gives 127 and one line", (letters) => {
    const { status, stderr } = vgpu(["run", "--sim", "--", "x".repeat(letters)]);
    expect([status, stderr.split("\n").length]).toEqual([127, 2]);
    expect(stderr).toMatch(/^vgpu: .*x.*: command not found\n$/);
  });

  test("one line says why a command could not be started", () => {
    using work = folder({ lost: "#!/no/such/interpreter -x\n", dos: "#!/bin/sh\r\n", plain: "" });
    const { path } = work;
    Bun.spawnSync(["chmod", "+x", `${path}/lost`, `${path}/dos`]);
    const env = { ...PLAIN, PATH: `${path}:${PLAIN.PATH}` };
    for (const [word, status, line] of [
      [`${path}/lost`, 127, `${path}/lost: its interpreter /no/such/interpreter is not there`],
      ["lost", 127, "lost: its interpreter /no/such/interpreter is not there"],
      ["dos", 127, "dos: its interpreter '/bin/sh\\x0d' is not there"],
      [path, 126, `${path}: is a directory`],
      [`${path}/plain`, 126, `${path}/plain: permission denied`],
      [`${path}/none`, 127, `${path}/none: no such file`],
      [`${path}/plain/x`, 126, `${path}/plain/x: not a directory`],
      ["", 127, "'': command not found"],
      [" ", 127, "' ': command not found"],
      ["a\tb\x7f", 127, "'a\\x09b\\x7f': command not found"],
      ["größe", 127, "größe: command not found"],
      ["x".repeat(201), 127, `${"x".repeat(197)}...: command not found`],
    ] as const) {
      const told = vgpu(["run", "-q", "--", word], { env });
      expect(told).toEqual({ status, stdout: "", stderr: `vgpu: ${line}\n` });
    }
  });

  test.each(["TERM", "KILL", "SEGV", "INT"])(
    "a target that dies of SIG%s makes vgpu die of it",
    (name) => {
      const { exitCode, signalCode } = Bun.spawnSync(
        [BIN, "run", "-q", "sh", "-c", `kill -${name} $$`],
        { env: PLAIN },
      );
      expect(signalCode as string).toBe(`SIG${name}`);
      expect(exitCode).toBeNull();
    },
  );

  test("vgpu's own errors are 125 and one line", () => {
    for (const [words, env] of [
      [["run", "--require-gpu", "true"], PLAIN],
      [["run", "true"], { ...PLAIN, VGPU_REGION: "/dev/shm/x" }],
      [["run", "--events-file", "/proc/nonexistent/x", "true"], PLAIN],
      [["run", "--events-file", "fd:77", "true"], PLAIN],
    ] as const) {
      const { status, stdout, stderr } = vgpu([...words], { env });
      expect(stdout).toBe("");
      expect(stderr.trim().split("\n").at(-1)).toStartWith("vgpu: ");
      expect(status).toBe(125);
    }
  });
});

describe("as if started alone", () => {
  test("the environment differs by our two variables only", () => {
    const set =
      "env -i PATH=$PATH HOME=/nonexistent a.b=1 'BASH_FUNC_f%%=() { :; }' BUN_X=3 EMPTY=";
    const { stdout } = bash(`diff <(${set} env | sort) <(${set} $vgpu run -q env | sort)`);
    const changed = stdout.split("\n").filter((line) => /^[<>]/.test(line));
    expect(changed).toHaveLength(2);
    const own = "BUN_RUNTIME_TRANSPILER_CACHE_PATH";
    expect(bash(`${own}=0 $vgpu run -q printenv ${own}`).stdout).toBe("0\n");
    expect(changed[0]).toMatch(/^> LD_PRELOAD=\/.*\/vgpu-shim\.so$/);
    expect(changed[1]).toMatch(/^> VGPU_REGION=\/dev\/shm\/vgpu-\d+\/[0-9a-z]{6}$/);
  });

  test("the same where one of them is there already", () => {
    const words = ["run", "-q", "sh", "-c", "env | grep -c BUN_"];
    expect(vgpu(words, { env: { ...PLAIN, LD_PRELOAD: "" } }).stdout).toBe("0\n");
  });

  test("the user's own preload stays, and comes first", () => {
    const { stdout } = bash(
      "LD_PRELOAD=/nonexistent/own.so $vgpu run -q printenv LD_PRELOAD 2>/dev/null",
    );
    expect(stdout).toMatch(/^\/nonexistent\/own\.so:\/.*vgpu-shim\.so\n$/);
  });

  test("stdin and stdout byte for byte, words that are no UTF-8", () => {
    expect(bash(`printf 'a\\377\\0b' | $vgpu run -q cat | od -An -tx1`).stdout.trim()).toBe(
      "61 ff 00 62",
    );
    expect(bash(`$vgpu run -q printf %s $'\\377x' | od -An -tx1`).stdout.trim()).toBe("ff 78");
  });

  test("words like our own flags are the target's", () => {
    expect(bash("$vgpu run -q --mem 4g echo --mem 9g --help").stdout).toBe("--mem 9g --help\n");
  });

  test("process substitution, and descriptors by their numbers", () => {
    expect(bash("$vgpu run -q -- cat <(echo hi)").stdout).toBe("hi\n");
    expect(
      bash("exec 9<<<nine 200<<<far; $vgpu run -q sh -c 'cat <&9; cat /dev/fd/200'").stdout,
    ).toBe("nine\nfar\n");
    const listing = "ls /proc/self/fd | tr '\\n' ' '";
    expect(bash(`exec 5</dev/null; $vgpu run -q sh -c "${listing}"`).stdout).toBe(
      bash(`exec 5</dev/null; sh -c "${listing}"`).stdout,
    );
  });

  test("a closed stdin is closed", () => {
    const script = "[ -e /proc/self/fd/0 ] && echo open || echo closed";
    expect(bash(`$vgpu run -q bash -c '${script}' <&-`).stdout).toBe("closed\n");
  });

  test("resource limits, umask, ignored and blocked signals, directory", () => {
    const script = "ulimit -Sn; ulimit -Hn; umask; pwd; grep -E 'SigIgn|SigBlk' /proc/self/status";
    const around = "cd /usr/bin; umask 027; ulimit -Sn 333; trap '' HUP USR1 PIPE;";
    expect(bash(`${around} $vgpu run -q bash -c "${script}"`).stdout).toBe(
      bash(`${around} bash -c "${script}"`).stdout,
    );
  });

  test("a script without a first line runs as it would from a shell", () => {
    using work = folder({ script: "echo from script\n" });
    expect(bash(`chmod +x ${work.path}/script; $vgpu run -q ${work.path}/script`).stdout).toBe(
      "from script\n",
    );
  });
});

describe("signals", () => {
  test.each("TERM HUP USR1 USR2 INT ALRM IO ABRT TRAP SYS URG XCPU VTALRM PROF".split(" "))(
    "SIG%s sent to vgpu alone reaches the target",
    async (name) => {
      const script = `trap 'echo got ${name}; exit 7' ${name}; echo ready; while :; do sleep 0.05; done`;
      const child = Bun.spawn([BIN, "run", "-q", "bash", "-c", script], {
        env: PLAIN,
        stdout: "pipe",
        stderr: "inherit",
      });
      const reader = child.stdout.getReader();
      expect(new TextDecoder().decode((await reader.read()).value)).toBe("ready\n");
      child.kill(`SIG${name}` as NodeJS.Signals);
      expect(new TextDecoder().decode((await reader.read()).value)).toBe(`got ${name}\n`);
      expect(await child.exited).toBe(7);
    },
  );

  test("a closed stderr that vgpu writes to is no signal for the target", () => {
    const script = "trap 'echo got PIPE' PIPE; sleep 0.2; echo done";
    const { stdout } = bash(
      `exec 3>&1; $vgpu run --sim --events json bash -c "${script}" 2>&1 >&3 | true`,
    );
    expect(stdout).toBe("done\n");
  });

  test("nohup: a hang-up that the caller ignores stays ignored, for vgpu too", async () => {
    const child = Bun.spawn(
      ["nohup", BIN, "run", "-q", "sh", "-c", "echo ready; sleep 0.3; echo done"],
      {
        env: PLAIN,
        stdin: "ignore",
        stdout: "pipe",
        stderr: "ignore",
      },
    );
    await Bun.sleep(150);
    child.kill("SIGHUP");
    expect(await new Response(child.stdout).text()).toBe("ready\ndone\n");
    expect(await child.exited).toBe(0);
  });
});

describe("events", () => {
  test("a file gets NDJSON, whatever the form on stderr", () => {
    using work = folder();
    const file = join(work.path, "events.ndjson");
    const { stderr } = vgpu([
      "run",
      "--events",
      "none",
      "--events-file",
      file,
      "sh",
      "-c",
      "exit 4",
    ]);
    expect(stderr).not.toContain("session.");
    const events = readFileSync(file, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(events.map(({ kind }) => kind)).toEqual(["session.start", "session.end"]);
    expect(events[1]).toMatchObject({ v: 1, seq: 2, cause: "exit", status: 4, lost: 0 });
  });

  test("fd:N is the caller's descriptor", () => {
    const { stdout } = bash("{ $vgpu run -q --events-file fd:3 true 3>&1 >/dev/null; } 2>&1");
    expect(stdout).toContain('"kind":"session.end"');
  });

  test("a descriptor that is not open for writing, or a profile's file: 125 before the start", () => {
    using work = folder({ "p.yaml": "events: { file: /proc/nonexistent/x }\n", file: "" });
    const forms = "good forms: events.ndjson, fd:3 with 3>events.ndjson\n";
    for (const [words, line] of [
      ["--events-file fd:0", "--events-file fd:0: this descriptor is not open for writing"],
      ["--events-file fd:3", "--events-file fd:3: this descriptor is not open for writing"],
      ["--events-file fd:4", "--events-file fd:4: this descriptor is not open"],
      [
        `--profile ${work.path}/p.yaml`,
        `profile ${work.path}/p.yaml: file /proc/nonexistent/x: cannot write it (ENOENT)`,
      ],
    ]) {
      const { status, stdout, stderr } = bash(
        `$vgpu run --sim ${words} echo started 3<${work.path}/file`,
      );
      expect([status, stdout, stderr]).toEqual([125, "", `vgpu: ${line}; ${forms}`]);
    }
    for (const open of ["3<>", "3>>"])
      expect(bash(`$vgpu run -q --events-file fd:3 true ${open}${work.path}/file`).status).toBe(0);
    expect(readFileSync(join(work.path, "file"), "utf8").match(/session.end/g)).toHaveLength(2);
  });

  test("--events json goes to stderr, and --json makes the summary an object", () => {
    const { stdout, stderr } = vgpu(["run", "--events", "json", "--json", "echo", "hi"]);
    expect(stdout).toBe("hi\n");
    const lines = stderr
      .trim()
      .split("\n")
      .filter((line) => line.startsWith("{"));
    expect(lines.map((line) => JSON.parse(line).kind)).toEqual([
      "session.start",
      "session.end",
      "session.summary",
    ]);
  });
});

describe("nothing is left", () => {
  test("after a run, after a failed start, after a killed target", () => {
    const before = sessions();
    vgpu(["run", "-q", "true"]);
    vgpu(["run", "-q", "nosuchprogram"]);
    vgpu(["run", "-q", "sh", "-c", "kill -9 $$"]);
    expect(sessions().filter((name) => !before.includes(name))).toEqual([]);
  });

  test("a process that outlives the target keeps its region; the next command after its end sweeps it", async () => {
    const { stdout } = bash("$vgpu run -q sh -c 'sleep 0.5 >/dev/null 2>&1 & echo $VGPU_REGION'");
    const path = stdout.trim();
    expect(existsSync(path)).toBe(true);
    vgpu(["run", "-q", "true"]);
    expect(existsSync(path)).toBe(true);
    await Bun.sleep(600);
    vgpu(["run", "-q", "true"]);
    expect(existsSync(path)).toBe(false);
    expect(existsSync(`${path}.bell`)).toBe(false);
  });

  test("kill -9 of the supervisor: its target runs on, the region stays until the target has ended", async () => {
    const script = "echo $VGPU_REGION $$; sleep 0.5; echo still here";
    const child = Bun.spawn([BIN, "run", "-q", "sh", "-c", script], { env: PLAIN, stdout: "pipe" });
    const reader = child.stdout.getReader();
    const [path = ""] = new TextDecoder()
      .decode((await reader.read()).value)
      .trim()
      .split(" ");
    child.kill("SIGKILL");
    await child.exited;
    vgpu(["run", "-q", "true"]);
    expect(existsSync(path)).toBe(true);
    expect(new TextDecoder().decode((await reader.read()).value)).toBe("still here\n");
    await Bun.sleep(50);
    vgpu(["run", "-q", "true"]);
    expect(existsSync(path)).toBe(false);
  });
});
