import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { folder, PLAIN, ROOT } from "../vgpu.ts";

// A package with the real launcher, the real bun, and a cli.ts that shows how it was started.
const home = folder();
afterAll(() => home[Symbol.dispose]());
const bin = makePackage(join(home.path, "package"));
symlinkSync(join(ROOT, "node_modules"), join(home.path, "package/node_modules"));

function makePackage(path: string): string {
  mkdirSync(join(path, "bin"), { recursive: true });
  copyFileSync(join(ROOT, "bin/vgpu"), join(path, "bin/vgpu"));
  copyFileSync(join(ROOT, "tests/fixtures/launched.ts"), join(path, "cli.ts"));
  chmodSync(join(path, "bin/vgpu"), 0o755);
  return join(path, "bin/vgpu");
}

/** What the launcher says to our own Bun. */
const OURS = "BUN_RUNTIME_TRANSPILER_CACHE_PATH=0";

interface Launched {
  environment: string[];
  argv: string[];
  umask: string;
  bun: string;
}

function launch(words: string[], env: Record<string, string> = PLAIN, cwd = "/"): Launched {
  const { stdout, stderr } = Bun.spawnSync(words, { env, cwd, stdin: "ignore" });
  expect(stderr.toString()).toBe("");
  return JSON.parse(stdout.toString());
}

/** The fields of VGPU_LAUNCHER. */
function noted({ environment }: Launched): Record<string, string> {
  const text = environment
    .find((entry) => entry.startsWith("VGPU_LAUNCHER="))
    ?.slice("VGPU_LAUNCHER=".length);
  return Object.fromEntries((text ?? "").split(",").map((field) => field.split("=")));
}

/** The caller's variables, as the exec trampoline will restore them. */
function callers({ environment }: Launched): string[] {
  return environment
    .filter((entry) => !entry.startsWith("VGPU_LAUNCHER=") && entry !== OURS)
    .map((entry) => entry.replace(/^VGPU_KEEP_/, ""));
}

describe("environment", () => {
  test("odd names, odd bytes, and what perl, env and Bun would act on", () => {
    const script = String.raw`
      %ENV = ('PATH', $ENV{PATH}, 'a.b', 1, 'BASH_FUNC_f%%', "() {  echo hi\n}", 'EMPTY', '', 'BYTES', "\xff\xfe=x",
        'LC_ALL', 'xx_YY.UTF-8', 'PERL5OPT', '-MNo::Such::Module', 'PERL5LIB', '/nonexistent', 'PERL_BADLANG', '1',
        'PERL_UNICODE', 'SAD', 'BUN_OPTIONS', '--preload=/nonexistent.ts', 'BUN_INSPECT', 'ws://127.0.0.1:1/x',
        'SHLVL', '7', 'PWD', '/somewhere', '_', '/bin/x');
      exec @ARGV, 'run', "\xff\x80", '', "a\nb", '--', '--help'`;
    const launched = launch(["perl", "-e", script, bin]);
    expect(callers(launched).toSorted()).toEqual(
      [
        `PATH=${PLAIN.PATH}`,
        "a.b=1",
        "BASH_FUNC_f%%=() {  echo hi\n}",
        "EMPTY=",
        "BYTES=\xff\xfe=x",
        "LC_ALL=xx_YY.UTF-8",
        "PERL5OPT=-MNo::Such::Module",
        "PERL5LIB=/nonexistent",
        "PERL_BADLANG=1",
        "PERL_UNICODE=SAD",
        "BUN_OPTIONS=--preload=/nonexistent.ts",
        "BUN_INSPECT=ws://127.0.0.1:1/x",
        "SHLVL=7",
        "PWD=/somewhere",
        "_=/bin/x",
      ].toSorted(),
    );
    expect(launched.environment.filter((entry) => entry.startsWith("BUN_"))).toEqual([OURS]);
    expect(launched.argv.slice(-6)).toEqual(["run", "\xff\x80", "", "a\nb", "--", "--help"]);
  });

  test("our Bun leaves nothing in the user's folder, a value of the user's own is kept for the target", () => {
    using other = folder();
    const env = { ...PLAIN, HOME: other.path, BUN_RUNTIME_TRANSPILER_CACHE_PATH: "/their/own" };
    const { environment } = launch([bin], env);
    expect(environment.filter((entry) => entry.includes("TRANSPILER")).toSorted()).toEqual([
      OURS,
      "VGPU_KEEP_BUN_RUNTIME_TRANSPILER_CACHE_PATH=/their/own",
    ]);
    const real = join(ROOT, "bin/vgpu");
    Bun.spawnSync([real, "help", "run"], { env: { PATH: PLAIN.PATH, HOME: other.path } });
    expect(readdirSync(other.path)).toEqual([]);
  });

  test("the order of the caller's variables stays", () => {
    const words = ["env", "-i", "Z=1", `PATH=${PLAIN.PATH}`, "A=2", "M=3", bin];
    expect(callers(launch(words))).toEqual(["Z=1", `PATH=${PLAIN.PATH}`, "A=2", "M=3"]);
  });

  test("a hostile working directory", () => {
    const preload = "console.log('HOSTILE');";
    using here = folder({
      ".env": "HOSTILE=1\n",
      ".env.local": "HOSTILE=1\n",
      "bunfig.toml": 'preload = ["./hostile.ts"]\n',
      ".bunfig.toml": 'preload = ["./hostile.ts"]\n',
      "hostile.ts": preload,
      "package.json": "{ not json",
      "tsconfig.json": "{ not json",
    });
    const env = {
      ...PLAIN,
      HOME: here.path,
      XDG_CONFIG_HOME: here.path,
      BUN_OPTIONS: `--preload=${here.path}/hostile.ts`,
    };
    const { environment } = launch([bin], env, here.path);
    expect(environment.filter((entry) => entry.startsWith("HOSTILE"))).toEqual([]);
  });
});

