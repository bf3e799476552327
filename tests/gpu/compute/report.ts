import { appendFileSync, readFileSync } from "node:fs";

/** One checked figure. `error`: points off the asked share, for the mean of its group. */
export interface Row {
  group: string;
  what: string;
  asked: string;
  got: string;
  bar: string;
  ok: boolean;
  error?: number;
}

/** Groups of which also the mean error has a bar (points). */
const MEAN_BARS: Record<string, number> = { "one session": 0.5, "several sessions": 0.5 };

export const percent = (value: number): string => `${value.toFixed(2)} %`;
export const ms = (ns: number): string => `${(ns / 1e6).toFixed(2)} ms`;
export const us = (ns: number): string => `${(ns / 1e3).toFixed(1)} µs`;

/** Collects rows, prints each, keeps them as JSON lines so that parts merge. */
export class Report {
  readonly rows: Row[] = [];
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  row(row: Row): void {
    this.rows.push(row);
    appendFileSync(this.#path, `${JSON.stringify(row)}\n`);
    const { group, what, asked, got, bar, ok } = row;
    console.log(
      `${ok ? "ok" : "NOT OK"} ${group}: ${what}: asked ${asked}, got ${got} (bar ${bar})`,
    );
  }

  /** A share of native throughput or of wall time, in percent. */
  share(
    group: string,
    what: string,
    asked: number,
    got: number,
    note: string,
    points: number,
  ): void {
    const error = got - asked;
    const ok = Math.abs(error) <= points;
    const text = `${percent(got)}${note ? ` (${note})` : ""}`;
    this.row({ group, what, asked: `${asked} %`, got: text, bar: `± ${points} points`, ok, error });
  }
}

export function readRows(paths: string[]): Row[] {
  const last = new Map<string, Row>(); // a repeated cell replaces its earlier row
  for (const path of paths)
    for (const line of readFileSync(path, "utf8").split("\n").filter(Boolean)) {
      const row = JSON.parse(line) as Row;
      last.set(`${row.group}: ${row.what}`, row);
    }
  return [...last.values()];
}

/** Mean and worst error of each group that has any; false in `ok` where a bar is missed. */
export function sumUp(rows: Row[]): Row[] {
  const groups = [...new Set(rows.map(({ group }) => group))];
  return groups.flatMap((group): Row[] => {
    const errors = rows.flatMap((row) =>
      row.group === group && row.error !== undefined ? [Math.abs(row.error)] : [],
    );
    if (errors.length === 0) return [];
    const mean = errors.reduce((a, b) => a + b, 0) / errors.length;
    const bar = MEAN_BARS[group];
    const got = `mean ${mean.toFixed(2)}, worst ${Math.max(...errors).toFixed(2)} points`;
    const what = `error over ${errors.length} cells`;
    const ok = bar === undefined || mean <= bar;
    return [{ group, what, asked: "0", got, bar: bar === undefined ? "" : `mean ≤ ${bar}`, ok }];
  });
}

/** For docs/measurements.md. */
export function drawTable(rows: Row[]): string {
  const groups = [...new Set(rows.map(({ group }) => group))];
  const sums = sumUp(rows);
  return groups
    .map((group) => {
      const own = [...rows, ...sums].filter((row) => row.group === group);
      const lines = own.map(
        ({ what, asked, got, bar, ok }) =>
          `| ${what} | ${asked} | ${got} | ${bar} | ${ok ? "✓" : "✗"} |`,
      );
      return [
        `### ${group}`,
        "",
        "| what | asked | got | bar | |",
        "|---|---|---|---|---|",
        ...lines,
      ].join("\n");
    })
    .join("\n\n");
}
