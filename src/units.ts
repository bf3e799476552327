/** An amount of device memory: bytes, or a percentage of the device that is resolved with NVML. */
export type Size = { bytes: number } | { percent: number };

/** The size pattern, without regular-expression flags so that it can stand in a JSON Schema. */
export const SIZE_PATTERN = /^(?:[nN][oO][nN][eE]|\d+(?:\.\d+)?(?:%|[kKmMgGtT](?:[iI]?[bB])?))$/;
export const SIZE_FORMS = "good forms: 4g, 512m, 1.5g, 4GiB, 4GB (10^9), 50%, none";
export const DURATION_FORMS = "good forms: 20ms, 500us, 0.02s";
export const RATE_FORMS = "good forms: 8g/s, 500m/s, 8GB/s (10^9), none";
export const PERCENT_FORMS = "good forms: 25, 12.5, none; more than 0, at most 100";

const POWERS = { k: 1, m: 2, g: 3, t: 4 } as const;

/**
 * Reads `4g` = `4G` = `4GiB` = 4·1024³, `4GB` = 4·10⁹, `50%`, `none`; case does not matter.
 * Returns null for `none` and undefined for anything else, zero, and percentages above 100.
 */
export function parseSize(text: string): Size | null | undefined {
  if (!SIZE_PATTERN.test(text)) return undefined;
  const lower = text.toLowerCase();
  if (lower === "none") return null;
  const amount = Number.parseFloat(lower);
  const suffix = lower.replace(/^[\d.]+/, "");
  if (suffix === "%") return amount > 0 && amount <= 100 ? { percent: amount } : undefined;
  const power = POWERS[suffix[0] as keyof typeof POWERS];
  const bytes = Math.floor(amount * (/^.b$/.test(suffix) ? 1000 : 1024) ** power);
  return bytes > 0 && Number.isSafeInteger(bytes) ? { bytes } : undefined;
}

/** How to write a size that parseSize does not take. */
export function explainSize(text: string): string {
  if (/^\d+(?:\.\d+)?$/.test(text) && Number(text) > 0) return `add a unit: ${text}g or ${text}m`;
  if (!/^\d+(?:\.\d+)?(?:%|[kmgt](?:i?b)?)?$/i.test(text)) return SIZE_FORMS;
  if (text.endsWith("%")) return "a size is more than 0 and at most 100 %";
  return Number.parseFloat(text) < 1 ? "a size is more than 0" : "a size is at most 8191t";
}

/** Reads a share in percent, 0 < p ≤ 100, decimals allowed, `%` optional; null for `none`, else undefined. */
export function parsePercent(text: string): number | null | undefined {
  if (/^none$/i.test(text)) return null;
  if (!/^\d+(?:\.\d+)?%?$/.test(text)) return undefined;
  const percent = Number.parseFloat(text);
  return percent > 0 && percent <= 100 ? percent : undefined;
}

/** Reads `20ms`, `500us` or `0.02s` into microseconds, rounded; undefined for anything else. */
export function parseDuration(text: string): number | undefined {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(us|ms|s)$/.exec(text.toLowerCase()) ?? [];
  if (amount === undefined || unit === undefined) return undefined;
  return Math.round(Number.parseFloat(amount) * { us: 1, ms: 1e3, s: 1e6 }[unit as "us"]);
}

/** Reads a rate, a size in bytes and `/s`, into bytes per second; null for `none`, undefined for anything else. */
export function parseRate(text: string): number | null | undefined {
  if (/^none$/i.test(text)) return null;
  const size = /\/s$/i.test(text) ? parseSize(text.slice(0, -"/s".length)) : undefined;
  return size && "bytes" in size ? size.bytes : undefined;
}

/** Draws microseconds as the flag is written: `20 ms`, `500 us`. */
export function formatMicroseconds(us: number): string {
  return us >= 1000 ? `${us / 1000} ms` : `${us} us`;
}

/** Draws bytes with the largest binary unit that leaves at least one: 4294967296 → `4 GiB`. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let amount = bytes;
  let unit = 0;
  while (Math.abs(amount) >= 1024 && unit < units.length - 1) {
    amount /= 1024;
    unit++;
  }
  return `${Number(amount.toFixed(2))} ${units[unit]}`;
}

/** Draws a size as the user would read it: `4 GiB`, `50 % of the device`, `no limit` for null. */
export function formatSize(size: Size | null): string {
  if (size === null) return "no limit";
  return "bytes" in size ? formatBytes(size.bytes) : `${size.percent} % of the device`;
}

/** Writes a size in a form that parseSize reads back exactly: `4g`, `1500MB`, `0.5k`, `50%`, `none`. */
export function writeSize(size: Size | null): string {
  if (size === null) return "none";
  if ("percent" in size) return `${size.percent}%`;
  for (const [letter, power] of Object.entries(POWERS).reverse()) {
    if (size.bytes % 1024 ** power === 0) return `${size.bytes / 1024 ** power}${letter}`;
  }
  for (const [letter, power] of Object.entries(POWERS).reverse()) {
    if (size.bytes % 1000 ** power === 0)
      return `${size.bytes / 1000 ** power}${letter.toUpperCase()}B`;
  }
  return `${size.bytes / 1024}k`;
}
