import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { chmodSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeWhole } from "../src/build.ts";
import { cacheRoot, findBuilt, type Recipe } from "../src/cache.ts";
import { takesPrograms } from "../src/libc.ts";
import { stateDirectory } from "../src/state-directory.ts";
import { folder, ROOT } from "./vgpu.ts";

let work: ReturnType<typeof folder>;
const saved = { ...process.env };
beforeEach(() => {
  work = folder({ "source/main.c": "int main(void) { return 0; }\n", "cache/x": "" });
  process.env["XDG_CACHE_HOME"] = join(work.path, "cache");
});
afterEach(() => {
  work[Symbol.dispose]();
  for (const name of ["XDG_CACHE_HOME", "CC", "PATH", "HOME"]) {
    if (saved[name] === undefined) delete process.env[name];
    else process.env[name] = saved[name];
  }
});

function recipe(check?: () => void): Recipe & { loads: number } {
  const source = join(work.path, "source");
  return {
    loads: 0,
    name: "test",
    directories: [source],
    pattern: /\.c$/,
    files: ["main"],
    async load() {
      this.loads++;
      const outputs = [{ file: "main", units: [join(source, "main.c")], compile: [], link: [] }];
      return { outputs, ...(check && { check }) };
    },
  };
}

const built = () => readdirSync(join(work.path, "cache/vgpu"));

test("built once; touching a source finds the same content, changing it builds again", async () => {
  const asked = recipe();
  const directory = await findBuilt(asked);
  expect(Bun.spawnSync([join(directory, "main")]).exitCode).toBe(0);
  expect(await findBuilt(asked)).toBe(directory);
  expect(asked.loads).toBe(1);

  const source = join(work.path, "source/main.c");
  utimesSync(source, 1, 1);
  expect(await findBuilt(asked)).toBe(directory);
  expect(asked.loads).toBe(2);

  writeFileSync(source, "int main(void) { return 7; }\n");
  const another = await findBuilt(asked);
  expect(another).not.toBe(directory);
  expect(Bun.spawnSync([join(another, "main")]).exitCode).toBe(7);
});

test("two that start at once get the same, and leave nothing unfinished", async () => {
  const [left, right] = await Promise.all([findBuilt(recipe()), findBuilt(recipe())]);
  expect(left).toBe(right);
  expect(built().filter((name) => name.endsWith(".new"))).toEqual([]);
});

/** Starts processes of their own that build with a compiler which notes each call, and waits for the file `go`. */
function makeBuilders() {
  const compiler = join(work.path, "compiler");
  const calls = join(work.path, "calls");
  const go = join(work.path, "go");
  writeFileSync(
    compiler,
    `#!/bin/sh\necho call >>${calls}\nwhile [ ! -e ${go} ]; do sleep 0.01; done\nexec cc "$@"\n`,
  );
  chmodSync(compiler, 0o755);
  const source = join(work.path, "source");
  const outputs = [{ file: "main", units: [join(source, "main.c")], compile: [], link: [] }];
  const start = () =>
    Bun.spawn(
      [
        process.execPath,
        "-e",
        `const { findBuilt } = await import(${JSON.stringify(join(ROOT, "src/cache.ts"))});
         const recipe = { name: "test", directories: [${JSON.stringify(source)}], pattern: /\\.c$/, files: ["main"],
           load: async () => ({ outputs: ${JSON.stringify(outputs)} }) };
         console.log(await findBuilt(recipe));`,
      ],
      { env: { ...process.env, CC: compiler }, stdout: "pipe", stderr: "pipe" },
    );
  const until = async (isSo: () => boolean) => {
    while (!isSo()) await Bun.sleep(5);
  };
  return {
    start,
    go: () => writeFileSync(go, ""),
    /** Resolves once a compiler has been called. */
    called: () => until(() => existsSync(calls)),
    calls: () => readFileSync(calls, "utf8").trim().split("\n").length,
  };
}

const unfinished = () => built().filter((name) => name.endsWith(".new"));

test("of several processes one builds, and says so; the others wait, and say so", async () => {
  const builders = makeBuilders();
  const first = builders.start();
  await builders.called();
  const others = [builders.start(), builders.start()];
  const words = await Promise.all(
    others.map(async ({ stderr }) => {
      const { value } = await stderr.getReader().read();
      return new TextDecoder().decode(value);
    }),
  );
  for (const said of words) expect(said).toMatch(/^vgpu: waiting for another vgpu.*\n$/);
  builders.go();
  const all = [first, ...others];
  const directories = await Promise.all(all.map(({ stdout }) => new Response(stdout).text()));
  expect(new Set(directories).size).toBe(1);
  expect(await Promise.all(all.map(({ exited }) => exited))).toEqual([0, 0, 0]);
  expect(builders.calls()).toBe(2); // compiled and linked, once
  expect(await new Response(first.stderr).text()).toMatch(/^vgpu: building the test with .*\n$/);
}, 30_000);

