import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { out } from "./options.ts";

interface Row {
  part: string;
  what: string;
  asked: string;
  got: string;
  bar: string;
  ok: boolean;
}

const rows: Row[] = [];
const skips: string[] = [];

/** Notes what was asked, got and demanded; printed and written at once, so that a visit cut short loses nothing. */
export function row(
  part: string,
  what: string,
  asked: string,
  got: string,
  bar: string,
  ok: boolean,
): void {
  rows.push({ part, what, asked, got, bar, ok });
  console.log(`${ok ? "ok" : "NOT OK"} ${part}: ${what}: asked ${asked}, got ${got} (bar ${bar})`);
  write();
}

/** Notes what could not be looked at here, and why. */
export function skip(part: string, what: string, why: string): void {
  skips.push(`${part}: ${what}: ${why}`);
  console.log(`skipped ${part}: ${what}: ${why}`);
  write();
}

/** Prints the sums; returns the exit status. */
export function conclude(): number {
  const failed = rows.filter(({ ok }) => !ok).length;
  console.log(`${rows.length - failed} passed, ${failed} failed, ${skips.length} skipped`);
  return failed === 0 ? 0 : 1;
}

function write(): void {
  const table = [
    "| part | what | asked | got | bar | |",
    "|---|---|---|---|---|---|",
    ...rows.map(
      (r) => `| ${r.part} | ${r.what} | ${r.asked} | ${r.got} | ${r.bar} | ${r.ok ? "✓" : "✗"} |`,
    ),
    "",
    ...skips.map((line) => `- skipped: ${line}`),
  ];
  writeFileSync(join(out, "table.md"), `${table.join("\n")}\n`);
  writeFileSync(join(out, "rows.json"), JSON.stringify(rows, null, 1));
}
