import { isColored } from "./color.ts";
type Style = "bold" | "dim" | "red" | "yellow" | "green" | "cyan";
const CODES: Record<Style, number> = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 };

/** Puts a style on a text, or leaves it alone where there is no colour. */
export type Paint = (style: Style, text: string) => string;

/** Colour where report/color.ts allows it. */
export function paintFor(fd: number): Paint {
  if (!isColored(fd)) return (_, text) => text;
  return (style, text) => `\x1b[${CODES[style]}m${text}\x1b[0m`;
}

/** Columns padded to their widest cell, two spaces between them; numbers (and what starts like one) to the right. */
export function drawTable(rows: string[][], paint: Paint): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => Bun.stringWidth(row[column] ?? ""))),
  );
  return rows.map((row, index) => {
    const cells = row.map((cell, column) => {
      const space = " ".repeat((widths[column] ?? 0) - Bun.stringWidth(cell));
      const isNumber = /^[\d.–-]/.test(rows.at(-1)?.[column] ?? "");
      return isNumber ? space + cell : cell + space;
    });
    const line = cells.join("  ").trimEnd();
    return index === 0 ? paint("dim", line) : line;
  });
}

/** ns as text that a person reads: `470 µs`, `4.7 ms`, `12 ms`, `3.2 s`, `4 min 07 s`. */
export function drawDuration(ns: number): string {
  const seconds = ns / 1e9;
  if (seconds < 0.001) return `${(ns / 1e3).toFixed(0)} µs`;
  if (seconds < 1) return `${(ns / 1e6).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  return `${minutes} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
}

/** One decimal, two below one percent. */
export const drawPercent = (percent: number): string =>
  `${percent.toFixed(percent > 0 && percent < 1 ? 2 : 1)} %`;