test("who waits takes over from a builder that was killed", async () => {
  const builders = makeBuilders();
  const first = builders.start();
  await builders.called();
  const second = builders.start();
  const reader = second.stderr.getReader();
  expect(new TextDecoder().decode((await reader.read()).value)).toContain("waiting");
  first.kill("SIGKILL");
  await first.exited;
  builders.go();
  expect(await second.exited).toBe(0);
  expect(unfinished()).toEqual([]);
}, 30_000);

test.each(["SIGTERM", "SIGINT", "SIGHUP"] as const)(
  "%s ends a build and leaves nothing unfinished",
  async (signal) => {
    const builders = makeBuilders();
    const builder = builders.start();
    await builders.called();
    expect(unfinished()).toHaveLength(1);
    builder.kill(signal);
    await builder.exited;
    expect(builder.signalCode).toBe(signal);
    expect(unfinished()).toEqual([]);
    builders.go();
  },
  30_000,
);

test("a file that cannot be written leaves nothing unfinished", () => {
  mkdirSync(join(work.path, "cache/vgpu/taken/x"), { recursive: true });
  expect(() => writeWhole(join(work.path, "cache/vgpu/taken"), "text")).toThrow();
  expect(unfinished()).toEqual([]);
});

test("what a killed build left is removed", async () => {
  mkdirSync(join(work.path, "cache/vgpu/test-0.4194399.new"), { recursive: true });
  await findBuilt(recipe());
  expect(built().filter((name) => name.endsWith(".new"))).toEqual([]);
});

test("no compiler: the packages to install", async () => {
  process.env["PATH"] = "/nonexistent";
  const error = await findBuilt(recipe()).catch((caught: unknown) => caught);
  expect(error).toMatchObject({ exitCode: 125, hint: expect.stringContaining("apt install gcc") });
  process.env["CC"] = "nosuchcompiler -x";
  const named = await findBuilt(recipe()).catch((caught: unknown) => caught);
  expect((named as Error).message).toContain("CC is 'nosuchcompiler -x'");
  process.env["CC"] = "x".repeat(5000);
  const long = await findBuilt(recipe()).catch((caught: unknown) => caught);
  expect((long as Error).message).toStartWith("CC is 'xxx");
});

test("a failed build: the first error, and where the rest is", async () => {
  writeFileSync(join(work.path, "source/main.c"), "int main(void) { return nothing; }\n");
  const error = (await findBuilt(recipe()).catch((caught: unknown) => caught)) as Error & {
    hint: string;
  };
  expect(error.message).toMatch(/^the compiler failed: .*main\.c:1:\d+: error: .*nothing/);
  expect(readFileSync(error.hint.replace(/^all of it is in /, ""), "utf8")).toContain("nothing");
});

test("what does not pass its check is not kept", async () => {
  const failing = recipe(() => {
    throw new Error("does not load");
  });
  expect(findBuilt(failing)).rejects.toThrow("does not load");
  await Bun.sleep(0);
  expect(built().filter((name) => name === "test")).toEqual([]);
});

test("without a usable cache folder, a private one in /dev/shm", () => {
  expect(cacheRoot()).toBe(join(work.path, "cache/vgpu"));
  process.env["XDG_CACHE_HOME"] = "/proc/nonexistent";
  expect(cacheRoot()).toBe(`${stateDirectory()}/cache`);
  process.env["XDG_CACHE_HOME"] = join(work.path, "with space"); // LD_PRELOAD cannot name it
  expect(cacheRoot()).toBe(`${stateDirectory()}/cache`);
});

test("where programs can be built", () => {
  expect(takesPrograms(work.path, 1024)).toBe(true);
  expect(takesPrograms(work.path, 2 ** 60)).toBe(false); // no room
  expect(takesPrograms("/nonexistent/folder", 0)).toBe(false);
});

test("an edit of the same length behind the old times, a new header and a lost one are noticed", async () => {
  const asked = { ...recipe(), pattern: /\.[ch]$/ };
  const path = join(work.path, "source/main.c");
  const include = (value: number) =>
    `int main(void) {\n#if __has_include("x.h")\n  return 3;\n#endif\n  return ${value}; }\n`;
  const status = async () => Bun.spawnSync([join(await findBuilt(asked), "main")]).exitCode;
  writeFileSync(path, include(0));
  expect(await status()).toBe(0);
  const { atime, mtime } = statSync(path);
  writeFileSync(path, include(7));
  utimesSync(path, atime, mtime);
  expect(await status()).toBe(7);
  writeFileSync(join(work.path, "source/x.h"), "");
  expect(await status()).toBe(3);
  rmSync(join(work.path, "source/x.h"));
  expect(await status()).toBe(7);
});
