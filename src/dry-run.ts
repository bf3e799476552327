import type { Plan } from "./limits.ts";
import type { Profile } from "./profile.ts";
import { drawDryRun, drawDryRunJson } from "./report/dry-run.ts";
import { print, say } from "./report/words.ts";
import type { Arrangement } from "./spatial.ts";
import { asksForSpatial } from "./spatial-mode.ts";

/** `--dry-run`: prints what a session would be made of, starts nothing, returns 0. */
export async function showDryRun(plan: Plan, profile: Profile | null): Promise<number> {
  const { partitions, notes } = await survey(plan);
  if (!plan.report.quiet) notes.forEach(say);
  const dryRun = { plan, profile, environment: describeEnvironment(plan), partitions };
  print(plan.report.json ? drawDryRunJson(dryRun) : drawDryRun(dryRun));
  return 0;
}

/** The SMs that a start would get now. The driver is asked only where the plan may mean any. */
async function survey(plan: Plan): Promise<Arrangement> {
  if (!asksForSpatial(plan)) return { partitions: [], notes: [] };
  return (await import("./session.ts")).surveySession(plan);
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
