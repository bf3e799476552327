// Every check that needs no GPU; ends with one line that sums all runners. What a missing tool
// (clang-format, the aarch64 compiler) would check is skipped, and counted so.
//   bun tests/run.ts [--only NAME]     names: the keys of `timed` and `untimed` below
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

const root = join(import.meta.dir, "..");
const bun = process.execPath;
const work = mkdtempSync(join(tmpdir(), "vgpu-tests-"));
const only = Bun.argv.indexOf("--only") < 0 ? undefined : Bun.argv[Bun.argv.indexOf("--only") + 1];
const WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"];
const total = { passed: 0, failed: 0, skipped: 0 };
const SKIPPED = 77;

interface Ran {
  code: number;
  text: string;
}

type Run = (words: string[], env?: Record<string, string>) => Promise<Ran>;

let outputs = 0;
/** Runs a command to its end. Output goes through a file: a process that a failed test has left behind would hold a pipe open. */
const run: Run = async (words, env = {}) => {
  const output = Bun.file(join(work, `output-${outputs++}`));
  const options = { cwd: root, env: { ...process.env, ...env }, stdin: "ignore" as const };
  const child = Bun.spawn(["sh", "-c", 'exec "$@" 2>&1', "sh", ...words], {
    ...options,
    stdout: output,
    stderr: "inherit",
  });
  const code = await child.exited;
  return { code, text: await output.text() };
};
/** The same for work that no clock watches: it gives way to what runs beside it. */
const runGently: Run = (words, env) => run(["nice", "-n", "19", ...words], env);

/** One check that passes or fails as a whole. */
function note(name: string, { code, text }: Ran): void {
  if (code === 0) total.passed++;
  else total.failed++;
  console.log(`${code === 0 ? "ok" : "not ok"} ${name}`);
  if (code !== 0) console.log(text.split("\n").slice(-40).join("\n"));
}

function skip(name: string, reason: string): void {
  total.skipped++;
  console.log(`skipped ${name}: ${reason}`);
}

/** A runner that prints "ok NAME" and "not ok NAME" lines, or "… N checks" for each of its programs. */
function count(name: string, { code, text }: Ran): void {
  if (code === SKIPPED) return skip(name, text.trim().split("\n").at(-1) ?? "");
  const sums = [...text.matchAll(/(?:^|, )(\d+) checks$/gm)].map((match) => Number(match[1]));
  const passed = (text.match(/^ok /gm)?.length ?? 0) + sums.reduce((sum, one) => sum + one, 0);
  const failed = text.match(/^not ok /gm)?.length ?? 0;
  const broken = (code !== 0 && failed === 0) || passed + failed === 0;
  total.passed += passed;
  total.failed += failed + (broken ? 1 : 0);
  const isGood = code === 0 && failed === 0 && !broken;
  console.log(`${isGood ? "ok" : "not ok"} ${name}: ${passed} passed, ${failed} failed`);
  if (!isGood) console.log(text.split("\n").slice(-60).join("\n"));
}

const list = (folder: string, pattern: RegExp): string[] =>
  readdirSync(join(root, folder))
    .filter((name) => pattern.test(name))
    .map((name) => join(folder, name));

/** "Sources: shim/a.c, shim/b.c" in a C test's first comment says what it is compiled with. */
function sourcesOf(test: string): string[] {
  const text = readFileSync(join(root, test), "utf8").replaceAll("\n *", "\n");
  const found = /Sources?:\s([^*]*?)(?:\.\s|\*\/)/.exec(text);
  return (found?.[1] ?? "").split(/[\s,]+/).filter((word) => word.endsWith(".c"));
}

async function compileAndCount(
  run: Run,
  test: string,
  flags: string[],
  label: string,
): Promise<void> {
  const binary = join(work, `${basename(test, ".c")}${label}`);
  const words = ["cc", "-std=gnu11", "-g", ...flags, ...WARNINGS, "-pthread", test];
  const compiled = await run([...words, ...sourcesOf(test), "-o", binary, "-ldl"]);
  if (compiled.code !== 0) return note(`${test}${label} compiles`, compiled);
  // The shim's tables live as long as the process: what is left at the end is no leak.
  count(`${test}${label}`, await run([binary], { ASAN_OPTIONS: "detect_leaks=0" }));
}

/** Some look inside a module, and include it. */
const includesSource = (test: string): boolean =>
  /^#include "\.\.\/\.\.\/shim\/\w+\.c"/m.test(readFileSync(join(root, test), "utf8"));

const pureTests = (): string[] =>
  list("tests/shim", /\.c$/).filter((test) => sourcesOf(test).length > 0 || includesSource(test));

/** C programs of tests/shim that nothing compiles. */
function forgotten(): string[] {
  const scripts = list("tests/shim", /\.sh$/).map((path) => readFileSync(join(root, path), "utf8"));
  const isNamed = (test: string) => scripts.some((text) => text.includes(basename(test, ".c")));
  const pure = pureTests();
  return list("tests/shim", /\.c$/).filter(
    (test) => !pure.includes(test) && !basename(test).startsWith("sim_") && !isNamed(test),
  );
}

