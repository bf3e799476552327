import type { GpuLimit, Plan, Size, Source } from "../limits.ts";
import { formatGroups } from "../partition.ts";
import { variableOf } from "../setting.ts";
import type { CardPartition } from "../spatial.ts";
import { DIRECTIONS } from "../time-mode.ts";
import { formatBytes, formatMicroseconds, formatSize } from "../units.ts";

/** What `--dry-run` shows: the plan, the profile's files, and the variables that the session would add. */
export interface DryRun {
  plan: Plan;
  profile: { name: string; files: string[] } | null;
  environment: Record<string, string>;
  /** What spatial mode would give now. */
  partitions: CardPartition[];
}

/** The dry run for a reader: every limit with its source, the environment to be set, the argv. */
export function drawDryRun({ plan, profile, environment, partitions }: DryRun): string {
  const source = (name: string): string =>
    drawSource(name, plan.sources[name] ?? "default", profile?.name);
  const rows: [string, string, string][] = [
    ["memory", formatSize(plan.limits.all?.memBytes ?? null), source("mem")],
    ["memory, soft", formatSize(plan.limits.all?.softBytes ?? null), source("mem-soft")],
    ["compute", formatShare(plan.limits.all?.sharePercent ?? null, plan.mode), source("sm")],
    ["compute, burst", formatBurst(plan.limits.all), source("burst")],
  ];
  rows.push(["mode", plan.mode ?? "time, or as the card is used", source("mode")]);
  rows.push(["MPS", plan.mps ?? "auto", source("mps")]);
  const counts = [plan.limits.all, ...plan.limits.gpus.values()].map((limit) => limit?.smCount);
  if (counts.some((count) => count != null))
    rows.push(["SMs asked for", counts.filter((count) => count != null).join(", "), source("sms")]);
  for (const { uuid, sms, split, groups } of partitions)
    rows.push([
      uuid.slice(0, 12),
      `${sms} of ${split.sms} SMs`,
      `groups ${formatGroups(groups)} of 0-${split.groups - 1}, ${split.groupSms} SMs each`,
    ]);
  for (const [key, limit] of plan.limits.gpus) {
    const { memBytes, softBytes, sharePercent } = limit;
    const own = (name: string): string =>
      source(`${name}.${key}` in plan.sources ? `${name}.${key}` : name);
    rows.push([`GPU ${key}: memory`, formatSize(memBytes), own("mem")]);
    if (softBytes != null)
      rows.push([`GPU ${key}: memory, soft`, formatSize(softBytes), own("mem-soft")]);
    rows.push([`GPU ${key}: compute`, formatShare(sharePercent, plan.mode), own("sm")]);
    if (limit.burstPercent != null)
      rows.push([`GPU ${key}: compute, burst`, formatBurst(limit), own("burst")]);
  }
  rows.push(...drawTimeMode(plan, source));
  rows.push(["GPUs", plan.gpu?.join(", ") ?? "all visible", source("gpu")]);
  rows.push(["admission", plan.admit ?? "warn", source("admit")]);
  rows.push(["driver", plan.sim === null ? "real" : `simulated ${plan.sim}`, source("sim")]);
  rows.push([
    "without a GPU",
    plan.requireGpu ? "refuse" : "run, with a warning",
    source("require-gpu"),
  ]);
  rows.push(["events", plan.events.format, source("events")]);
  rows.push(["events file", plan.events.file ?? "none", source("events-file")]);
  if (profile !== null) rows.push(["profile", profile.name, profile.files.join(" extends ")]);
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return [
    ...rows.map(
      ([name, value, from]) =>
        `${name.padEnd(widths[0] ?? 0)}  ${value.padEnd(widths[1] ?? 0)}  ${from}`,
    ),
    "",
    "environment:",
    ...Object.entries(environment).map(([name, value]) => `  ${name}=${value}`),
    "",
    "command:",
    `  ${plan.target.words.map(quoteWord).join(" ")}`,
  ].join("\n");
}

