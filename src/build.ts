import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { isComplete, type Output, type Recipe, type Steps } from "./cache.ts";
import { quote, VgpuError } from "./errors.ts";
import { isIgnored, readLauncher } from "./launcher.ts";
import { closeFile, isTerminal, lastError, OPEN, openFile, tryLock } from "./libc.ts";
import { readProcess } from "./process.ts";
import { findProgram } from "./program.ts";
import { say } from "./report/words.ts";
import { raiseDefault, SIGNALS } from "./signals.ts";

const PACKAGES = "Debian: apt install gcc libc6-dev; Fedora: dnf install gcc; Arch: pacman -S gcc";

/** Where a shell looks without a PATH. */
const USUAL_PATH = "/usr/local/bin:/usr/bin:/bin";

/** A builder that has been stopped, or hangs, is waited for no longer. */
const LOCK_PATIENCE_MS = 300_000;
const LOCK_STEP_MS = 50;

/**
 * Finds the build by its content, or makes it, and notes it in the stamp. Of those that start at once one
 * builds and the others wait for it. Throws VgpuError: no compiler, a failed build, no room.
 */
export async function build(
  recipe: Recipe,
  sources: string[],
  root: string,
  drawStamp: (directory: string) => string,
  stamp: string,
  isQuiet: boolean,
): Promise<string> {
  const steps = await recipe.load();
  const compiler = findCompiler(process.env["CC"] ?? "");
  const directory = join(root, `${recipe.name}-${hashBuild(steps.outputs, sources, compiler)}`);
  try {
    if (!isComplete(directory, recipe.files)) {
      using _lock = await lockBuilds(root, isQuiet);
      if (!isComplete(directory, recipe.files)) {
        const words = `building the ${recipe.name} with ${compiler[0]} (once)`;
        using _words = announce(words, isQuiet);
        await make(recipe, steps, compiler, directory);
      }
    }
    writeWhole(stamp, drawStamp(directory));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (error instanceof VgpuError || code === undefined) throw error;
    throw new VgpuError(`cannot build in ${root} (${code})`, {
      hint: "XDG_CACHE_HOME names another place",
    });
  }
  return directory;
}

/** Writes a file so that readers see the old content or the new, never a part. Leaves nothing of what could not be written. */
export function writeWhole(path: string, text: string): void {
  const unfinished = nameUnfinished(path);
  try {
    writeFileSync(unfinished, text);
    renameSync(unfinished, path);
  } catch (error) {
    rmSync(unfinished, { force: true });
    throw error;
  }
}

/** The lock of those who build in this cache, which whoever dies frees; null: another has it. Where there can be none (NFS) everyone gets it. */
export function tryLockBuilds(root: string): Disposable | null {
  const fd = openFile(root, OPEN.readOnly);
  const isTaken = fd >= 0 && !tryLock(fd, "exclusive") && lastError() === "EAGAIN";
  if (!isTaken) return { [Symbol.dispose]: () => closeFile(fd) };
  closeFile(fd);
  return null;
}

/** Waits for the lock; null if another keeps it for too long: two who build the same are in nobody's way. */
async function lockBuilds(root: string, isQuiet: boolean): Promise<Disposable | null> {
  const lock = tryLockBuilds(root);
  if (lock !== null) return lock;
  using _words = announce("waiting for another vgpu, which builds what both need", isQuiet);
  for (let waitedMs = 0; waitedMs < LOCK_PATIENCE_MS; waitedMs += LOCK_STEP_MS) {
    await Bun.sleep(LOCK_STEP_MS);
    const freed = tryLockBuilds(root);
    if (freed !== null) return freed;
  }
  return null;
}

/** Says what takes so long: on a terminal until it is over, elsewhere with a line that stays. */
function announce(text: string, isQuiet: boolean): Disposable {
  if (!isTerminal(2)) {
    if (!isQuiet) say(`${text}; this takes some seconds`);
    return { [Symbol.dispose]() {} };
  }
  process.stderr.write(`vgpu: ${text}…`);
  return { [Symbol.dispose]: () => void process.stderr.write("\r\x1b[K") };
}

const ENDING = ["SIGTERM", "SIGINT", "SIGHUP"] as const;

/** Runs `tidy` before one of these signals ends us, unless the caller ignores it. */
export function tidyBeforeEnd(tidy: () => void): Disposable {
  const launcher = readLauncher();
  const signals = ENDING.filter((signal) => !isIgnored(launcher, SIGNALS[signal]));
  const end = (_: string, number: number) => {
    tidy();
    raiseDefault(number);
    process.exit(128 + number); // PID 1 lives on
  };
  for (const signal of signals) process.on(signal, end);
  return {
    [Symbol.dispose]() {
      for (const signal of signals) process.off(signal, end);
    },
  };
}

