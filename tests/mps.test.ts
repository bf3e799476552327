import { expect, test } from "bun:test";
import { chmodSync, copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { userId } from "../src/libc.ts";
import { findDaemon } from "../src/mps.ts";
import { folder } from "./vgpu.ts";

const NAME = "nvidia-cuda-mps-control";
const NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/** What is found in a pipe directory whose daemon was started so, while it lives and after. */
async function look(prefix: string[]) {
  using work = folder();
  chmodSync(work.path, 0o755); // the other user's program lies there
  const program = join(work.path, NAME);
  copyFileSync("/bin/sleep", program);
  const child = Bun.spawn([...prefix, program, "60"]);
  const name = () => Bun.file(`/proc/${child.pid}/comm`).text();
  while ((await name()).trim() !== NAME.slice(0, 15)) await Bun.sleep(2);
  writeFileSync(join(work.path, `${NAME}.pid`), `${child.pid}\n`);
  const alive = findDaemon(work.path);
  child.kill();
  await child.exited;
  return { isFound: alive === child.pid, after: findDaemon(work.path) };
}

test("a daemon of our own is found while it lives", async () => {
  expect(await look([])).toEqual({ isFound: true, after: null });
});

test.skipIf(userId() !== 0)("another user's daemon is none for us", async () => {
  expect(await look(NOBODY)).toEqual({ isFound: false, after: null });
});
