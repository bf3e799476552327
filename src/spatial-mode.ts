import { VgpuError } from "./errors.ts";
import type { Form, Layered } from "./gpu-value.ts";
import type { GpuLimit, Plan } from "./limits.ts";

/** Shares of GPU time, SMs of one's own, or these where that can be. */
export const MODES = ["time", "spatial", "auto"] as const;
export type Mode = (typeof MODES)[number];

/** Whether an MPS server is used: in spatial mode only, always, never. */
export const MPS_USES = ["auto", "on", "off"] as const;
export type MpsUse = (typeof MPS_USES)[number];

/** A number of SMs. */
export const COUNT: Form<number> = {
  noun: "a number of SMs",
  parse: (text) => {
    if (/^none$/i.test(text)) return null;
    return /^[1-9]\d{0,3}$/.test(text) ? Number(text) : undefined;
  },
  forms: "good forms: 32, none; 0=32,1=64 for single GPUs",
};

/** Refuses what contradicts itself before anything is looked at. Throws VgpuError. */
export function checkMode(
  mode: Mode | undefined,
  { all, gpus }: Plan["limits"],
  burst: Layered<number>,
): void {
  const limits = [all, ...gpus.values()].filter((limit): limit is GpuLimit => limit !== null);
  const hasCount = limits.some(({ smCount }) => smCount != null);
  const both = limits.find(({ smCount, sharePercent }) => smCount != null && sharePercent !== null);
  if (both !== undefined) {
    throw new VgpuError("--sms and --sm both say how much of the GPU", {
      hint: `give one: --sms ${both.smCount}, or --mode spatial --sm ${both.sharePercent}`,
    });
  }
  if (mode === "time" && hasCount) {
    throw new VgpuError("--sms gives SMs of one's own, --mode time shares them all", {
      hint: "write --sm 25 for a share of GPU time, or leave out --mode",
    });
  }
  if (
    mode === "spatial" &&
    !hasCount &&
    limits.every(({ sharePercent }) => sharePercent === null)
  ) {
    throw new VgpuError("--mode spatial: how many SMs?", {
      hint: "write --sm 25 (percent of them) or --sms 32",
    });
  }
  const bursts = [burst.all, ...burst.keyed.values()].some((ceiling) => ceiling != null);
  if (bursts && (mode === "spatial" || hasCount)) {
    throw new VgpuError("--burst is for time mode: a partition has its SMs, and no others", {
      hint: "leave it out, or share time: --sm 25 --burst 100",
    });
  }
}

/** True if the plan can come to SMs of its own whatever others do. */
export function asksForSpatial({ mode, limits: { all, gpus } }: Plan): boolean {
  const hasCount = [all, ...gpus.values()].some((limit) => limit?.smCount != null);
  return mode === "spatial" || mode === "auto" || hasCount;
}
