import { chmodSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { tidyBeforeEnd, tryLockBuilds, writeWhole } from "./build.ts";
import { cacheRoot, isComplete } from "./cache.ts";
import { readText } from "./libc.ts";

/** Sources younger than this wait for a later start: another edit could leave their ctime, in seconds, as it is. */
const SETTLED_MS = 2000;
/** A bundle that no stamp names any more may still be on its way into a starting Bun. */
const UNUSED_MS = 60_000;
const FILES = ["cli.js", "cli.js.jsc"];

/**
 * Joins a package's cli.ts and all that it imports into one file with bytecode beside the shim in the cache,
 * and notes in a stamp what it was made from: bin/vgpu starts it as long as nothing of that has changed,
 * which saves a quarter of a start. Never throws: without a bundle cli.ts itself is started.
 */
export async function makeBundle(folder = dirname(import.meta.dir)): Promise<void> {
  try {
    await bundle(folder, cacheRoot());
  } catch {} // a read-only or full cache
}

async function bundle(folder: string, root: string): Promise<void> {
  const stamp = join(root, stampName(folder));
  const sources = [process.execPath, ...listSources(folder)];
  const states = sources.map(drawState).join("\n");
  const [known = "", ...noted] = readText(stamp)?.split("\n") ?? [];
  if (isComplete(known, FILES) && noted.join("\n").startsWith(`${states}\n`)) return;
  const newest = Math.max(...sources.map((path) => statSync(path).ctimeMs));
  if (newest > Date.now() - SETTLED_MS) return;

  using lock = tryLockBuilds(root);
  if (lock === null) return; // someone is at it, or at the shim
  const loaded = new Set<string>();
  const packages = new Set<string>();
  const { outputs } = await Bun.build({
    entrypoints: [join(folder, "cli.ts")],
    target: "bun",
    format: "cjs",
    bytecode: true,
    minify: { whitespace: true, syntax: true, identifiers: false },
    env: "disable",
    plugins: [{ name: "places", setup: (build) => keepPlaces(build, loaded, packages) }],
  });
  const script = outputs.find(({ kind }) => kind === "entry-point");
  const bytecode = outputs.find(({ kind }) => kind === "bytecode");
  if (!script || !bytecode || [...loaded].some((path) => !sources.includes(path))) return;

  const text = [states, ...[...packages].map(drawState)].join("\n");
  const directory = join(root, `cli-${Bun.hash(text).toString(36)}`);
  if (!isComplete(directory, FILES)) {
    const unfinished = `${directory}.${process.pid}.new`; // build.ts removes what a kill leaves
    const remove = () => rmSync(unfinished, { recursive: true, force: true });
    using _signals = tidyBeforeEnd(remove);
    try {
      mkdirSync(unfinished, { mode: 0o700 });
      await Bun.write(join(unfinished, "cli.js"), script);
      await Bun.write(join(unfinished, "cli.js.jsc"), bytecode);
      for (const file of FILES) chmodSync(join(unfinished, file), 0o600);
      renameSync(unfinished, directory);
    } finally {
      remove();
    }
  }
  writeWhole(stamp, `${directory}\n${text}\n`);
  removeUnused(root);
}

/** As bin/vgpu names it. */
export function stampName(folder: string): string {
  return `cli${folder.replace(/[^A-Za-z0-9]/g, "-").slice(-200)}.stamp`;
}

/** One line of the stamp. ctime, because an edit cannot leave it as it was; in seconds, because perl has no more. */
function drawState(path: string): string {
  const { ctimeMs, size, ino } = statSync(path);
  return `${Math.floor(ctimeMs / 1000)} ${size} ${ino} ${path}`;
}

/** All that can be part of the bundle. A new file is not, before one of these names it. */
function listSources(folder: string): string[] {
  const names = readdirSync(join(folder, "src"), { recursive: true, encoding: "utf8" });
  const modules = names.filter((name) => name.endsWith(".ts")).map((name) => `src/${name}`);
  const files = ["cli.ts", "package.json", "tsconfig.json", ...modules.sort()];
  return files.map((name) => join(folder, name));
}

/** Modules in the bundle go on thinking of their own places; packages stay where they are. */
function keepPlaces(build: Bun.PluginBuilder, loaded: Set<string>, packages: Set<string>): void {
  build.onResolve({ filter: /^[^./]/ }, ({ path, importer }) => {
    if (/^(bun|node):/.test(path)) return undefined;
    const resolved = Bun.resolveSync(path, dirname(importer));
    packages.add(resolved);
    return { path: resolved, external: true };
  });
  build.onLoad({ filter: /\.(ts|json)$/ }, async ({ path, loader }) => {
    loaded.add(path);
    const text = await Bun.file(path).text();
    const contents = text
      .replaceAll(/\bimport\.meta\.dir\b/g, JSON.stringify(dirname(path)))
      .replaceAll(/\bimport\.meta\.url\b/g, JSON.stringify(pathToFileURL(path).href));
    return { contents, loader };
  });
}

/** Bundles of earlier sources. */
function removeUnused(root: string): void {
  const names = readdirSync(root);
  const used = names
    .filter((name) => /^cli.*\.stamp$/.test(name))
    .map((name) => readText(join(root, name))?.split("\n")[0]);
  for (const directory of names.filter((name) => /^cli-[0-9a-z]+$/.test(name))) {
    const path = join(root, directory);
    if (!used.includes(path) && statSync(path).mtimeMs < Date.now() - UNUSED_MS)
      rmSync(path, { recursive: true, force: true });
  }
}
