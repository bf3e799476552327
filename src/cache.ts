import {
  listDirectory,
  isAccessible,
  makeDirectory,
  readChanges,
  readState,
  readText,
  takesPrograms,
} from "./libc.ts";
import { openStateDirectory } from "./state-directory.ts";

/** Something made from C sources on first use: a set of files in a cache directory named after its content. */
export interface Recipe {
  /** First word of the cache directory's name. */
  name: string;
  /** Where the sources are. Every file in these directories that matches `pattern` counts, headers too. */
  directories: string[];
  pattern: RegExp;
  /** What comes out, by name in the cache directory. */
  files: string[];
  /** How, once it has to be made. */
  load: () => Promise<Steps>;
}

const TICK_MS = 20;
/** What all builds need at most, objects included. */
const ROOM_BYTES = 32 * 1024 ** 2;

export interface Steps {
  outputs: Output[];
  /** Run on the finished directory before it gets its name; throws if it cannot be used. */
  check?: (directory: string) => void;
}

export interface Output {
  file: string;
  /** Files to compile, each on its own, all at once. */
  units: string[];
  compile: string[];
  link: string[];
  /** More link flags, for what not every installation has; left out where they fail. */
  preferred?: string[];
}

/**
 * The directory with the recipe's files, made now or found. A warm start only compares times and sizes of
 * the sources and their directories with a stamp; what differs is judged by content, compiler and flags (build.ts).
 * `isQuiet`: a build is told of on a terminal only.
 */
export async function findBuilt(recipe: Recipe, isQuiet = false): Promise<string> {
  const usual = cacheRoot();
  const found = findStamped(recipe, usual);
  if (found !== null) return found;
  // A full disk, or one whose programs may not be run, is no reason not to work.
  const root = takesPrograms(usual, ROOM_BYTES) ? usual : privateRoot();
  return (root === usual ? null : findStamped(recipe, root)) ?? make(recipe, root, isQuiet);
}

/** What a stamp in `root` says was built of these very sources; null: nothing. */
function findStamped(recipe: Recipe, root: string): string | null {
  const [directory = "", known, noted = ""] = readText(stampOf(recipe, root))?.split("\n") ?? [];
  const isCurrent = known === makeKey(recipe, noted) && isComplete(directory, recipe.files);
  return isCurrent ? directory : null;
}

const stampOf = ({ name, directories }: Recipe, root: string) =>
  `${root}/${name}-${Bun.hash(directories[0] ?? "").toString(36)}.stamp`;

const makeKey = ({ directories }: Recipe, names: string) =>
  `${process.env["CC"] ?? ""} ${hashStates([...directories, ...joinPaths(directories, names)])}`;

async function make(recipe: Recipe, root: string, isQuiet: boolean): Promise<string> {
  const key = makeKey(recipe, listSources(recipe));
  // What is written from now on has a later ctime than the key knows, also where that counts in ticks of 10 ms.
  Bun.sleepSync(TICK_MS);
  const names = listSources(recipe);
  const { build } = await import("./build.ts");
  const drawStamp = (built: string) => `${built}\n${key}\n${names}\n`;
  const sources = joinPaths(recipe.directories, names);
  return build(recipe, sources, root, drawStamp, stampOf(recipe, root), isQuiet);
}

/** $XDG_CACHE_HOME/vgpu, or a private directory in /dev/shm if that is not writable or LD_PRELOAD could not name it. */
export function cacheRoot(): string {
  const home =
    process.env["XDG_CACHE_HOME"] || (process.env["HOME"] && `${process.env["HOME"]}/.cache`);
  if (home && home.startsWith("/") && /^[\x21-\x39\x3b-\x7e]+$/.test(home)) {
    const root = `${home}/vgpu`;
    if (isAccessible(root)) return root;
    makeDirectory(home);
    if (makeDirectory(root)) return root;
  }
  return privateRoot();
}

function privateRoot(): string {
  const root = `${openStateDirectory()}/cache`;
  makeDirectory(root);
  return root;
}

export function isComplete(directory: string, files: string[]): boolean {
  return (
    directory.startsWith("/") && files.every((file) => readState(`${directory}/${file}`) !== null)
  );
}

/** The sources' names: a slash between two, two between directories. */
function listSources({ directories, pattern }: Recipe): string {
  const names = (directory: string) =>
    (listDirectory(directory) ?? []).filter((name) => pattern.test(name)).sort();
  return directories.map((directory) => names(directory).join("/")).join("//");
}

function joinPaths(directories: string[], names: string): string[] {
  const listed = names.split("//");
  return directories.flatMap((directory, index) =>
    (listed[index] ?? "")
      .split("/")
      .filter(Boolean)
      .map((name) => `${directory}/${name}`),
  );
}

/** One number for paths, times and sizes: 0.4 ms for 100 files. */
function hashStates(paths: string[]): string {
  return `${Bun.hash(readChanges(paths))}${Bun.hash(paths.join("\0"))}`;
}
