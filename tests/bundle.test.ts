import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, copyFileSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeBundle, stampName } from "../src/bundle.ts";
import { folder, PLAIN, ROOT } from "./vgpu.ts";

// A package with the real launcher that says which script runs, and what two of its modules say.
const home = folder({
  "package/cli.ts": `import { word } from "./src/word.ts";
    console.log(JSON.stringify({ script: process.argv[1].split("/").at(-1), word }));`,
  "package/src/word.ts": `import { place } from "./deep/place.ts"; export const word = "one " + place;`,
  "package/src/deep/place.ts": `export const place: string = import.meta.dir;`,
  "package/package.json": "{}",
  "package/tsconfig.json": "{}",
});
const root = join(home.path, "package");
const cache = join(home.path, "cache/vgpu");
const env = { ...PLAIN, XDG_CACHE_HOME: join(home.path, "cache") };
const saved = process.env["XDG_CACHE_HOME"];

beforeAll(() => {
  mkdirSync(join(root, "bin"));
  mkdirSync(join(home.path, "cache"));
  copyFileSync(join(ROOT, "bin/vgpu"), join(root, "bin/vgpu"));
  chmodSync(join(root, "bin/vgpu"), 0o755);
  symlinkSync(join(ROOT, "node_modules"), join(root, "node_modules"));
  process.env["XDG_CACHE_HOME"] = env.XDG_CACHE_HOME;
});
afterAll(() => {
  home[Symbol.dispose]();
  if (saved === undefined) delete process.env["XDG_CACHE_HOME"];
  else process.env["XDG_CACHE_HOME"] = saved;
});

function start(): { script: string; word: string } {
  const { stdout, stderr } = Bun.spawnSync([join(root, "bin/vgpu")], { env, cwd: "/" });
  expect(stderr.toString()).toBe("");
  return JSON.parse(stdout.toString());
}

/** Waits until the sources are old enough, and makes the bundle. */
async function settle(): Promise<void> {
  await Bun.sleep(2100);
  await makeBundle(root);
}

const bundles = () => readdirSync(cache).filter((name) => /^cli-[0-9a-z]+$/.test(name));
const place = join(root, "src/deep");

describe("the bundle is started only while it is what the sources say", () => {
  test("not made of sources that may still be in the editor", async () => {
    await makeBundle(root);
    expect(start()).toEqual({ script: "cli.ts", word: `one ${place}` });
  });

  test("made, and modules keep their places", async () => {
    await settle();
    expect(start()).toEqual({ script: "cli.js", word: `one ${place}` });
  });

  test("an edit of the same length that hides behind the old times", async () => {
    const path = join(root, "src/word.ts");
    const { atime, mtime } = statSync(path);
    writeFileSync(
      path,
      await Bun.file(path)
        .text()
        .then((text) => text.replace("one", "two")),
    );
    utimesSync(path, atime, mtime);
    expect(start()).toEqual({ script: "cli.ts", word: `two ${place}` });
    await settle();
    expect(start()).toEqual({ script: "cli.js", word: `two ${place}` });
    await makeBundle(root);
    expect(bundles().length).toBe(2); // the old one may still be on its way into a starting Bun
  });

  test("a source that is gone, another package's stamp, a file that others may write", () => {
    const [bundle = ""] = bundles();
    for (const name of bundles()) chmodSync(join(cache, name, "cli.js"), 0o666);
    expect(start().script).toBe("cli.ts");
    for (const name of bundles()) chmodSync(join(cache, name, "cli.js"), 0o600);
    expect(start().script).toBe("cli.js");
    const stamp = join(cache, stampName(root));
    if (process.getuid?.() === 0) {
      chownSync(stamp, 65534, 65534);
      expect(start().script).toBe("cli.ts");
      chownSync(stamp, 0, 0);
      expect(start().script).toBe("cli.js");
    }
    writeFileSync(stamp, `${join(cache, bundle)}\n`);
    expect(start().script).toBe("cli.ts");
  });
});
