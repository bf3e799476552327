import type { Bench } from "./bench.ts";
import type { Report } from "./report.ts";

/** One measurement of the list. Cells of one part run one after the other. */
export interface Cell {
  group: string;
  what: string;
  /** What it takes on a card, its native runs included. */
  seconds: number;
  run(bench: Bench, report: Report): Promise<void>;
}

/** Part k (from 1) of n: longest first, each to the part that has least. The same split in every run. */
export function partOf(cells: Cell[], k: number, n: number): Cell[] {
  const load = Array.from({ length: n }, () => 0);
  const chosen: Cell[] = [];
  for (const cell of cells.toSorted((a, b) => b.seconds - a.seconds)) {
    const least = load.indexOf(Math.min(...load));
    load[least]! += cell.seconds;
    if (least === k - 1) chosen.push(cell);
  }
  return cells.filter((cell) => chosen.includes(cell));
}
