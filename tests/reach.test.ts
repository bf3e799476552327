import { expect, test } from "bun:test";
import { chmodSync, copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findObstacle } from "../src/reach.ts";
import { folder } from "./vgpu.ts";

test.each([
  ["sudo", "clears LD_PRELOAD"],
  ["/usr/bin/doas", "clears LD_PRELOAD"],
  ["docker", "inside the container"],
])("%s: limits do not reach inside", (word, text) => {
  expect(findObstacle(word)).toContain(text);
});

test.each(["true", "/bin/sh", "nosuchprogram", "/etc/passwd", "/nonexistent/x"])(
  "%s: nothing to say",
  (word) => {
    expect(findObstacle(word)).toBeNull();
  },
);

test("a name longer than any path: nothing to say", () => {
  expect(findObstacle("x".repeat(5000))).toBeNull();
});

test("setuid and static programs are noticed", () => {
  using work = folder({ "main.c": "int main(void) { return 0; }\n" });
  const setuid = join(work.path, "setuid");
  copyFileSync("/bin/true", setuid);
  chmodSync(setuid, 0o4755);
  expect(findObstacle(setuid)).toContain("setuid");

  const plain = join(work.path, "static");
  const { exitCode } = Bun.spawnSync(["cc", "-static", join(work.path, "main.c"), "-o", plain], {
    stderr: "ignore",
  });
  if (exitCode === 0) expect(findObstacle(plain)).toContain("statically linked");
  writeFileSync(join(work.path, "script"), "#!/bin/sh\n");
  expect(findObstacle(join(work.path, "script"))).toBeNull();
});
