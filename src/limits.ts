import type { Split } from "./argv.ts";
import { checkBurst } from "./burst.ts";
import { VgpuError } from "./errors.ts";
import { type Entry, type Form, type Layered, layer, parseGpuValues } from "./gpu-value.ts";
import type { Profile } from "./profile.ts";
import * as setting from "./setting.ts";
import { checkMode, COUNT, type Mode, MODES, MPS_USES, type MpsUse } from "./spatial-mode.ts";
import { readTimeMode, type TimeMode } from "./time-mode.ts";
import {
  explainSize,
  parsePercent,
  parseSize,
  PERCENT_FORMS,
  SIZE_FORMS,
  type Size,
} from "./units.ts";

export type { Size } from "./units.ts";
export type Source = "flag" | "environment" | "profile" | "default";

/** The limits of one GPU; null means no limit. */
export interface GpuLimit {
  memBytes: Size | null;
  /** Where pressure is told and nothing is refused. */
  softBytes?: Size | null;
  /** Percent of the GPU's time, or of its SMs; 0 < p ≤ 100. */
  sharePercent: number | null;
  /** SMs of its own, at least 1: spatial mode. */
  smCount?: number | null;
  /** What the session may have, at least its share, while nobody else wants the GPU; null: the share. */
  burstPercent?: number | null;
}

/** What happens when the limits of all sessions on a card come to more than the card. */
export const ADMISSIONS = ["warn", "strict"] as const;

export const EVENT_FORMATS = ["pretty", "json", "none"] as const;

/** All that one `vgpu run` was asked for. Percentages of a device and UUIDs are left to be resolved with NVML. */
export interface Plan {
  limits: {
    /** For each visible GPU that `gpus` does not name; null: none of them is limited. */
    all: GpuLimit | null;
    /** By nvidia-smi's number or "GPU-…" (perhaps only its beginning). Complete: nothing is inherited from `all`. */
    gpus: Map<string, GpuLimit>;
  };
  time: TimeMode;
  /** Absent: time mode, or as the card is used already. */
  mode?: Mode;
  /** Absent: auto. */
  mps?: MpsUse;
  gpu: string[] | null;
  /** The profile's name as it was given; absent: there is none. */
  profile?: string;
  /** Absent: warn. */
  admit?: (typeof ADMISSIONS)[number];
  /** The simulated card's name; null: the real driver. */
  sim: string | null;
  requireGpu: boolean;
  dryRun: boolean;
  /** `file` is a path or `fd:N`; `fileLabel` what an error calls it by. */
  events: {
    format: (typeof EVENT_FORMATS)[number] | "auto";
    file: string | null;
    fileLabel?: string | undefined;
  };
  report: { json: boolean; quiet: boolean; verbose: number };
  /** The profile's additions to the target's environment. */
  env: Record<string, string>;
  target: { words: string[] };
  /** Where each setting comes from (flag names): mem, mem.0, sm, sm.GPU-…, gpu, sim, events, events-file, env.NAME … */
  sources: Record<string, Source>;
  /** One-line warnings, to be printed unless `report.quiet`. */
  notes: string[];
}

const SIZE: Form<Size> = {
  noun: "a size",
  parse: parseSize,
  forms: SIZE_FORMS,
  explain: explainSize,
};
const PERCENT: Form<number> = {
  noun: "a share in percent",
  parse: parsePercent,
  forms: PERCENT_FORMS,
};
const CEILING: Form<number> = { ...PERCENT, noun: "a ceiling in percent" };

/**
 * Flags over environment over profile over default. Pure. Throws VgpuError for a malformed value and
 * for a missing command.
 */