/** As many at a time as there are cores, for work that needs nothing but a core. */
async function each<T>(items: T[], body: (item: T) => Promise<void>): Promise<void> {
  const waiting = [...items];
  const work = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) await body(item);
  };
  await Promise.all(Array.from({ length: navigator.hardwareConcurrency }, work));
}

let building: Promise<string> | undefined;
/** The shim and the simulated GPU for the scripts in tests/shim, built once; see build.sh there. */
const built = (): Promise<string> =>
  (building ??= (async () => {
    const folder = join(work, "built");
    note("tests/shim/build.sh", await run(["sh", "tests/shim/build.sh", folder]));
    return folder;
  })());

/** A script of tests/shim that prints a line for each of its checks. */
async function script(run: Run, name: string, ...words: string[]): Promise<void> {
  const path = `tests/shim/${name}`;
  count([path, ...words].join(" "), await run(["bash", path, ...words], { BUILT: await built() }));
}

type Steps = Record<string, () => Promise<void>>;

/** What watches the clock, or runs the whole CLI: one after the other. */
const timed: Steps = {
  async bun() {
    const { code, text } = await run([bun, "test", "--timeout", "20000"]);
    const passed = Number(/^\s*(\d+) pass$/m.exec(text)?.[1] ?? 0);
    const failed = Number(/^\s*(\d+) fail$/m.exec(text)?.[1] ?? 0);
    total.passed += passed;
    total.failed += failed || (code === 0 && passed > 0 ? 0 : 1);
    console.log(`${code === 0 ? "ok" : "not ok"} bun test: ${passed} passed, ${failed} failed`);
    if (code !== 0)
      console.log(
        text
          .split("\n")
          .filter((line) => !line.startsWith("(pass)"))
          .slice(-150)
          .join("\n"),
      );
  },
  async pacing() {
    await script(run, "pace_run.sh");
  },
  async turns() {
    await script(run, "turn_run.sh");
    await script(run, "gang_run.sh");
  },
  async simulator() {
    await script(run, "sim_run.sh");
  },
};

/** What needs only a core, beside those. */
const untimed: Steps = {
  async format() {
    note("bun fmt --check", await run([bun, "fmt", "--check"]));
    const files = [
      "shim",
      "shim/supervisor",
      "shim/sim",
      "tests/shim",
      "tests/fixtures",
      "tests/gpu",
      "tests/gpu/compute",
    ].flatMap((folder) => (existsSync(join(root, folder)) ? list(folder, /\.[ch]$/) : []));
    if (Bun.which("clang-format") === null) return skip("clang-format", "not installed");
    note("clang-format", await run(["clang-format", "--dry-run", "-Werror", ...files]));
  },
  async types() {
    note("bun check", await run([bun, "check"]));
  },
  async coverage() {
    await script(runGently, "coverage.sh");
  },
  async shim() {
    const text = `neither "Sources:" nor a script names ${forgotten().join(", ")}`;
    note("every C test is run", { code: forgotten().length, text });
    await each(pureTests(), (test) => compileAndCount(runGently, test, ["-O2"], ""));
  },
  async sanitized() {
    await each(pureTests(), async (test) => {
      const flags = ["-O1", "-fsanitize=address,undefined"];
      await compileAndCount(runGently, test, flags, " (asan, ubsan)");
      if (readFileSync(join(root, test), "utf8").includes("pthread_create"))
        await compileAndCount(runGently, test, ["-O1", "-fsanitize=thread"], " (tsan)");
    });
    await script(runGently, "sim_run.sh", "-fsanitize=address,undefined");
  },
  async memory() {
    await script(runGently, "memory_run.sh");
    await script(runGently, "memory_sanitized.sh");
  },
  async routes() {
    for (const sanitizer of ["", "thread", "address"])
      count(
        `tests/shim/routes.sh ${sanitizer}`,
        await runGently(["bash", "tests/shim/routes.sh"], sanitizer ? { SANITIZE: sanitizer } : {}),
      );
  },
  async aarch64() {
    count("tests/shim/aarch64.sh", await runGently(["bash", "tests/shim/aarch64.sh"]));
  },
  async analysis() {
    const files = [...list("shim", /\.c$/), ...list("shim/supervisor", /\.c$/)];
    // gcc 12 loses pointers that are kept in static tables, hence no malloc-leak.
    const flags = ["-O2", "-fPIC", "-fanalyzer", "-Wno-analyzer-malloc-leak", ...WARNINGS];
    const words = ["cc", "-std=gnu11", ...flags, "-c", "-o", "/dev/null"];
    await each(files, async (file) => {
      const ran = await runGently([...words, file]);
      if (ran.code !== 0) note(`cc -fanalyzer ${file}`, ran);
      else total.passed++;
    });
    console.log(`ok cc -fanalyzer: ${files.length} files looked at`);
  },
};

async function walk(steps: Steps): Promise<void> {
  for (const [name, step] of Object.entries(steps)) {
    if (only !== undefined && only !== name) continue;
    const begun = performance.now();
    await step();
    console.log(`# ${name}: ${((performance.now() - begun) / 1000).toFixed(0)} s`);
  }
}

try {
  await Promise.all([walk(timed), walk(untimed)]);
} finally {
  rmSync(work, { recursive: true, force: true });
}
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
console.log(`${total.passed} passed, ${total.failed} failed${skipped}`);
process.exit(total.failed === 0 ? 0 : 1);
