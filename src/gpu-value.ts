import { quote, VgpuError } from "./errors.ts";
import type { Source } from "./limits.ts";

/** One value for one key (a GPU by nvidia-smi's number or UUID, a direction of copies) or, with key `all`, for each. null: no limit. */
export interface Entry<T> {
  key: string;
  value: T | null;
  source: Source;
}

/** What a quantity (memory or share) comes to once every layer has been laid over the one below. */
export interface Layered<T> {
  /** undefined: nobody named a value for all GPUs. */
  all: T | null | undefined;
  keyed: Map<string, T | null>;
  sources: Record<string, Source>;
}

/** How one quantity is written: its parser (undefined: malformed) and the good forms. */
export interface Form<T> {
  noun: string;
  parse(text: string): T | null | undefined;
  forms: string;
  /** What to write in place of a malformed text; absent: the good forms. */
  explain?(text: string): string;
}

/** nvidia-smi's number without leading zeros, or a GPU UUID (or its beginning) in NVML's spelling; else undefined. */
export function parseGpuKey(text: string): string | undefined {
  if (/^\d{1,4}$/.test(text)) return String(Number.parseInt(text, 10));
  return /^GPU-[0-9a-f][0-9a-f-]*$/i.test(text) ? `GPU-${text.slice(4).toLowerCase()}` : undefined;
}

/** What may stand before the `=` of a value: GPUs, or something else that there are several of. */
export interface Keys {
  noun: string;
  parse(text: string): string | undefined;
  forms: string;
  /** Two values "without a GPU number". */
  all: string;
  /** "GPU " 0 twice. */
  name: string;
}

const GPUS: Keys = {
  noun: "a GPU",
  parse: parseGpuKey,
  forms: "good forms: 0=VALUE, GPU-1f2e=VALUE (numbers as nvidia-smi shows them)",
  all: "without a GPU number",
  name: "GPU ",
};

/** Reads `4g` or `0=4g,GPU-1f2e=8g`. `label` is the flag or variable that errors name. */
export function parseGpuValues<T>(
  text: string,
  label: string,
  source: Source,
  form: Form<T>,
): Entry<T>[] {
  return parseKeyedValues(text, label, source, form, GPUS);
}

/** The same with other keys. The value for all comes first: the others are exceptions to it, in whatever order they stand. */
export function parseKeyedValues<T>(
  text: string,
  label: string,
  source: Source,
  form: Form<T>,
  keys: Keys,
): Entry<T>[] {
  const seen = new Set<string>();
  const entries = text.split(",").map((part) => {
    const equals = part.indexOf("=");
    const key = equals < 0 ? "all" : keys.parse(part.slice(0, equals).trim());
    if (key === undefined) {
      throw new VgpuError(`${label}: ${quote(part.slice(0, equals))} is not ${keys.noun}`, {
        hint: keys.forms,
      });
    }
    if (seen.has(key)) {
      const twice = key === "all" ? `two values ${keys.all}` : `${keys.name}${key} twice`;
      throw new VgpuError(`${label}: ${quote(text)} names ${twice}`);
    }
    seen.add(key);
    const word = part.slice(equals + 1).trim();
    const value = form.parse(word);
    if (value === undefined) {
      throw new VgpuError(`${label}: ${quote(word)} is not ${form.noun}`, {
        hint: form.explain?.(word) ?? form.forms,
      });
    }
    return { key, value, source };
  });
  const isForAll = ({ key }: Entry<T>) => Number(key === "all");
  return entries.toSorted((left, right) => isForAll(right) - isForAll(left));
}

/**
 * Lays entries over each other, lowest precedence first. A value for all GPUs replaces everything below
 * it; a value for one GPU replaces only that GPU's. `name` prefixes the keys of `sources`: mem, mem.0.
 */
export function layer<T>(name: string, entries: Entry<T>[]): Layered<T> {
  const layered: Layered<T> = { all: undefined, keyed: new Map(), sources: {} };
  for (const { key, value, source } of entries) {
    if (key === "all") {
      layered.all = value;
      layered.keyed.clear();
      layered.sources = { [name]: source };
    } else {
      layered.keyed.set(key, value);
      layered.sources[`${name}.${key}`] = source;
    }
  }
  return layered;
}
