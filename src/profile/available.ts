import { VgpuError } from "../errors.ts";
import type { Profile } from "../profile.ts";

/** By key, the only value that this version knows. */
const KNOWN: Record<string, string> = { "compute.mode": "time" };

/** The keys that are valid but that this version cannot enforce, such as `compute.mode`. */
export function listUnavailable(profile: Profile): string[] {
  return Object.entries(profile.compute)
    .map(([key, value]) => [`compute.${key}`, value] as const)
    .filter(([path, value]) => path in KNOWN && KNOWN[path] !== value)
    .map(([path]) => path);
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
