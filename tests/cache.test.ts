import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheRoot, findBuilt, type Recipe } from "../src/cache.ts";
import { takesPrograms } from "../src/libc.ts";
import { stateDirectory } from "../src/state-directory.ts";
import { folder } from "./vgpu.ts";

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