let attempts = 0;
const nameUnfinished = (path: string) => `${path}.${attempts++}.${process.pid}.new`;

function findCompiler(wanted: string): string[] {
  const search = { PATH: process.env["PATH"] ?? USUAL_PATH };
  const words = wanted.split(/\s+/).filter(Boolean);
  const [first] = words;
  if (first !== undefined) {
    const path = findProgram(first, search);
    if (path !== null) return [path, ...words.slice(1)];
    throw new VgpuError(`CC is ${quote(wanted)}, and there is no such program`, {
      hint: "unset CC or name a C compiler",
    });
  }
  const found = ["cc", "gcc", "clang"]
    .map((name) => findProgram(name, search))
    .find((path) => path !== null);
  if (found) return [found];
  throw new VgpuError("no C compiler to build vgpu's preload library with", { hint: PACKAGES });
}

function hashBuild(outputs: Output[], sources: string[], compiler: string[]): string {
  const hash = new Bun.CryptoHasher("sha256");
  const { mtimeMs, size } = statSync(compiler[0]!);
  hash.update(JSON.stringify([compiler, mtimeMs, size, process.arch, outputs]));
  for (const path of sources) hash.update(`\0${path}\0`).update(readFileSync(path));
  return hash.digest("hex").slice(0, 16);
}

/** Builds beside the final place and renames: of two that build at once, one wins and both are right. */
async function make(
  { files }: Recipe,
  { outputs, check }: Steps,
  compiler: string[],
  directory: string,
): Promise<void> {
  removeInterrupted(dirname(directory));
  const unfinished = nameUnfinished(directory);
  const running = new Set<Bun.Subprocess>();
  const tidy = () => {
    for (const compile of running) compile.kill();
    rmSync(unfinished, { recursive: true, force: true });
  };
  using _signals = tidyBeforeEnd(tidy);
  try {
    mkdirSync(unfinished, { recursive: true });
    for (const { file } of outputs) mkdirSync(dirname(join(unfinished, file)), { recursive: true });
    const objects = (output: Output) =>
      output.units.map(
        (unit, i) =>
          [unit, join(unfinished, `${output.file.replaceAll("/", "_")}.${i}.o`)] as const,
      );
    const log = `${directory}.log`;
    await inParallel(
      outputs.flatMap((output) =>
        objects(output).map(([unit, object]) => [
          ...compiler,
          ...output.compile,
          "-c",
          unit,
          "-o",
          object,
        ]),
      ),
      log,
      running,
    );
    const link = (output: Output, more: string[] = []) => [
      ...[...compiler, "-o", join(unfinished, output.file)],
      ...[...objects(output).map(([, object]) => object), ...output.link, ...more],
    ];
    const isLinked = (output: Output) =>
      output.preferred !== undefined &&
      Bun.spawnSync(link(output, output.preferred), { env: process.env }).exitCode === 0;
    const plain = outputs.filter((output) => !isLinked(output));
    await inParallel(
      plain.map((output) => link(output)),
      log,
      running,
    );
    for (const output of outputs) for (const [, object] of objects(output)) rmSync(object);
    check?.(unfinished);
    try {
      renameSync(unfinished, directory);
    } catch (error) {
      if (!isComplete(directory, files)) throw error;
    }
  } finally {
    tidy();
  }
}

/** What builds left that were killed. */
function removeInterrupted(root: string): void {
  for (const name of readdirSync(root)) {
    const pid = name.match(/\.(\d+)\.new$/)?.[1];
    if (pid !== undefined && readProcess(Number(pid)) === null)
      rmSync(join(root, name), { recursive: true, force: true });
  }
}

/** Runs the commands, as many at once as there are processors; `running` has those that have not ended. The first failure ends it, its output goes to `log`. */
async function inParallel(
  commands: string[][],
  log: string,
  running: Set<Bun.Subprocess>,
): Promise<void> {
  const queue = [...commands];
  const work = async () => {
    for (let command = queue.shift(); command; command = queue.shift()) {
      const compile = Bun.spawn(command, {
        stdin: "ignore",
        stdout: "ignore",
        stderr: "pipe",
        env: process.env,
      });
      running.add(compile);
      const output = await new Response(compile.stderr).text();
      const status = await compile.exited;
      running.delete(compile);
      if (status === 0) continue;
      queue.length = 0;
      writeFileSync(log, `${command.join(" ")}\n\n${output}`);
      const line =
        output.split("\n").find((text) => /\berror\b/i.test(text)) ?? output.split("\n")[0] ?? "";
      throw new VgpuError(`the compiler failed: ${line.trim()}`, {
        hint: `all of it is in ${log}`,
      });
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
}
