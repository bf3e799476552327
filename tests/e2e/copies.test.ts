import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { compileFixture, folder, PLAIN, ROOT } from "../vgpu.ts";

const BIN = join(ROOT, "bin/vgpu");
const MIB = 1024 ** 2;
const work = folder();
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  compileFixture(join(work.path, "copy"));
  run([], "true"); // builds what is not built yet
}, 60_000);

/** `vgpu run --sim` on a shell script in which $copy is the program; a machine of its own. */
function run(flags: string[], script: string) {
  const directory = join(work.path, crypto.randomUUID());
  mkdirSync(directory);
  const env = { ...PLAIN, VGPU_SIM_DIR: directory, copy: join(work.path, "copy") };
  const words = [BIN, "run", "--sim", "--json", ...flags, "--", "sh", "-c", script];
  const { exitCode, stdout, stderr } = Bun.spawnSync(words, { env, stdin: "ignore" });
  expect(exitCode).toBe(0);
  const last = stderr.toString().trim().split("\n").at(-1) ?? "";
  const lines = stdout.toString().split("\n").filter(Boolean);
  return {
    rates: lines.map((line) => (JSON.parse(line) as { rate: number }).rate),
    copies: (JSON.parse(last) as { gpus: { copies: Record<string, number> }[] }).gpus[0]?.copies,
  };
}

describe("--copy-bw holds over more than a second", () => {
  test.each(["h2d", "d2h", "d2d", "fill", "unified"])(
    "%s",
    (way) => {
      const { rates, copies } = run(["--copy-bw", "50m/s"], `$copy ${way} 1.5 1`);
      expect(rates[0]! / MIB).toBeWithin(40, 52.5); // less where the machine is busy
      expect(copies!["waits"]).toBeGreaterThan(50);
      expect(copies!["waited_ns"]).toBeGreaterThan(0.5e9);
    },
    { retry: 2 },
  );

  test(
    "two processes share one bucket",
    () => {
      const { rates } = run(["--copy-bw", "50m/s"], "$copy h2d 1.5 1 & $copy h2d 1.5 1; wait");
      expect((rates[0]! + rates[1]!) / MIB).toBeWithin(40, 53.5);
    },
    { retry: 2 },
  );

  test("one direction alone", () => {
    const { rates, copies } = run(["--copy-bw", "h2d=20m/s"], "$copy h2d 1 1; $copy d2h 0.5 1");
    expect(rates[0]! / MIB).toBeLessThan(21);
    expect(rates[1]! / MIB).toBeGreaterThan(100);
    expect(copies).toMatchObject({ d2h_bytes: 0, d2d_bytes: 0 });
  });
});

test("no limit, no account", () => {
  const { copies } = run([], "$copy each");
  const none = { h2d_bytes: 0, d2h_bytes: 0, d2d_bytes: 0, waited_ns: 0, waits: 0 };
  expect(copies).toEqual(none);
});

test("each kind of call counts in its direction, from host to host in none", () => {
  const { copies } = run(["--copy-bw", "100g/s"], "$copy each");
  expect(copies).toMatchObject({ h2d_bytes: 7 * MIB, d2h_bytes: 4 * MIB, d2d_bytes: 12 * MIB });
});

test("copies into a capturing stream are left alone, the graph pays at each launch", () => {
  const { copies } = run(["--copy-bw", "d2d=400m/s"], "$copy graph >/dev/null");
  expect(copies).toMatchObject({ h2d_bytes: 0, d2h_bytes: 0, d2d_bytes: 8 * 16 * MIB });
  expect(copies!["waited_ns"]).toBeWithin(0.1e9, 0.3e9); // seven times 16 MiB, less the credit
});
