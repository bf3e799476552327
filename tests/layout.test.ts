import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { folder, ROOT } from "./vgpu.ts";

test("src/layout.gen.ts is what shim/region.h says", () => {
  using work = folder();
  const program = join(work.path, "layout");
  const built = Bun.spawnSync(["cc", "-std=gnu11", join(ROOT, "shim/layout.c"), "-o", program]);
  expect(built.stderr.toString()).toBe("");
  const written = Bun.spawnSync([program]).stdout.toString();
  expect(readFileSync(join(ROOT, "src/layout.gen.ts"), "utf8")).toBe(written);
});
