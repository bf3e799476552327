import { VgpuError } from "./errors.ts";
import type { Layered } from "./gpu-value.ts";
import type { GpuLimit, Plan } from "./limits.ts";
import type { Profile } from "./profile.ts";
import { labelOf } from "./setting.ts";

/** A ceiling is absolute: it needs a share to rise from, and lies at or above it. Throws VgpuError where it does not. */
export function checkBurst(
  { all, gpus }: Plan["limits"],
  burst: Layered<number>,
  sources: Plan["sources"],
  places: Profile["bursts"],
): void {
  const limits: [string | null, GpuLimit | null][] = [[null, all], ...gpus];
  const label = (key: string | null) => {
    const source = sources[`burst.${key}`] ?? sources["burst"];
    return labelOf("burst", source, places[key ?? "all"] ?? places["all"] ?? "the profile's burst");
  };
  const where = (key: string | null) => (key === null ? "" : ` on GPU ${key}`);
  const isBare = (limit: GpuLimit | null | undefined) => limit?.sharePercent == null;

  const named = [...burst.keyed].find(([key, value]) => value !== null && isBare(gpus.get(key)));
  if (named !== undefined || (burst.all != null && limits.every(([, limit]) => isBare(limit)))) {
    const key = named?.[0] ?? null;
    throw new VgpuError(
      `${label(key)} without a share to rise from${where(key)}: without --sm a session may use the whole GPU already`,
      { hint: "good form: --sm 25 --burst 100" },
    );
  }
  for (const [key, limit] of limits) {
    const { burstPercent: ceiling, sharePercent: share } = limit ?? {};
    if (ceiling == null || share == null || ceiling >= share) continue;
    throw new VgpuError(
      `${label(key)}: ${ceiling}${where(key)} is below the share of ${share}; the ceiling is absolute, in percent of the GPU`,
      { hint: `good forms: --burst ${share}, --burst 100` },
    );
  }
}
