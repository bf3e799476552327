import { afterAll, expect, test } from "bun:test";
import { mkdirSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compileFixture, folder, PLAIN, ROOT, vgpu } from "../vgpu.ts";

const BIN = join(ROOT, "bin/vgpu");
const work = folder();
afterAll(() => work[Symbol.dispose]());

/** A session that holds its limit, with a process that has met its card, until the end of the block. */
async function holder(env: Record<string, string>, mem: string) {
  const program = join(work.path, "devices");
  compileFixture(program);
  const words = [BIN, "run", "--sim", "-q", "--mem", mem, "--", "sh", "-c"];
  const script = `echo $VGPU_REGION; exec ${program} 1024 60`;
  const child = Bun.spawn([...words, script], { env, stdout: "pipe", stderr: "inherit" });
  const reader = child.stdout.getReader();
  let text = "";
  while (!text.includes("refused"))
    text += new TextDecoder().decode((await reader.read()).value ?? new Uint8Array());
  const session = /([0-9a-z]{6})\n/.exec(text)?.[1] ?? "";
  return {
    session,
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.exited;
    },
  };
}

test("limits that come to more than the card: a warning, or with --admit strict a refusal that names the holder", async () => {
  const directory = join(work.path, "machine");
  mkdirSync(directory);
  const env = { ...PLAIN, VGPU_SIM_DIR: directory, VGPU_SIM_CARD: "rtx3080" }; // 10 GiB
  const run = (...flags: string[]) =>
    vgpu(["run", "--sim=rtx3080", ...flags, "--", "echo", "ran"], { env });
  await using first = await holder(env, "100g"); // above the card: it counts as the card's size

  const warned = run("--mem", "4g");
  expect(warned.status).toBe(0);
  expect(warned.stdout).toBe("ran\n");
  expect(warned.stderr).toContain(`session ${first.session} (pid `);
  expect(warned.stderr).toMatch(/^vgpu: the limits on GPU-\S+ come to /m);

  const refused = run("--mem", "4g", "--admit", "strict");
  expect(refused.status).toBe(125);
  expect(refused.stdout).toBe("");
  expect(refused.stderr).toContain(`session ${first.session}`);

  expect(run("--mem", "4g", "-q").stderr).toBe("");
  expect(run().stderr).toBe(""); // nothing promised, nothing to say
  expect(run("--admit", "strict").status).toBe(0);
}, 60_000);

test("of two that start together, each for more than half of the card, --admit strict lets one in", async () => {
  const directory = join(work.path, "together");
  mkdirSync(directory);
  const go = join(directory, "go");
  const env = { ...PLAIN, VGPU_SIM_DIR: directory };
  const words = [BIN, "run", "--sim=rtx3080", "-q", "--mem", "6g", "--admit", "strict", "--"];
  const script = `until [ -e ${go} ]; do sleep 0.02; done`;
  Bun.spawnSync([...words, "true"], { env }); // once: takes seconds
  for (let round = 0; round < 4; round++) {
    const both = [0, 1].map(() =>
      Bun.spawn([...words, "sh", "-c", script], { env, stderr: "pipe" }),
    );
    const first = await Promise.race([...both.map(({ exited }) => exited), Bun.sleep(10_000)]);
    writeFileSync(go, ""); // whatever comes of it, nobody stays
    const ends = await Promise.all(both.map(({ exited }) => exited));
    expect(first).toBe(125);
    expect(ends.toSorted()).toEqual([0, 125]);
    unlinkSync(go);
  }
}, 60_000);

test("--admit takes warn or strict", () => {
  const { status, stderr } = vgpu(["run", "--admit", "maybe", "--", "true"]);
  expect(status).toBe(125);
  expect(stderr).toContain("--admit: 'maybe' is not one of warn, strict");
});
