import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { noteUnknown, SIMULATED_CARDS } from "../src/setting.ts";
import { ROOT } from "./vgpu.ts";

test("the simulated cards are those of shim/sim/sim_card.c, in its order", () => {
  const source = readFileSync(join(ROOT, "shim/sim/sim_card.c"), "utf8");
  const keys = [...source.matchAll(/\.key = "(\w+)"/g)].map(([, key]) => key);
  expect(keys).toEqual([...SIMULATED_CARDS]);
});

test("variables that belong to no flag are noted, those that vgpu uses itself are not", () => {
  const internal = {
    VGPU_REGION: "/dev/shm/x",
    VGPU_LAUNCHER: "x",
    VGPU_BOARD: "x",
    VGPU_KEEP_BUN_X: "1",
    VGPU_TEST_AUDIT: "off",
    VGPU_SIM_GPUS: "2",
  };
  const note = (environment: Record<string, string>) => noteUnknown(environment, ["mem", "sm"]);
  expect(note({ ...internal, VGPU_MEM: "4g", VGPU_SM: "5", VGPU_X: "", OTHER: "1" })).toEqual([]);
  expect(note({ VGPU_MEMORY: "4g", VGPU_NONSENSE: "1" })).toEqual([
    "VGPU_MEMORY is no variable of vgpu's (did you mean VGPU_MEM?)",
    "VGPU_NONSENSE is no variable of vgpu's",
  ]);
});
