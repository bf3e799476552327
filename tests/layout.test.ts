import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { header, MAGIC } from "../src/layout.gen.ts";
import { folder, ROOT } from "./vgpu.ts";

test("src/layout.gen.ts is what shim/region.h says", () => {
  using work = folder();
  const program = join(work.path, "layout");
  const built = Bun.spawnSync(["cc", "-std=gnu11", join(ROOT, "shim/layout.c"), "-o", program]);
  expect(built.stderr.toString()).toBe("");
  const written = Bun.spawnSync([program]).stdout.toString();
  expect(readFileSync(join(ROOT, "src/layout.gen.ts"), "utf8")).toBe(written);
});

test("what versions must know of each other's sessions stays where it is", () => {
  const { magic, layout_version, session, supervisor_pid, supervisor_start, board_dir } = header;
  expect(MAGIC).toBe(0x6e6f697567707631n);
  expect([magic, layout_version, session]).toEqual([0, 8, 32]);
  expect([supervisor_pid, supervisor_start, board_dir]).toEqual([48, 56, 176]);
  expect(header.mps - board_dir).toBe(160); // the room of board_dir
});