/** The dry run for a program: bytes and percent as numbers, null for no limit. */
export function drawDryRunJson({ plan, profile, environment, partitions }: DryRun): string {
  const limit = (gpu: GpuLimit): Record<string, number | null> => ({
    ...sizeFields("memory", gpu.memBytes),
    ...(gpu.softBytes == null ? {} : sizeFields("soft", gpu.softBytes)),
    share_percent: gpu.sharePercent,
    ...(gpu.smCount == null ? {} : { sm_count: gpu.smCount }),
    ...(gpu.burstPercent == null ? {} : { burst_percent: gpu.burstPercent }),
  });
  return JSON.stringify({
    v: 1,
    limits: {
      all: limit(plan.limits.all ?? { memBytes: null, sharePercent: null }),
      gpus: Object.fromEntries([...plan.limits.gpus].map(([key, gpu]) => [key, limit(gpu)])),
    },
    time: {
      throttle: plan.time.throttle,
      weight: plan.time.weight,
      quantum_us: plan.time.quantumUs,
      dampening: plan.time.dampening,
      classes: plan.time.classes,
      copy_bytes_per_s: plan.time.copyRates,
      gang: plan.time.gang,
    },
    mode: plan.mode ?? null,
    mps: plan.mps ?? "auto",
    partitions: partitions.map(({ uuid, sms, split, groups }) => ({
      gpu: uuid,
      sms,
      sms_total: split.sms,
      group_sms: split.groupSms,
      groups: formatGroups(groups),
    })),
    gpu: plan.gpu,
    admit: plan.admit ?? "warn",
    sim: plan.sim,
    require_gpu: plan.requireGpu,
    events: plan.events,
    profile: profile === null ? null : { name: profile.name, files: profile.files },
    sources: plan.sources,
    environment,
    argv: plan.target.words,
    notes: plan.notes,
  });
}

function drawTimeMode(
  { time, sources }: Plan,
  source: (name: string) => string,
): [string, string, string][] {
  const weightName = sources["weight"] === "default" ? "priority" : "weight";
  const quantum =
    time.quantumUs === null ? "20 ms (4 ms under MPS)" : formatMicroseconds(time.quantumUs);
  const rows: [string, string, string][] = [
    ["throttle", time.throttle, source("throttle")],
    ["weight", `${time.weight}`, source(weightName)],
    ["quantum", quantum, source("quantum")],
    ["dampening", `${time.dampening}`, source("dampening")],
    ["gang", time.gang, source("gang")],
  ];
  for (const direction of DIRECTIONS) {
    const rate = time.copyRates[direction];
    const own = `copy-bw.${direction}` in sources ? `copy-bw.${direction}` : "copy-bw";
    const value = rate === null ? "no limit" : `${formatBytes(rate)}/s`;
    rows.push([`copies, ${direction}`, value, source(own)]);
  }
  for (const [name, weight] of Object.entries(time.classes))
    if (weight !== 1) rows.push([`class ${name}`, `${weight}`, source("classes")]);
  return rows;
}

function sizeFields(name: string, size: Size | null): Record<string, number | null> {
  if (size === null) return { [`${name}_bytes`]: null };
  return "bytes" in size
    ? { [`${name}_bytes`]: size.bytes }
    : { [`${name}_percent`]: size.percent };
}

function formatShare(percent: number | null, mode: Plan["mode"]): string {
  const what = mode === "spatial" ? "of the SMs" : "of GPU time";
  return percent === null ? "no limit" : `${percent} % ${what}`;
}

function formatBurst(limit: GpuLimit | null): string {
  const ceiling = limit?.burstPercent ?? null;
  return ceiling === null ? "none" : `up to ${ceiling} % while nobody else wants the GPU`;
}

function drawSource(name: string, source: Source, profile: string | undefined): string {
  const flag = name.replace(/\..*/, "");
  if (source === "flag") return `flag --${flag}`;
  if (source === "environment") return `environment ${variableOf(flag)}`;
  return source === "profile" ? `profile ${profile}` : "default";
}

/** A word as a POSIX shell needs it, so that the line can be copied. */
function quoteWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
