import type { Command } from "../command.ts";
import { type Plan, resolvePlan } from "../limits.ts";
import { say } from "../report/words.ts";
import { findSetting, lastText, noteUnknown, SIMULATED_CARDS } from "../setting.ts";
import type { Profile } from "../profile.ts";
import type { Split } from "../argv.ts";

/** `vgpu run`: resolves the limits, then makes the session, or shows it where `--dry-run` says so. */
const command: Command = {
  meta: {
    name: "run",
    description:
      "Runs a command, and every process that it starts, under limits on the GPU. Each flag has a variable: VGPU_MEM, VGPU_MEM_SOFT, …",
    usage: "vgpu run [flags] [--] COMMAND [ARGUMENT...]",
    examples: [
      "vgpu run --mem 4g --sm 25 -- python train.py",
      "vgpu run --mem 0=4g,1=8g --events-file events.ndjson -- ./server",
    ],
  },
  args: {
    mem: {
      type: "string",
      valueHint: "SIZE",
      group: "Limits",
      description: "device memory: 4g, 512m, 50%, none; 0=4g,1=8g for single GPUs",
    },
    "mem-soft": {
      type: "string",
      valueHint: "SIZE",
      group: "Limits",
      description: "where memory pressure is told of (events, vgpu.h); nothing is refused",
    },
    admit: {
      type: "string",
      valueHint: "HOW",
      group: "Limits",
      description: "when all sessions' --mem pass the card: warn (default), or strict: refuse",
    },
    sm: {
      type: "string",
      valueHint: "PERCENT",
      group: "Limits",
      description: "share of the GPU's time: 25, 12.5, none; 0=25,1=50 for single GPUs",
    },
    sms: {
      type: "string",
      valueHint: "NUMBER",
      group: "Limits",
      description: "so many SMs of its own (spatial mode): 32; 0=32,1=64 for single GPUs",
    },
    mode: {
      type: "string",
      valueHint: "MODE",
      group: "Limits",
      description: "time: a share of time (default); spatial: SMs of its own; auto: if that can be",
    },
    mps: {
      type: "string",
      valueHint: "WHEN",
      group: "Limits",
      description: "use an MPS server: auto (in spatial mode), on, off",
    },
    gpu: {
      type: "string",
      valueHint: "GPUS",
      group: "Limits",
      description: "GPUs that the command sees: 0, 0,2 (as nvidia-smi numbers them), GPU-1f2e",
    },
    profile: {
      type: "string",
      valueHint: "NAME",
      group: "Limits",
      description: "limits from a profile, by name or path (vgpu profile list)",
    },
    "require-gpu": {
      type: "boolean",
      group: "Limits",
      description: "refuse to run where there is no NVIDIA driver",
    },
    burst: {
      type: "string",
      valueHint: "PERCENT",
      group: "Time sharing",
      description: "ceiling while nobody else wants the GPU: 50, 100, none; 0=50,1=100",
    },
    priority: {
      type: "string",
      valueHint: "LEVEL",
      group: "Time sharing",
      description: "low, normal or high: half, once or twice the weight in the order of turns",
    },
    weight: {
      type: "string",
      valueHint: "NUMBER",
      group: "Time sharing",
      description: "0.1 to 10, in place of --priority's 0.5, 1, 2",
    },
    quantum: {
      type: "string",
      valueHint: "TIME",
      group: "Time sharing",
      description: "length of a turn while others wait: 20ms, 500us (0.5 to 100 ms)",
    },
    throttle: {
      type: "string",
      valueHint: "WHEN",
      group: "Time sharing",
      description: "take turns: adaptive (while others are active), cooperative, strict (never)",
    },
    "copy-bw": {
      type: "string",
      valueHint: "RATE",
      group: "Time sharing",
      description: "bytes copied per second: 8g/s each way; h2d=8g/s,d2h=4g/s,d2d=none",
    },
    dampening: {
      type: "string",
      valueHint: "NUMBER",
      group: "Time sharing",
      description: "part of the measured GPU time that is charged, 0.1 to 10",
    },
    gang: {
      type: "string",
      valueHint: "WHEN",
      group: "Time sharing",
      description: "run the session's GPUs as one: auto, on, off",
    },
    sim: {
      type: "boolean",
      inline: "sim-card",
      group: "Simulated GPU",
      description: "a simulated GPU instead of the real driver; --sim=CARD picks one",
    },
    "sim-card": {
      type: "string",
      valueHint: "CARD",
      group: "Simulated GPU",
      description: "the simulated card: h200 (default), a100, rtx3080, rtx4090",
    },
    events: {
      type: "string",
      valueHint: "FORM",
      group: "Output",
      description: "events on stderr: pretty (on a terminal), json, none",
    },
    "events-file": {
      type: "string",
      valueHint: "FILE",
      group: "Output",
      description: "events as NDJSON to a file, or to a descriptor with fd:N",
    },
    "dry-run": {
      type: "boolean",
      group: "Output",
      description: "show limits, environment and command; start nothing",
    },
    json: { type: "boolean", group: "Output", description: "the summary, or the dry run, as JSON" },
    quiet: { type: "boolean", alias: "q", group: "Output", description: "no notes and no summary" },
    verbose: {
      type: "boolean",
      alias: "v",
      group: "Output",
      description: "every event, and the summary in any case, with each process",
    },
    help: { type: "boolean", alias: "h", group: "Output", description: "this text" },
  },
  words: "target",
  async run(split) {
    const profile = await readProfile(split);
    const plan = resolvePlan(split, process.env, profile);
    plan.notes.unshift(...noteUnknown(process.env, Object.keys(command.args)));
    plan.notes.push(...noteCard(plan));
    if (!plan.report.quiet) plan.notes.forEach(say);
    if (plan.dryRun) {
      const { showDryRun } = await import("../dry-run.ts");
      return showDryRun(plan, profile);
    }
    const { runSession } = await import("../session.ts");
    return runSession(plan);
  },
};

export default command;

/** `--sim a100 true` runs a100: a boolean flag takes its value with `=` only. */
function noteCard({ sim, target: { words } }: Plan): string[] {
  const card = SIMULATED_CARDS.find((one) => one === words[0]);
  if (sim === null || card === undefined || Bun.which(card) !== null) return [];
  return [`${card} is taken for the command; the simulated card is --sim=${card}`];
}

/** The profile that the flag or the variable names. YAML and valibot are loaded only here. */
async function readProfile({ given }: Split): Promise<Profile | null> {
  const found = findSetting("profile", given, process.env);
  if (found === undefined) return null;
  const { loadProfile } = await import("../profile.ts");
  const { profileFolders } = await import("../profile/search.ts");
  return loadProfile(lastText(found), profileFolders(), found.label);
}
