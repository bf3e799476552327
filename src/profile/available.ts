import { VgpuError } from "../errors.ts";
import type { Profile } from "../profile.ts";

// Values that ask for nothing beyond what this version does anyway.
const HARMLESS: Record<string, string> = { "compute.mode": "time", "compute.priority": "normal" };
const ENFORCED = new Set(["memory.limit", "memory.soft", "compute.share"]);

/** The keys that are valid but that this version cannot enforce, such as `compute.burst` or `gpus.0.memory.soft`. */
export function listUnavailable(profile: Profile): string[] {
  const parts = [
    ["", profile] as const,
    ...Object.entries(profile.gpus).map(([key, gpu]) => [`gpus.${key}.`, gpu] as const),
  ];
  return parts.flatMap(([prefix, { memory, compute }]) => {
    const named = Object.entries({ memory, compute }).flatMap(([group, keys]) =>
      Object.entries(keys).map(([key, value]) => [`${group}.${key}`, value] as const),
    );
    return named
      .filter(([path, value]) => !ENFORCED.has(path) && HARMLESS[path] !== value)
      .map(([path]) => `${prefix}${path}`);
  });
}

/** Throws VgpuError when the profile asks for a limit that would silently not be enforced. */
export function refuseUnavailable(profile: Profile): void {
  const keys = listUnavailable(profile);
  if (keys.length === 0) return;
  throw new VgpuError(
    `profile ${profile.name}: ${keys.join(", ")} is not available in this version of vgpu`,
    {
      hint: `remove it from ${profile.files.join(" or ")}`,
    },
  );
}
