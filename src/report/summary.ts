import type { Copies } from "../census.ts";
import type { Ending } from "../launch.ts";
import type { Turns } from "../throttling.ts";
import { formatBytes } from "../units.ts";
import type { ProcessRecord } from "../watch.ts";
import { drawDuration, drawPercent, drawTable, type Paint } from "./drawing.ts";

/** What a session did, for its last words. Bytes, ns, percent; null: no limit. */
export interface Summary {
  session: string;
  durationNs: number;
  ending: Ending;
  processes: number;
  denials: number;
  lostEvents: number;
  gpus: {
    uuid: string;
    memLimit: number | null;
    peakBytes: number;
    /** False: contexts, and what only NVML knows, are missing in `peakBytes`. */
    hasContexts: boolean;
    denials: number;
    sharePercent: number | null;
    burstPercent: number | null;
    /** Its SMs in spatial mode, of how many. */
    partition: { sms: number; smTotal: number } | null;
    gpuNs: number;
    /** GPU time over the time since the first process joined. */
    realisedPercent: number;
    throttledNs: number;
    waits: number;
    launches: number;
    /** Turns with other sessions; those stolen from it; ns waited for one. */
    turns: Turns;
    copies: Copies;
    /** Null: no soft limit. */
    softBytes: number | null;
    allocations: number;
    /** The fastest growth, in bytes/s averaged over about a second. */
    velocity: number;
  }[];
  /** What each process did on each GPU, those that used most first; at most 64. */
  uses: (Omit<ProcessRecord, "device"> & { uuid: string })[];
}

/** True if limits had an effect: something was denied or held back. */
export function wasEnforced({ gpus, denials }: Summary): boolean {
  return denials > 0 || gpus.some(({ throttledNs, copies }) => throttledNs + copies.waitedNs > 0);
}

/** One object, in the names of the event stream. */
export function formatSummaryJson(summary: Summary): string {
  return JSON.stringify({
    v: 1,
    kind: "session.summary",
    session: summary.session,
    duration_ns: summary.durationNs,
    ...summary.ending,
    processes: summary.processes,
    denials: summary.denials,
    lost: summary.lostEvents,
    gpus: summary.gpus.map((gpu) => ({
      gpu: gpu.uuid,
      limit_bytes: gpu.memLimit,
      peak_bytes: gpu.peakBytes,
      denials: gpu.denials,
      share: gpu.sharePercent,
      burst: gpu.burstPercent,
      realised_share: isMeasured(gpu) ? Number(gpu.realisedPercent.toFixed(2)) : null,
      gpu_ns: isMeasured(gpu) ? gpu.gpuNs : null,
      throttled_ns: gpu.throttledNs,
      waits: gpu.waits,
      launches: gpu.launches,
      turns: gpu.turns.turns,
      turns_stolen: gpu.turns.stolen,
      turn_waited_ns: gpu.turns.waitedNs,
      copies: {
        h2d_bytes: gpu.copies.h2dBytes,
        d2h_bytes: gpu.copies.d2hBytes,
        d2d_bytes: gpu.copies.d2dBytes,
        waited_ns: gpu.copies.waitedNs,
        waits: gpu.copies.waits,
      },
      soft_bytes: gpu.softBytes,
      allocations: gpu.allocations,
      velocity_bytes_per_s: Math.round(gpu.velocity),
    })),
    uses: summary.uses.map((use) => ({
      pid: use.pid,
      process: use.name,
      gpu: use.uuid,
      peak_bytes: use.peakBytes,
      allocations: use.allocations,
      denials: use.denials,
      velocity_bytes_per_s: Math.round(use.velocity),
      gpu_ns: use.busyNs,
      throttled_ns: use.throttledNs,
      waits: use.waits,
      launches: use.launches,
    })),
  });
}

/** A line for the session and a table of its GPUs. */
export function formatSummary(summary: Summary, paint: Paint): string[] {
  const { processes, denials, lostEvents } = summary;
  const head = [
    `session ${summary.session}: ${drawDuration(summary.durationNs)}`,
    `${processes} GPU ${processes === 1 ? "process" : "processes"}`,
    `${denials} ${denials === 1 ? "denial" : "denials"}`,
    ...(lostEvents > 0 ? [`${lostEvents} events lost`] : []),
  ].join(", ");
  const rows = summary.gpus.map((gpu) => [
    gpu.uuid.slice(0, "GPU-12345678".length),
    gpu.hasContexts ? formatBytes(gpu.peakBytes) : "–",
    gpu.memLimit === null ? "none" : formatBytes(gpu.memLimit),
    `${gpu.denials}`,
    isMeasured(gpu) ? drawPercent(gpu.realisedPercent) : "–",
    drawLimit(gpu),
    isMeasured(gpu) ? drawDuration(gpu.gpuNs) : "–",
    isMeasured(gpu) ? drawDuration(gpu.throttledNs) : "–",
  ]);
  const titles = [
    "GPU",
    "peak memory",
    "limit",
    "denials",
    "GPU share",
    "limit",
    "GPU time",
    "held back",
  ];
  const table = rows.length > 0 ? drawTable([titles, ...rows], paint) : [];
  return [paint("bold", head), ...table, ...drawTurns(summary), ...drawCopies(summary)];
}

/** Without a share GPU time is measured only while turns are taken. */
const isMeasured = ({ sharePercent, gpuNs }: Summary["gpus"][number]): boolean =>
  sharePercent !== null || gpuNs > 0;

/** The limit on compute: a share of time, or its SMs. */
function drawLimit({ sharePercent, burstPercent, partition }: Summary["gpus"][number]): string {
  const burst = burstPercent === null ? "" : `, burst ${drawPercent(burstPercent)}`;
  if (sharePercent !== null) return `${drawPercent(sharePercent)}${burst}`;
  return partition === null ? "none" : `${partition.sms} of ${partition.smTotal} SMs`;
}

/** What `--mode auto` came to: a line for each GPU. */
export function formatModes({ gpus }: Summary): string[] {
  return gpus.map(({ uuid, partition }) => {
    const mode =
      partition === null ? "time" : `spatial, ${partition.sms} of ${partition.smTotal} SMs`;
    return `mode on ${uuid.slice(0, "GPU-12345678".length)}: ${mode}`;
  });
}

/** A line for each GPU on which turns were taken with other sessions. */
function drawTurns({ gpus }: Summary): string[] {
  return gpus.flatMap(({ uuid, turns: { turns, stolen, waitedNs } }) => {
    if (stolen + waitedNs === 0) return []; // alone: each slice is a turn
    const lost = stolen > 0 ? `, ${stolen} of them taken away` : "";
    return [
      `turns on ${uuid.slice(0, "GPU-12345678".length)}: ${turns}${lost}; waited ${drawDuration(waitedNs)} for them`,
    ];
  });
}

/** A line for each GPU on which copies had to wait. */
function drawCopies({ gpus }: Summary): string[] {
  return gpus.flatMap(({ uuid, copies }) => {
    if (copies.waits === 0) return [];
    const { h2dBytes, d2hBytes, d2dBytes, waitedNs, waits } = copies;
    const ways = [
      `${formatBytes(h2dBytes)} to the GPU`,
      `${formatBytes(d2hBytes)} back`,
      `${formatBytes(d2dBytes)} inside`,
    ].join(", ");
    return [
      `copies on ${uuid.slice(0, "GPU-12345678".length)}: ${ways}; held back ${drawDuration(waitedNs)} in ${waits} waits`,
    ];
  });
}
