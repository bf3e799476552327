import { VgpuError } from "./errors.ts";
import { type Entry, type Form, layer, parseKeyedValues } from "./gpu-value.ts";
import type { Source } from "./limits.ts";
import type { Profile } from "./profile.ts";
import {
  type Finder,
  lastText,
  malformed,
  readChoice,
  readNumber,
  type Setting,
} from "./setting.ts";
import { DURATION_FORMS, parseDuration, parseRate, RATE_FORMS } from "./units.ts";

/** When turns are taken with other sessions: while one is active, always, never. */
export const THROTTLES = ["adaptive", "cooperative", "strict"] as const;
export const GANGS = ["auto", "on", "off"] as const;
/** Kinds of streams, told by hint (shim/include/vgpu.h). */
export const CLASSES = ["default", "attention", "ffn", "copy"] as const;
/** Host to device, device to host, inside and between devices. */
export const DIRECTIONS = ["h2d", "d2h", "d2d"] as const;

/** `--priority` as a factor in the order of turns. */
const PRIORITIES = { low: 0.5, normal: 1, high: 2 } as const;
const WEIGHT = { least: 0.1, most: 10 };
const QUANTUM_US = { least: 500, most: 100_000 };

/** How a session's share of GPU time and its copies are kept; the same on each of its GPUs. */
export interface TimeMode {
  throttle: (typeof THROTTLES)[number];
  /** Factor in the order of turns, 0.1 to 10. */
  weight: number;
  /** Length of a turn while others wait; null: 20 ms, 4 ms under MPS. */
  quantumUs: number | null;
  /** Part of the measured GPU time that is charged, 0.1 to 10. */
  dampening: number;
  /** The weight again, for single classes of streams. */
  classes: Record<(typeof CLASSES)[number], number>;
  /** Bytes per second; null: no limit. */
  copyRates: Record<(typeof DIRECTIONS)[number], number | null>;
  /** Whether the session's GPUs run as one. */
  gang: (typeof GANGS)[number];
}

/** What holds where nobody asked for anything. */
export const UNASKED: TimeMode = {
  throttle: "adaptive",
  weight: 1,
  quantumUs: null,
  dampening: 1,
  classes: { default: 1, attention: 1, ffn: 1, copy: 1 },
  copyRates: { h2d: null, d2h: null, d2d: null },
  gang: "auto",
};

/** The settings of time mode, flags over environment over profile; notes where each comes from in `sources`. Throws VgpuError. */
export function readTimeMode(
  find: Finder,
  profile: Profile | null,
  sources: Record<string, Source>,
): TimeMode {
  const compute = profile?.compute ?? {};
  const copies = readCopyRates(find("copy-bw"), profile);
  Object.assign(sources, copies.sources);
  sources["classes"] = compute.classes === undefined ? "default" : "profile";
  return {
    throttle: readChoice(find("throttle", compute.throttle), THROTTLES) ?? UNASKED.throttle,
    weight: readWeight(
      find("priority", compute.priority),
      find("weight", compute.weight?.toString()),
      sources,
    ),
    quantumUs: readQuantum(find("quantum", compute.quantum)),
    dampening:
      readNumber(find("dampening", compute.dampening?.toString()), WEIGHT) ?? UNASKED.dampening,
    classes: { ...UNASKED.classes, ...compute.classes },
    copyRates: copies.rates,
    gang: readChoice(find("gang", compute.gang), GANGS) ?? UNASKED.gang,
  };
}

/** `--weight` replaces what `--priority` stands for: given in the same place they contradict each other. */
function readWeight(
  priority: Setting | undefined,
  weight: Setting | undefined,
  sources: Record<string, Source>,
): number {
  const named = readChoice(priority, Object.keys(PRIORITIES) as (keyof typeof PRIORITIES)[]);
  const factor = readNumber(weight, WEIGHT);
  if (priority !== undefined && weight !== undefined && priority.source === weight.source) {
    throw new VgpuError(`${priority.label} and ${weight.label} both say how much turns weigh`, {
      hint: "give one: low, normal, high are the weights 0.5, 1, 2",
    });
  }
  if (factor !== null && rank(weight) < rank(priority)) {
    sources["priority"] = "default";
    return factor;
  }
  sources["weight"] = "default";
  return named === null ? UNASKED.weight : PRIORITIES[named];
}

const RANKS: Source[] = ["flag", "environment", "profile", "default"];
const rank = (setting: Setting | undefined) => RANKS.indexOf(setting?.source ?? "default");

/** Microseconds; null: not asked for. */
function readQuantum(setting: Setting | undefined): number | null {
  if (setting === undefined) return null;
  const us = parseDuration(lastText(setting));
  if (us !== undefined && us >= QUANTUM_US.least && us <= QUANTUM_US.most) return us;
  throw malformed(setting, "the length of a turn (0.5 to 100 ms)", DURATION_FORMS);
}

const RATE: Form<number> = { noun: "a rate", parse: parseRate, forms: RATE_FORMS };
const DIRECTION = {
  noun: "a direction of copies",
  parse: (text: string) => DIRECTIONS.find((direction) => direction === text.toLowerCase()),
  forms: "good forms: 8g/s, or h2d=8g/s,d2h=4g/s,d2d=100g/s",
  all: "without a direction",
  name: "",
};

/** Each occurrence of `--copy-bw` is laid over the one before, and over the profile's. */
function readCopyRates(setting: Setting | undefined, profile: Profile | null) {
  const own = profile?.compute.copy_bw;
  const below: Setting[] =
    own === undefined
      ? []
      : [{ texts: [writeCopyRates(own)], label: `profile ${profile?.name}`, source: "profile" }];
  const entries = [...below, ...(setting === undefined ? [] : [setting])].flatMap(
    ({ texts, label, source }): Entry<number>[] =>
      texts.flatMap((text) => parseKeyedValues(text, label, source, RATE, DIRECTION)),
  );
  const { all, keyed, sources } = layer("copy-bw", entries);
  const rate = (direction: (typeof DIRECTIONS)[number]) => {
    const value = keyed.get(direction);
    return (value === undefined ? all : value) ?? null;
  };
  const rates = { h2d: rate("h2d"), d2h: rate("d2h"), d2d: rate("d2d") };
  return { rates, sources: { "copy-bw": "default" as Source, ...sources } };
}

/** A profile's `copy_bw`, text or map, as the flag is written. */
function writeCopyRates(value: NonNullable<Profile["compute"]["copy_bw"]>): string {
  if (typeof value === "string") return value;
  return Object.entries(value)
    .map(([direction, rate]) => `${direction}=${rate}`)
    .join(",");
}
