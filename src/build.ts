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
import { isTerminal } from "./libc.ts";
import { readProcess } from "./process.ts";

const PACKAGES = "Debian: apt install gcc libc6-dev; Fedora: dnf install gcc; Arch: pacman -S gcc";

/** Where a shell looks without a PATH. */
const USUAL_PATH = "/usr/local/bin:/usr/bin:/bin";

/** Finds the build by its content, or makes it, and notes it in the stamp. Throws VgpuError: no compiler, a failed build, no room. */
export async function build(
  recipe: Recipe,
  sources: string[],
  root: string,
  drawStamp: (directory: string) => string,
  stamp: string,
): Promise<string> {
  const steps = await recipe.load();
  const compiler = findCompiler(process.env["CC"] ?? "");
  const directory = join(root, `${recipe.name}-${hashBuild(steps.outputs, sources, compiler)}`);
  try {
    if (!isComplete(directory, recipe.files)) await make(recipe, steps, compiler, directory);
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

/** Writes a file so that readers see the old content or the new, never a part. */
export function writeWhole(path: string, text: string): void {
  const unfinished = nameUnfinished(path);
  writeFileSync(unfinished, text);
  renameSync(unfinished, path);
}

let attempts = 0;
const nameUnfinished = (path: string) => `${path}.${attempts++}.${process.pid}.new`;

function findCompiler(wanted: string): string[] {
  const search = { PATH: process.env["PATH"] ?? USUAL_PATH };
  const words = wanted.split(/\s+/).filter(Boolean);
  const [first] = words;
  if (first !== undefined) {
    const path = Bun.which(first, search);
    if (path !== null) return [path, ...words.slice(1)];
    throw new VgpuError(`CC is ${quote(wanted)}, and there is no such program`, {
      hint: "unset CC or name a C compiler",
    });
  }
  const found = ["cc", "gcc", "clang"]
    .map((name) => Bun.which(name, search))
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

/** Builds beside the final place and renames: of two that start at once, one wins and both are right. */
async function make(
  { name, files }: Recipe,
  { outputs, check }: Steps,
  compiler: string[],
  directory: string,
): Promise<void> {
  const progress = isTerminal(2) ? (text: string) => process.stderr.write(text) : () => {};
  progress(`vgpu: building the ${name} with ${compiler[0]} (once)…`);
  removeInterrupted(dirname(directory));
  const unfinished = nameUnfinished(directory);
  mkdirSync(unfinished, { recursive: true });
  try {
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
    );
    for (const output of outputs) for (const [, object] of objects(output)) rmSync(object);
    check?.(unfinished);
    try {
      renameSync(unfinished, directory);
    } catch (error) {
      if (!isComplete(directory, files)) throw error;
    }
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
    progress("\r\x1b[K");
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

/** Runs the commands, as many at once as there are processors. The first failure ends it, its output goes to `log`. */
async function inParallel(commands: string[][], log: string): Promise<void> {
  const queue = [...commands];
  const work = async () => {
    for (let command = queue.shift(); command; command = queue.shift()) {
      const compile = Bun.spawn(command, {
        stdin: "ignore",
        stdout: "ignore",
        stderr: "pipe",
        env: process.env,
      });
      const output = await new Response(compile.stderr).text();
      if ((await compile.exited) === 0) continue;
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
