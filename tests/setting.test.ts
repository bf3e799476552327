import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { SIMULATED_CARDS } from "../src/setting.ts";
import { ROOT } from "./vgpu.ts";

test("the simulated cards are those of shim/sim/sim_card.c, in its order", () => {
  const source = readFileSync(join(ROOT, "shim/sim/sim_card.c"), "utf8");
  const keys = [...source.matchAll(/\.key = "(\w+)"/g)].map(([, key]) => key);
  expect(keys).toEqual([...SIMULATED_CARDS]);
});
