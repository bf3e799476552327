import type { Split } from "./argv.ts";
import { quote, VgpuError } from "./errors.ts";
import { parseGpuKey } from "./gpu-value.ts";
import type { Source } from "./limits.ts";
import { didYouMean } from "./nearest.ts";

/** What a setting was given as: every text in order, and the flag, variable or profile to name in errors. */
export interface Setting {
  texts: string[];
  label: string;
  source: Source;
}

/** Finds a setting by its flag's name; `fallback` is what the profile says. */
export type Finder = (name: string, fallback?: string) => Setting | undefined;

/** The environment variable of a flag: `events-file` → `VGPU_EVENTS_FILE`. */
export function variableOf(flag: string): string {
  return `VGPU_${flag.toUpperCase().replaceAll("-", "_")}`;
}

/** What an error names: the flag, its variable, or the profile as `profile` puts it. */
export function labelOf(flag: string, source: Source | undefined, profile: string): string {
  if (source === "profile") return profile;
  return source === "environment" ? variableOf(flag) : `--${flag}`;
}

/** A flag's values, else its variable's; an empty variable counts as not set. */
export function findSetting(
  name: string,
  given: Split["given"],
  environment: Record<string, string | undefined>,
): Setting | undefined {
  const texts = given.get(name);
  if (texts !== undefined) return { texts, label: `--${name}`, source: "flag" };
  const text = environment[variableOf(name)];
  if (text === undefined || text === "") return undefined;
  return { texts: [text], label: variableOf(name), source: "environment" };
}

/** Variables that vgpu, its launcher, its tests and the simulated GPU use beside those of the flags. */
const INTERNAL = /^VGPU_(?:REGION|LAUNCHER|BOARD|(?:KEEP|TEST|SIM)_\w+)$/;

/** One line for each `VGPU_` variable that is set and belongs to no flag: it would mean no limit without a word. */
export function noteUnknown(
  environment: Record<string, string | undefined>,
  flags: string[],
): string[] {
  const known = flags.map(variableOf);
  return Object.keys(environment)
    .filter((name) => name.startsWith("VGPU_") && environment[name] !== "")
    .filter((name) => !INTERNAL.test(name) && !known.includes(name))
    .map((name) => `${name} is no variable of vgpu's${didYouMean(name, known)}`);
}

/** The value that counts where a setting is not laid over others: the last one given. */
export function lastText(setting: Setting): string {
  return setting.texts.at(-1) ?? "";
}

/** true or false for 1/0, true/false, yes/no, on/off; undefined for other text. */
export function parseTruth(text: string): boolean | undefined {
  if (/^(?:1|true|yes|on)$/i.test(text)) return true;
  return /^(?:0|false|no|off)$/i.test(text) ? false : undefined;
}

/** A boolean setting; false when it was not given. */
export function readTruth(setting: Setting | undefined): boolean {
  if (setting === undefined) return false;
  const truth = parseTruth(lastText(setting));
  if (truth !== undefined) return truth;
  throw malformed(setting, "yes or no", "good forms: 1, 0");
}

/** How often `-v` was given, or the number in VGPU_VERBOSE. */
export function readLevel(setting: Setting | undefined): number {
  if (setting === undefined) return 0;
  if (setting.source === "flag") return setting.texts.filter((text) => text === "true").length;
  if (/^\d$/.test(lastText(setting))) return Number(lastText(setting));
  return readTruth(setting) ? 1 : 0;
}

/** One of the choices, lower case; null when the setting was not given. */
export function readChoice<T extends string>(
  setting: Setting | undefined,
  choices: readonly T[],
): T | null {
  if (setting === undefined) return null;
  const typed = lastText(setting).toLowerCase();
  const choice = choices.find((candidate) => candidate === typed);
  if (choice !== undefined) return choice;
  const guess = didYouMean(typed, choices);
  throw malformed(setting, `one of ${choices.join(", ")}${guess}`);
}

/** A decimal number within bounds; null when the setting was not given. */
export function readNumber(
  setting: Setting | undefined,
  { least, most }: { least: number; most: number },
): number | null {
  if (setting === undefined) return null;
  const text = lastText(setting);
  const number = /^\d+(?:\.\d+)?$/.test(text) ? Number.parseFloat(text) : Number.NaN;
  if (number >= least && number <= most) return number;
  throw malformed(setting, `a number from ${least} to ${most}`, "good forms: 0.5, 1, 2");
}

/** The GPUs of `--gpu 0,2` or `--gpu GPU-1f2e…`, each once; null when the setting was not given. */
export function readGpus(setting: Setting | undefined): string[] | null {
  if (setting === undefined) return null;
  const keys = lastText(setting)
    .split(",")
    .map((part) => parseGpuKey(part.trim()));
  const known = keys.filter((key) => key !== undefined);
  if (known.length === keys.length) return [...new Set(known)];
  throw malformed(
    setting,
    "a list of GPUs",
    "good forms: 0, 0,2, GPU-1f2e (numbers as nvidia-smi shows them)",
  );
}

/** A path, or `fd:N` with a descriptor number; null when the setting was not given. */
export function readEventsFile(setting: Setting | undefined): string | null {
  if (setting === undefined) return null;
  const text = lastText(setting);
  if (!text.startsWith("fd:") || /^fd:\d{1,6}$/.test(text)) return text;
  throw malformed(
    setting,
    "a file or a descriptor",
    "good forms: events.ndjson, fd:3, ./fd:x for a file of that name",
  );
}

/** Those of shim/sim/sim_card.c, the usual one first. */
export const SIMULATED_CARDS = ["h200", "a100", "rtx3080", "rtx4090"] as const;

/** The simulated card's name, or null for the real driver. `--sim-card` alone implies `--sim`; its variable does not. */
export function readSim(sim: Setting | undefined, card: Setting | undefined): string | null {
  const named = sim?.source === "environment" && parseTruth(lastText(sim)) === undefined;
  const wanted = named || (sim === undefined ? card?.source === "flag" : readTruth(sim));
  if (!wanted) return null;
  if (card === undefined && named) return readChoice(sim, [...SIMULATED_CARDS, "1", "0"]);
  return readChoice(card, SIMULATED_CARDS) ?? SIMULATED_CARDS[0];
}

/** The error for a value that is not what it should be. */
export function malformed(setting: Setting, noun: string, hint?: string): VgpuError {
  return new VgpuError(`${setting.label}: ${quote(lastText(setting))} is not ${noun}`, { hint });
}
