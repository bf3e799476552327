import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";

/** The checkout that is being tested. */
export const ROOT = join(import.meta.dir, "..");

/** The variables without which not even env finds a command. */
export const PLAIN = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", HOME: "/nonexistent" };

/** Runs bin/vgpu to its end with exactly this environment (PLAIN unless given). */
export function vgpu(
  words: string[],
  options: { env?: Record<string, string>; cwd?: string; bin?: string } = {},
): { status: number; stdout: string; stderr: string } {
  const { env = PLAIN, cwd = "/", bin = join(ROOT, "bin/vgpu") } = options;
  const { exitCode, stdout, stderr } = Bun.spawnSync([bin, ...words], {
    env,
    cwd,
    stdin: "ignore",
  });
  return { status: exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

/** A folder with these files that goes away with the `using` block. */
export function folder(files: Record<string, string> = {}): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "vgpu-test-"));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(path, name)), { recursive: true });
    writeFileSync(join(path, name), text);
  }
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** Compiles tests/fixtures/NAME.c to this path, which ends in NAME. Throws with the compiler's words. */
export function compileFixture(path: string): void {
  const source = join(ROOT, `tests/fixtures/${basename(path)}.c`);
  const words = ["cc", "-std=gnu11", "-O2", "-pthread", source, "-o", path, "-ldl"];
  const { exitCode, stderr } = Bun.spawnSync(words);
  if (exitCode !== 0) throw new Error(stderr.toString());
}