export function resolvePlan(
  split: Split,
  environment: Record<string, string | undefined>,
  profile: Profile | null,
): Plan {
  if (split.words.length === 0) {
    throw new VgpuError("run: no command given", {
      hint: "write vgpu run [flags] -- COMMAND [ARGUMENT...]",
    });
  }
  const sources: Plan["sources"] = {};
  const find: setting.Finder = (name, fallback) => {
    const label = `profile ${profile?.name}`;
    const found =
      setting.findSetting(name, split.given, environment) ??
      (fallback === undefined
        ? undefined
        : { texts: [fallback], label, source: "profile" as const });
    sources[name] = found?.source ?? "default";
    return found;
  };
  const mem = layer("mem", [
    ...profileLimits(profile, "memory"),
    ...readEntries(find("mem"), SIZE),
  ]);
  const soft = layer("mem-soft", [
    ...profileLimits(profile, "soft"),
    ...readEntries(find("mem-soft"), SIZE),
  ]);
  const share = layer("sm", [
    ...profileLimits(profile, "compute"),
    ...readEntries(find("sm"), PERCENT),
  ]);
  const burst = layer("burst", [
    ...profileLimits(profile, "burst"),
    ...readEntries(find("burst"), CEILING),
  ]);
  const count = layer("sms", readEntries(find("sms"), COUNT));
  for (const name of ["mem", "mem-soft", "sm", "burst", "sms"]) sources[name] = "default";
  for (const { sources: own } of [mem, soft, share, burst, count]) Object.assign(sources, own);
  const time = readTimeMode(find, profile, sources);
  const mode = setting.readChoice(find("mode", profile?.compute.mode), MODES) ?? undefined;
  const mps = setting.readChoice(find("mps", profile?.compute.mps), MPS_USES) ?? undefined;
  const limits = joinLimits(mem, soft, share, burst, count);
  checkMode(mode, limits, burst, sources, profile?.name);
  checkBurst(limits, burst, sources, profile?.bursts ?? {});
  for (const name of Object.keys(profile?.env ?? {})) sources[`env.${name}`] = "profile";
  const gpu = setting.readGpus(find("gpu"));
  const eventsFile = find("events-file", profile?.events.file);
  const card = find("sim-card");
  const sim = setting.readSim(find("sim"), card);
  if (sim !== null && sources["sim"] === "default" && card !== undefined)
    sources["sim"] = card.source;
  return {
    limits,
    time,
    ...(mode === undefined ? {} : { mode }),
    ...(mps === undefined ? {} : { mps }),
    gpu,
    ...(profile === null ? {} : { profile: profile.name }),
    admit: setting.readChoice(find("admit"), ADMISSIONS) ?? "warn",
    sim,
    requireGpu: setting.readTruth(find("require-gpu")),
    dryRun: setting.readTruth(find("dry-run")),
    events: {
      format: setting.readChoice(find("events", profile?.events.format), EVENT_FORMATS) ?? "auto",
      file: setting.readEventsFile(eventsFile),
      fileLabel: eventsFile?.source === "profile" ? `${eventsFile.label}: file` : eventsFile?.label,
    },
    report: {
      json: setting.readTruth(find("json")),
      quiet: setting.readTruth(find("quiet")),
      verbose: setting.readLevel(find("verbose")),
    },
    env: { ...profile?.env },
    target: { words: split.words },
    sources,
    notes: [...noteUnseen(gpu, [...limits.gpus.keys()]), ...noteSoft(mem, soft)],
  };
}

/** Each occurrence of `--mem` is a layer of its own, so a later plain value replaces an earlier one. */
function readEntries<T>(found: setting.Setting | undefined, form: Form<T>): Entry<T>[] {
  if (found === undefined) return [];
  return found.texts.flatMap((text) => parseGpuValues(text, found.label, found.source, form));
}

type Quantity = "memory" | "soft" | "compute" | "burst";
function profileLimits(profile: Profile | null, quantity: "memory" | "soft"): Entry<Size>[];
function profileLimits(profile: Profile | null, quantity: "compute" | "burst"): Entry<number>[];
function profileLimits(profile: Profile | null, quantity: Quantity): Entry<Size | number>[] {
  if (profile === null) return [];
  const parts = [["all", profile] as const, ...Object.entries(profile.gpus)];
  return parts.flatMap(([key, { memory, compute }]) => {
    const soft = "soft" in memory ? memory.soft : undefined;
    const { share, burst } = compute;
    const value = { memory: memory.limit, soft, compute: share, burst }[quantity];
    return value === undefined ? [] : [{ key, value, source: "profile" as const }];
  });
}

function joinLimits(
  mem: Layered<Size>,
  soft: Layered<Size>,
  share: Layered<number>,
  burst: Layered<number>,
  count: Layered<number>,
): Plan["limits"] {
  const limitOf = (key: string | null): GpuLimit => {
    const sharePercent = pick(share, key);
    return {
      memBytes: pick(mem, key),
      softBytes: pick(soft, key),
      sharePercent,
      // A plain ceiling is for those GPUs that have a share.
      burstPercent: sharePercent === null ? null : pick(burst, key),
      smCount: pick(count, key),
    };
  };
  const all = limitOf(null);
  const layers: Layered<unknown>[] = [mem, soft, share, burst, count];
  const keys = layers.flatMap(({ keyed }) => [...keyed.keys()]);
  const gpus = new Map(keys.sort().map((key): [string, GpuLimit] => [key, limitOf(key)]));
  const isNone = Object.values(all).every((value) => value === null);
  return { all: isNone ? null : all, gpus };
}

function pick<T>({ all, keyed }: Layered<T>, key: string | null): T | null {
  const own = key === null ? undefined : keyed.get(key);
  return (own === undefined ? all : own) ?? null;
}

/** A soft limit at or above the limit is never reached before it. */
function noteSoft(mem: Layered<Size>, soft: Layered<Size>): string[] {
  const limit = mem.all;
  const wanted = soft.all;
  if (!limit || !wanted || !("bytes" in limit) || !("bytes" in wanted)) return [];
  if (wanted.bytes < limit.bytes) return [];
  return ["the soft limit is not below the limit: it will never be told of before a refusal"];
}

function noteUnseen(gpu: string[] | null, keys: string[]): string[] {
  const isNumber = (key: string): boolean => /^\d/.test(key);
  if (gpu === null || !gpu.every(isNumber)) return [];
  const unseen = new Set(keys.filter((key) => isNumber(key) && !gpu.includes(key)));
  return [...unseen].map((key) => `a limit is given for GPU ${key}, which --gpu leaves out`);
}
