import { VgpuError } from "./errors.ts";
import type { Form, Layered } from "./gpu-value.ts";
import type { GpuLimit, Plan } from "./limits.ts";
import { labelOf } from "./setting.ts";

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
  sources: Plan["sources"],
  profile: string | undefined,
): void {
  const label = (name: string, key = "") =>
    labelOf(
      name,
      sources[`${name}.${key}`] ?? sources[name],
      `profile ${profile}: compute.${name === "sm" ? "share" : name}`,
    );
  const entries = [["", all] as const, ...gpus].filter(
    (entry): entry is [string, GpuLimit] => entry[1] !== null,
  );
  const limits = entries.map(([, limit]) => limit);
  const counted = entries.find(([, { smCount }]) => smCount != null);
  const hasCount = counted !== undefined;
  const both = entries.find(([, limit]) => limit.smCount != null && limit.sharePercent !== null);
  if (both !== undefined) {
    const [key, { smCount, sharePercent }] = both;
    const named = `${label("sms", key)} and ${label("sm", key)}`;
    throw new VgpuError(`${named} both say how much of the GPU`, {
      hint: `give one: --sms ${smCount}, or --mode spatial --sm ${sharePercent}`,
    });
  }
  if (mode === "time" && hasCount) {
    const named = label("sms", counted[0]);
    throw new VgpuError(`${named} gives SMs of one's own, ${label("mode")} time shares them all`, {
      hint: "write --sm 25 for a share of GPU time, or leave out --mode",
    });
  }
  if (
    mode === "spatial" &&
    !hasCount &&
    limits.every(({ sharePercent }) => sharePercent === null)
  ) {
    throw new VgpuError(`${label("mode")} spatial: how many SMs?`, {
      hint: "write --sm 25 (percent of them) or --sms 32",
    });
  }
  const bursts = [["", burst.all] as const, ...burst.keyed];
  const ceiling = bursts.find(([, percent]) => percent != null);
  if (ceiling !== undefined && (mode === "spatial" || hasCount)) {
    const named = label("burst", ceiling[0]);
    throw new VgpuError(`${named} is for time mode: a partition has its SMs, and no others`, {
      hint: "leave it out, or share time: --sm 25 --burst 100",
    });
  }
}

/** True if the plan can come to SMs of its own whatever others do. */
export function asksForSpatial({ mode, limits: { all, gpus } }: Plan): boolean {
  const hasCount = [all, ...gpus.values()].some((limit) => limit?.smCount != null);
  return mode === "spatial" || mode === "auto" || hasCount;
}
