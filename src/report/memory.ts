import { formatBytes } from "../units.ts";
import { drawTable, type Paint } from "./drawing.ts";
import type { Summary } from "./summary.ts";

/** What the summary's table leaves out: a soft limit where there is one, who used what where that tells who was denied; all of it for `-v`. */
export function formatMemory(summary: Summary, paint: Paint, isVerbose: boolean): string[] {
  const { gpus, uses, denials } = summary;
  const lines = gpus.flatMap((gpu) => {
    const words = [
      ...(gpu.softBytes === null ? [] : [describeSoft(gpu.softBytes, gpu.peakBytes)]),
      ...(isVerbose ? [describeGrowth(gpu)] : []),
    ];
    return words.length === 0 ? [] : [`memory on ${shorten(gpu.uuid)}: ${words.join("; ")}`];
  });
  const isTelling = isVerbose || (denials > 0 && uses.length > 1);
  if (!isTelling || uses.length === 0) return lines;
  const titles = ["process", "GPU", "peak memory", "allocations", "denials", "fastest growth"];
  const rows = uses.map(({ name, pid, uuid, peakBytes, allocations, denials: own, velocity }) => [
    `${name}[${pid}]`,
    shorten(uuid),
    formatBytes(peakBytes),
    `${allocations}`,
    `${own}`,
    drawRate(velocity),
  ]);
  return [...lines, ...drawTable([titles, ...rows], paint)];
}

const countAllocations = (count: number) => `${count} allocation${count === 1 ? "" : "s"}`;
const shorten = (uuid: string) => uuid.slice(0, "GPU-12345678".length);
/** A program that is gone before the first look at it has grown without being measured. */
const drawRate = (velocity: number) =>
  velocity === 0 ? "–" : `${formatBytes(Math.round(velocity))}/s`;
const describeGrowth = ({ allocations, velocity }: Summary["gpus"][number]) =>
  countAllocations(allocations) + (velocity === 0 ? "" : `, at most ${drawRate(velocity)}`);
const describeSoft = (softBytes: number, peakBytes: number) =>
  `soft limit ${formatBytes(softBytes)}, ${peakBytes > softBytes ? "passed" : "kept"}`;
