// The checks on a real GPU: native and limited in the same run, one table at the end.
//   bun tests/gpu/main.ts [--part fills,mixes,…] [--out DIR] [--sizes 1,4,20] [--seconds 60] [--sim]
// --paths "graph small,plain" picks the mixes of the part drift.
// Needs a CUDA driver and gcc; some parts nvcc, or python3 with torch, cupy, jax (skipped without); the
// part devices two GPUs. --sim tries the script itself on the simulated GPU: its figures mean nothing.
// Each row: what, asked, got, bar, ok. Exit status 1 if a row misses its bar.
import { existsSync } from "node:fs";
import { build } from "./build.ts";
import { option } from "./flags.ts";
import { isSimulated } from "./options.ts";
import { cost } from "./parts/cost.ts";
import { coverage } from "./parts/coverage.ts";
import { devices } from "./parts/devices.ts";
import { drift } from "./parts/drift.ts";
import { fills } from "./parts/fills.ts";
import { frameworks } from "./parts/frameworks.ts";
import { loadShares } from "./parts/load.ts";
import { memory } from "./parts/memory.ts";
import { mixes } from "./parts/mixes.ts";
import { pair } from "./parts/pair.ts";
import { torchShares } from "./parts/shares.ts";
import { startup } from "./parts/startup.ts";
import { conclude, row } from "./rows.ts";

const parts: Record<string, () => Promise<void>> = {
  memory,
  fills,
  mixes,
  drift,
  frameworks,
  shares: torchShares,
  load: loadShares,
  pair,
  cost,
  startup,
  coverage,
  devices,
};

const asked = option("--part")?.split(",") ?? Object.keys(parts);
const unknown = asked.filter((name) => !Object.hasOwn(parts, name));
if (unknown.length > 0) {
  console.error(`no part ${unknown.join(", ")}; there are ${Object.keys(parts).join(", ")}`);
  process.exit(125);
}
if (!isSimulated && !existsSync("/dev/nvidiactl")) {
  console.log("skipped: no NVIDIA GPU here (--sim tries the script itself)");
  process.exit(0);
}
await build(asked);
for (const [name, part] of Object.entries(parts)) {
  if (!asked.includes(name)) continue;
  const begin = performance.now();
  try {
    await part();
  } catch (error) {
    row(name, "ran to its end", "yes", String(error), "no error", false);
  }
  console.log(`# ${name}: ${((performance.now() - begin) / 1000).toFixed(1)} s`);
}
process.exit(conclude());