describe("what Bun would change is noted before it starts", () => {
  test("the soft limit on open files", () => {
    expect(noted(launch(["sh", "-c", `ulimit -Sn 100; exec ${bin}`]))["nofile"]).toBe("100");
  });

  test("ignored signals, without the SIGFPE that perl ignores itself", () => {
    const launched = launch(["sh", "-c", `trap '' HUP PIPE; exec ${bin}`]);
    expect(BigInt(`0x${noted(launched)["sigign"]}`)).toBe((1n << 0n) | (1n << 12n));
    expect(BigInt(`0x${noted(launch([bin]))["sigign"]}`)).toBe(0n);
  });

  test("blocked signals", () => {
    const script = "use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1)); exec @ARGV";
    expect(BigInt(`0x${noted(launch(["perl", "-e", script, bin]))["sigblk"]}`)).toBe(1n << 9n);
  });

  test("open descriptors, also where the standard ones are closed", () => {
    expect(noted(launch(["sh", "-c", `exec ${bin} 7</dev/null`]))["fds"]).toBe("0.1.2.7");
    expect(noted(launch(["sh", "-c", `exec ${bin} <&-`]))["fds"]).toBe("1.2");
    expect(noted(launch(["sh", "-c", `exec ${bin} <&- 3</dev/null 2>&-`]))["fds"]).toBe("1.3");
  });

  test("the umask stays", () => {
    expect(launch(["sh", "-c", `umask 027; exec ${bin}`]).umask).toBe("0027");
  });
});

describe("where the package and bun are found", () => {
  test("through npm -g's relative link and bun link's absolute one", () => {
    mkdirSync(join(home.path, "prefix/bin"), { recursive: true });
    symlinkSync("../../package/bin/vgpu", join(home.path, "prefix/bin/vgpu"));
    symlinkSync(join(home.path, "prefix/bin/vgpu"), join(home.path, "linked"));
    const cli = join(home.path, "package/cli.ts");
    expect(launch([join(home.path, "linked"), "x"]).argv.slice(-2)).toEqual([cli, "x"]);
    expect(launch(["./vgpu"], PLAIN, join(home.path, "prefix/bin")).argv.at(-1)).toBe(cli);
    expect(launch(["vgpu"], { PATH: `${home.path}/prefix/bin:/usr/bin:/bin` }).argv.at(-1)).toBe(
      cli,
    );
  });

  test("hoisted beside the package, in PATH, in ~/.bun", () => {
    const real = launch([bin]).bun;
    using other = folder();
    const lone = makePackage(join(other.path, "node_modules/vgpu-run"));
    const expectFound = (env: Record<string, string>): void =>
      expect(launch([lone], env).bun).toBe(real);
    mkdirSync(join(other.path, "path"));
    symlinkSync(real, join(other.path, "path/bun"));
    expectFound({ PATH: `${other.path}/path:/usr/bin:/bin` });
    mkdirSync(join(other.path, "home/.bun/bin"), { recursive: true });
    symlinkSync(real, join(other.path, "home/.bun/bin/bun"));
    expectFound({ PATH: "/usr/bin:/bin", HOME: join(other.path, "home") });
    mkdirSync(join(other.path, "node_modules/bun/bin"), { recursive: true });
    symlinkSync(real, join(other.path, "node_modules/bun/bin/bun.exe"));
    expectFound({ PATH: "/usr/bin:/bin" });
  });

  test("nowhere: one line, 125", () => {
    using other = folder();
    const lone = makePackage(join(other.path, "vgpu-run"));
    const { exitCode, stdout, stderr } = Bun.spawnSync([lone], { env: { PATH: "/usr/bin:/bin" } });
    expect([exitCode, stdout.toString(), stderr.toString()]).toEqual([
      125,
      "",
      `vgpu: bun was not found; run npm install in ${other.path}/vgpu-run, or install it from https://bun.sh\n`,
    ]);
  });
});
