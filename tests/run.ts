// Every check that needs no GPU, in order; ends with one line that sums all runners.
//   bun tests/run.ts [--only NAME]     names: format types generated bun shim sanitized simulator routes aarch64 analysis
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

const root = join(import.meta.dir, "..");
const bun = process.execPath;
const work = mkdtempSync(join(tmpdir(), "vgpu-tests-"));
const only = Bun.argv.indexOf("--only") < 0 ? undefined : Bun.argv[Bun.argv.indexOf("--only") + 1];
const WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"];
const total = { passed: 0, failed: 0 };

interface Ran {
  code: number;
  text: string;
}

async function run(words: string[], env: Record<string, string> = {}): Promise<Ran> {
  const child = Bun.spawn(words, {
    cwd: root,
    env: { ...process.env, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, text: `${stdout}${stderr}` };
}

/** One check that passes or fails as a whole. */
function note(name: string, { code, text }: Ran): void {
  if (code === 0) total.passed++;
  else total.failed++;
  console.log(`${code === 0 ? "ok" : "not ok"} ${name}`);
  if (code !== 0) console.log(text.split("\n").slice(-40).join("\n"));
}

/** A runner that prints "ok NAME" and "not ok NAME" lines; ends badly without one. */
function count(name: string, { code, text }: Ran): void {
  const passed = text.match(/^ok /gm)?.length ?? 0;
  const failed = text.match(/^not ok /gm)?.length ?? 0;
  const broken = (code !== 0 && failed === 0) || passed + failed === 0;
  total.passed += passed;
  total.failed += failed + (broken ? 1 : 0);
  console.log(`${code === 0 && !broken ? "ok" : "not ok"} ${name}: ${passed} passed, ${failed} failed`);
  if (code !== 0 || broken) console.log(text.split("\n").slice(-40).join("\n"));
}

const list = (folder: string, pattern: RegExp): string[] =>
  readdirSync(join(root, folder))
    .filter((name) => pattern.test(name))
    .map((name) => join(folder, name));

/** "Sources: shim/a.c, shim/b.c" in a C test's first comment says what it is compiled with. */
function sourcesOf(test: string): string[] {
  const found = /Sources?: ([^*]*?)(?:\.\s|\*\/)/.exec(readFileSync(join(root, test), "utf8"));
  return (found?.[1] ?? "").split(/[\s,]+/).filter((word) => word.endsWith(".c"));
}

async function compileAndCount(test: string, flags: string[], label: string): Promise<void> {
  const binary = join(work, `${basename(test, ".c")}${label}`);
  const words = ["cc", "-std=gnu11", "-g", ...flags, ...WARNINGS, "-pthread", test];
  const built = await run([...words, ...sourcesOf(test), "-o", binary, "-ldl"]);
  if (built.code !== 0) return note(`${test}${label} compiles`, built);
  count(`${test}${label}`, await run([binary]));
}

const pureTests = (): string[] => list("tests/shim", /\.c$/).filter((test) => sourcesOf(test).length > 0);

const steps: Record<string, () => Promise<void>> = {
  async format() {
    note("bun fmt --check", await run([bun, "fmt", "--check"]));
    const files = ["shim", "shim/sim", "tests/shim", "tests/fixtures", "tests/gpu"].flatMap((folder) =>
      existsSync(join(root, folder)) ? list(folder, /\.[ch]$/) : [],
    );
    note("clang-format", await run(["clang-format", "--dry-run", "-Werror", ...files]));
  },
  async types() {
    note("bun check", await run([bun, "check"]));
  },
  async bun() {
    const { code, text } = await run([bun, "test"]);
    const passed = Number(/^\s*(\d+) pass$/m.exec(text)?.[1] ?? 0);
    const failed = Number(/^\s*(\d+) fail$/m.exec(text)?.[1] ?? 0);
    total.passed += passed;
    total.failed += failed || (code === 0 && passed > 0 ? 0 : 1);
    console.log(`${code === 0 ? "ok" : "not ok"} bun test: ${passed} passed, ${failed} failed`);
    if (code !== 0) console.log(text.split("\n").filter((line) => !line.startsWith("(pass)")).slice(-150).join("\n"));
  },
  async shim() {
    for (const test of pureTests()) await compileAndCount(test, ["-O2"], "");
  },
  async sanitized() {
    for (const test of pureTests()) {
      await compileAndCount(test, ["-O1", "-fsanitize=address,undefined"], " (asan, ubsan)");
      if (readFileSync(join(root, test), "utf8").includes("pthread_create"))
        await compileAndCount(test, ["-O1", "-fsanitize=thread"], " (tsan)");
    }
  },
  async simulator() {
    if (existsSync(join(root, "tests/shim/simulator.sh")))
      count("tests/shim/simulator.sh", await run(["bash", "tests/shim/simulator.sh"]));
  },
  async routes() {
    count("tests/shim/routes.sh", await run(["bash", "tests/shim/routes.sh"]));
  },
  async aarch64() {
    count("tests/shim/aarch64.sh", await run(["bash", "tests/shim/aarch64.sh"]));
  },
  async analysis() {
    const files = list("shim", /\.c$/);
    const flags = ["-std=gnu11", "-O2", "-fPIC", "-fanalyzer", ...WARNINGS, "-c", "-o", "/dev/null"];
    for (const file of files) {
      const ran = await run(["cc", ...flags, file]);
      if (ran.code !== 0) note(`cc -fanalyzer ${file}`, ran);
      else total.passed++;
    }
    console.log(`ok cc -fanalyzer: ${files.length} files looked at`);
  },
};

try {
  for (const [name, step] of Object.entries(steps)) {
    if (only !== undefined && only !== name) continue;
    console.log(`# ${name}`);
    await step();
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(`${total.passed} passed, ${total.failed} failed`);
process.exit(total.failed === 0 ? 0 : 1);
