import type { Plan } from "./limits.ts";
import type { Profile } from "./profile.ts";
import { drawDryRun, drawDryRunJson } from "./report/dry-run.ts";
import { print } from "./report/words.ts";

/** `--dry-run`: prints what a session would be made of, starts nothing, returns 0. */
export function showDryRun(plan: Plan, profile: Profile | null): number {
  const dryRun = { plan, profile, environment: describeEnvironment(plan) };
  print(plan.report.json ? drawDryRunJson(dryRun) : drawDryRun(dryRun));
  return 0;
}

/** The variables that the target gets beyond the caller's; what only a start can know stands in angle brackets. */
function describeEnvironment({ env, gpu }: Plan): Record<string, string> {
  const preload = env["LD_PRELOAD"] ?? process.env["LD_PRELOAD"];
  return {
    ...env,
    ...(gpu === null ? {} : { CUDA_VISIBLE_DEVICES: `<UUIDs of ${gpu.join(",")}>` }),
    LD_PRELOAD: preload ? `<shim>:${preload}` : "<shim>",
    VGPU_REGION: "<made at start>",
  };
}
