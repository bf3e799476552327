// Issue 5's figures on a real GPU: every cell of its list, native measured in the same run.
//   bun tests/gpu/compute.ts --part 1/5 --out DIR [--only TEXT]…  a fifth of the cells (about 4 minutes)
//   bun tests/gpu/compute.ts --part nccl --out DIR                the two-GPU cells
//   bun tests/gpu/compute.ts --table FILE...                      Markdown of merged DIR/compute.jsonl
//   … --list                                                      the cells of the part, and their seconds
//   … --sim [--scale 0.2]     against the simulated GPU, windows shortened: tries the script, not the gate
// Needs gcc, nvcc and for some cells python3 with torch. Exit status 1 if a bar is missed.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Bench } from "./compute/bench.ts";
import { type Cell, partOf } from "./compute/cell.ts";
import { costCells } from "./compute/costs.ts";
import { liveCells } from "./compute/live.ts";
import { ncclCells } from "./compute/nccl.ts";
import { pauseCells } from "./compute/pauses.ts";
import { drawTable, readRows, Report, sumUp } from "./compute/report.ts";
import { sessionCells } from "./compute/sessions.ts";
import { shareCells } from "./compute/shares.ts";
import { survivalCells } from "./compute/survival.ts";
import { torchCells } from "./compute/torch.ts";
import { option, options } from "./flags.ts";

const CELLS: Cell[] = [
  ...shareCells,
  ...sessionCells,
  ...pauseCells,
  ...torchCells,
  ...costCells,
  ...liveCells,
  ...survivalCells,
];

function choose(): Cell[] {
  const part = option("--part") ?? "1/1";
  const only = options("--only");
  const [k, n] = part.split("/").map(Number);
  if (part !== "nccl" && !(k! >= 1 && n! >= k!)) {
    console.error(`--part is k/n or nccl, not ${part}`);
    process.exit(2);
  }
  const cells = part === "nccl" ? ncclCells : partOf(CELLS, k!, n!);
  const isWanted = ({ group, what }: Cell): boolean =>
    only.length === 0 || only.some((text) => `${group}: ${what}`.includes(text));
  return cells.filter(isWanted);
}

if (Bun.argv.includes("--table")) {
  const rows = readRows(Bun.argv.slice(Bun.argv.indexOf("--table") + 1));
  console.log(drawTable(rows));
  process.exit([...rows, ...sumUp(rows)].every(({ ok }) => ok) ? 0 : 1);
}

/** Ends a cell that takes far too long; its processes are killed below. */
async function overdue({ seconds }: Cell): Promise<never> {
  await Bun.sleep((2 * seconds + 20) * 1000);
  throw new Error(`not done after ${2 * seconds + 20} s`);
}

const cells = choose();
if (Bun.argv.includes("--list")) {
  for (const { group, what, seconds } of cells) console.log(`${seconds} s  ${group}: ${what}`);
  console.log(`${cells.length} cells, ${cells.reduce((sum, { seconds }) => sum + seconds, 0)} s`);
  process.exit(0);
}
const sim = Bun.argv.includes("--sim");
if (!sim && !existsSync("/dev/nvidiactl")) {
  console.log("skipped: no NVIDIA GPU here (--sim tries the script)");
  process.exit(0);
}
const out = option("--out") ?? join("/tmp", `vgpu-compute-${process.pid}`);
const bench = new Bench(out, sim, Number(option("--scale") ?? 1));
const report = new Report(join(out, "compute.jsonl"));
await bench.build();
for (const cell of cells) {
  const began = performance.now();
  try {
    await Promise.race([cell.run(bench, report), overdue(cell)]);
  } catch (error) {
    const got = String(error).replaceAll("\n", " ").slice(0, 600);
    const { group, what } = cell;
    report.row({ group, what, asked: "ran to its end", got, bar: "no error", ok: false });
  }
  const took = (performance.now() - began) / 1000;
  console.log(`   ${took.toFixed(1)} s of ${cell.seconds}`);
  bench.killAll();
}
const all = [...report.rows, ...sumUp(report.rows)];
for (const { group, what, got, bar, ok } of sumUp(report.rows))
  console.log(`${ok ? "ok" : "NOT OK"} ${group}: ${what}: ${got}${bar ? ` (bar ${bar})` : ""}`);
console.log(
  `${all.filter(({ ok }) => ok).length} passed, ${all.filter(({ ok }) => !ok).length} failed`,
);
process.exit(all.every(({ ok }) => ok) ? 0 : 1);
