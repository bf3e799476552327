import { expect, test } from "bun:test";
import { readCause } from "../src/cause.ts";
import { readProcess } from "../src/process.ts";

/** A zombie: a child that nobody waits for, because its parent sleeps. */
async function zombie(script: string): Promise<{ pid: number } & Disposable> {
  const words = ["sh", "-c", `(echo $BASHPID; exec sh -c 'echo $$; ${script}') & exec sleep 30`];
  const parent = Bun.spawn(words, { stdout: "pipe" });
  let text = "";
  for await (const part of parent.stdout) {
    text += new TextDecoder().decode(part);
    if (/\d+\n$/.test(text)) break;
  }
  const pid = Number(text.trim().split("\n").at(-1));
  for (let i = 0; i < 200 && readProcess(pid)?.state !== "Z"; i++) await Bun.sleep(5);
  return { pid, [Symbol.dispose]: () => parent.kill() };
}

test.each([
  ["kill -9 $$", { cause: "killed", signal: "SIGKILL" }],
  ["kill -TERM $$", { cause: "killed", signal: "SIGTERM" }],
  ["exit 3", { cause: "exit", status: 3 }],
])("a zombie of %s", async (script, cause) => {
  using dead = await zombie(script);
  const { startTime } = readProcess(dead.pid)!;
  expect(readCause(dead.pid, startTime)).toEqual(cause as never);
  expect(readCause(dead.pid, startTime + 1n)).toBeNull(); // another process of that pid
});

test("a process that runs, and one that is gone", () => {
  expect(readCause(process.pid, readProcess(process.pid)!.startTime)).toBeNull();
  expect(readCause(2 ** 30, 1n)).toBeNull();
});
