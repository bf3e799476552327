import type { Flag, Flags } from "./command.ts";
import { quote, VgpuError } from "./errors.ts";
import { didYouMean } from "./nearest.ts";

/** Our flags, each with every value it was given in order (`"true"`/`"false"` for booleans), and the words after them. */
export interface Split {
  given: Map<string, string[]>;
  words: string[];
}

const BEFORE_COMMAND = "vgpu's flags come before the command, the command's own after it";

/** One option: `--mem=4g` is name mem, typed `--mem`, inline `4g`. */
interface Option {
  name: string;
  typed: string;
  inline: string | undefined;
}

/**
 * Splits a command line where our flags end: at the first word that is not ours, or after one `--`.
 * What follows is never looked at. citty cannot do this, and node:util's parser costs 2 ms to
 * load, so citty's argument table is read here; a test compares the result with node's parser.
 * Throws VgpuError for unknown flags, which `hint` is for, and missing values.
 */
export function splitArgv(argv: string[], flags: Flags, hint = BEFORE_COMMAND): Split {
  const given: Split["given"] = new Map();
  let index = 0;
  for (; index < argv.length; index++) {
    const text = argv[index] ?? "";
    if (text === "--") return { given, words: argv.slice(index + 1) };
    if (/^[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]/.test(text)) {
      throw new VgpuError(`${quote(text)} begins with a dash of the wrong kind`, {
        hint: "flags begin with - or --",
      });
    }
    if (!text.startsWith("-") || text === "-") break;
    for (const option of readOptions(text, flags)) {
      const flag = Object.hasOwn(flags, option.name) ? flags[option.name] : undefined;
      if (flag?.type === "string") {
        if (option.inline === undefined) index++;
        append(given, option.name, readValue(option, flag, argv[index]));
      } else {
        for (const [name, value] of readSwitch(option, flag, flags, hint))
          append(given, name, value);
      }
    }
  }
  return { given, words: argv.slice(index) };
}

/** The same for a subcommand whose words are its own: flags may stand before, between and after them. */
export function splitMixed(argv: string[], flags: Flags, hint: string): Split {
  const { given, words } = splitArgv(argv, flags, hint);
  const [word, ...rest] = words;
  const isLiteral = argv[argv.length - words.length - 1] === "--";
  if (word === undefined || isLiteral) return { given, words };
  const later = splitMixed(rest, flags, hint);
  for (const [name, values] of later.given) values.forEach((value) => append(given, name, value));
  return { given, words: [word, ...later.words] };
}

/** The options in one word: one for `--mem=4g`, one a letter for `-qv`; a letter that takes a value takes the rest. */
function readOptions(text: string, flags: Flags): Option[] {
  if (text.startsWith("--")) {
    const [, name = "", inline] = /^--([^=]*)(?:=(.*))?$/s.exec(text) ?? [];
    return [{ name, typed: `--${name}`, inline }];
  }
  const options: Option[] = [];
  for (let at = 1; at < text.length; at++) {
    const letter = text[at] ?? "";
    const [name, flag] = Object.entries(flags).find(([, { alias }]) => alias === letter) ?? [
      "",
      undefined,
    ];
    const rest = flag?.type === "string" && at + 1 < text.length ? text.slice(at + 1) : undefined;
    options.push({ name, typed: `-${letter}`, inline: rest });
    if (rest !== undefined) break;
  }
  return options;
}

/** The value of a flag that needs one; a following flag is no value, a negative number is (and a bad one). */
function readValue(
  { name, typed, inline }: Option,
  { valueHint = "VALUE" }: Flag,
  next: string | undefined,
): string {
  const value = inline ?? (next !== undefined && /^-(?!\d)/.test(next) ? undefined : next);
  if (value !== undefined && value !== "") return value;
  throw new VgpuError(`${typed} needs a value`, { hint: `write --${name} ${valueHint}` });
}

/** The settings that a flag without a value makes: one, or two for `--sim=CARD`; `--no-json` for the boolean json. */
function readSwitch(
  { name, typed, inline }: Option,
  flag: Flag | undefined,
  flags: Flags,
  hint: string,
): [string, string][] {
  if (flag === undefined) {
    const positive = name.startsWith("no-") ? name.slice("no-".length) : "";
    const isKnown = Object.hasOwn(flags, positive) && flags[positive]?.type === "boolean";
    if (isKnown && inline === undefined) return [[positive, "false"]];
    const guess = typed.startsWith("--") ? didYouMean(name, Object.keys(flags), "--") : "";
    throw new VgpuError(`unknown flag ${quote(typed)}${guess}`, { hint });
  }
  if (inline === undefined) return [[name, "true"]];
  if (flag.inline !== undefined && inline !== "") {
    return [
      [name, "true"],
      [flag.inline, inline],
    ];
  }
  throw new VgpuError(`${typed} takes no value, and was given ${quote(inline)}`);
}

function append(given: Split["given"], name: string, value: string): void {
  given.set(name, [...(given.get(name) ?? []), value]);
}
