import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { learnContextCosts, parseProbe } from "../src/context-table.ts";
import { folder } from "./vgpu.ts";

const UUID = "GPU-00000000-0000-0000-0000-000000000001";

test("the probe's lines, and nothing else", () => {
  expect(
    parseProbe(`${UUID} 580.159.04 543162368 132 8 15\nnoise\nGPU-x 580 0 1 1 1\n`, ""),
  ).toEqual({
    [`${UUID} 580.159.04`]: [543162368, 132, 8, 15],
  });
  expect(parseProbe(`${UUID} 580 1 2 3 4\n`, "sim h200")).toEqual({
    [`sim h200 ${UUID} 580`]: [1, 2, 3, 4],
  });
});

test("learnt once, then read; another card is learnt apart", async () => {
  using home = folder({
    probe: `#!/bin/sh\necho run >> "$0.runs"\necho ${UUID} 580 77 132 8 15\n`,
  });
  const cache = process.env["XDG_CACHE_HOME"];
  process.env["XDG_CACHE_HOME"] = home.path;
  try {
    const probe = join(home.path, "probe");
    const learn = (domain: string) =>
      learnContextCosts({ command: ["/bin/sh", probe], env: {}, domain });
    const runs = () => readFileSync(`${probe}.runs`, "utf8").trim().split("\n").length;
    expect(await learn("sim a")).toEqual(new Map([[UUID, 77]]));
    expect(await learn("sim a")).toEqual(new Map([[UUID, 77]]));
    expect(runs()).toBe(1);
    await learn("sim b");
    expect(runs()).toBe(2);
    expect(existsSync(join(home.path, "vgpu/contexts.json"))).toBe(true);
    const failing = { command: ["/bin/false"], env: {}, domain: "sim c" };
    expect(await learnContextCosts(failing)).toEqual(new Map());
  } finally {
    if (cache === undefined) delete process.env["XDG_CACHE_HOME"];
    else process.env["XDG_CACHE_HOME"] = cache;
  }
});
