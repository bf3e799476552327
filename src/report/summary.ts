import type { Ending } from "../launch.ts";
import { formatBytes } from "../units.ts";
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
    denials: number;
    sharePercent: number | null;
    gpuNs: number;
    /** GPU time over the time since the first process joined. */
    realisedPercent: number;
    throttledNs: number;
    waits: number;
    /** Null: no soft limit. */
    softBytes: number | null;
    allocations: number;
    /** The fastest growth, in bytes/s averaged over about a second. */
    velocity: number;
  }[];
  /** What each process did on each GPU, those that used most first; at most 64. */
  uses: {
    pid: number;
    name: string;
    uuid: string;
    peakBytes: number;
    allocations: number;
    denials: number;
    velocity: number;
  }[];
}

/** True if limits had an effect: something was denied or held back. */
export function wasEnforced({ gpus, denials }: Summary): boolean {
  return denials > 0 || gpus.some(({ throttledNs }) => throttledNs > 0);
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
      realised_share: gpu.sharePercent === null ? null : Number(gpu.realisedPercent.toFixed(2)),
      gpu_ns: gpu.sharePercent === null ? null : gpu.gpuNs,
      throttled_ns: gpu.throttledNs,
      waits: gpu.waits,
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
    formatBytes(gpu.peakBytes),
    gpu.memLimit === null ? "none" : formatBytes(gpu.memLimit),
    `${gpu.denials}`,
    ...(gpu.sharePercent === null
      ? ["–", "none", "–", "–"]
      : [
          drawPercent(gpu.realisedPercent),
          drawPercent(gpu.sharePercent),
          drawDuration(gpu.gpuNs),
          drawDuration(gpu.throttledNs),
        ]),
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
  return [paint("bold", head), ...(rows.length > 0 ? drawTable([titles, ...rows], paint) : [])];
}
