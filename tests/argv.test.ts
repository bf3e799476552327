import { describe, expect, test } from "bun:test";
import { parseArgs } from "node:util";
import { splitArgv, splitMixed } from "../src/argv.ts";
import run from "../src/commands/run.ts";
import { VgpuError } from "../src/errors.ts";

const flags = run.args;
const split = (line: string): [Record<string, string[]>, string[]] => {
  const { given, words } = splitArgv(line.split(" ").filter(Boolean), flags);
  return [Object.fromEntries(given), words];
};
const failure = (line: string): string => {
  try {
    split(line);
  } catch (error) {
    if (error instanceof VgpuError) return error.oneLine;
  }
  throw new Error(`no VgpuError for ${line}`);
};

// Facts C3: what citty gets wrong, then the ways that flags and words can meet.
describe("the target's words stay untouched", () => {
  test.each<[string, Record<string, string[]>, string]>([
    ["--mem 4g cmd --mem 9g", { mem: ["4g"] }, "cmd --mem 9g"],
    ["--mem 4g cmd --mem 9g --help", { mem: ["4g"] }, "cmd --mem 9g --help"],
    ["--mem 4g cmd --no-cache", { mem: ["4g"] }, "cmd --no-cache"],
    ["--mem 4g cmd -q", { mem: ["4g"] }, "cmd -q"],
    ["--mem 4g cmd --help", { mem: ["4g"] }, "cmd --help"],
    ["--mem 4g -- cmd --help", { mem: ["4g"] }, "cmd --help"],
    ["--mem 4g -- cmd -x -- tail", { mem: ["4g"] }, "cmd -x -- tail"],
    ["--mem 4g --sm 25 cmd -x --flag", { mem: ["4g"], sm: ["25"] }, "cmd -x --flag"],
    ["cmd --version", {}, "cmd --version"],
    ["cmd -- --mem 4g", {}, "cmd -- --mem 4g"],
    ["-- -- cmd", {}, "-- cmd"],
    ["-- --mem 4g", {}, "--mem 4g"],
    ["- -q", {}, "- -q"],
    ["--mem=4g cmd", { mem: ["4g"] }, "cmd"],
    ["--mem=0=4g,1=8g cmd", { mem: ["0=4g,1=8g"] }, "cmd"],
    ["--mem 4g --mem 8g cmd", { mem: ["4g", "8g"] }, "cmd"],
    ["-q -v -vv cmd", { quiet: ["true"], verbose: ["true", "true", "true"] }, "cmd"],
    ["-qv cmd", { quiet: ["true"], verbose: ["true"] }, "cmd"],
    ["--json --no-json cmd", { json: ["true", "false"] }, "cmd"],
    ["--sim cmd", { sim: ["true"] }, "cmd"],
    ["--sim rtx3080", { sim: ["true"] }, "rtx3080"],
    ["--sim=rtx3080 cmd", { sim: ["true"], "sim-card": ["rtx3080"] }, "cmd"],
    ["cmd --sim=rtx3080", {}, "cmd --sim=rtx3080"],
    ["cmd \u2014mem", {}, "cmd \u2014mem"],
    ["-- \u2014cmd", {}, "\u2014cmd"],
    ["--sm -5 cmd", { sm: ["-5"] }, "cmd"],
    ["", {}, ""],
  ])("%s", (line, given, words) => {
    expect(split(line)).toEqual([given, words.split(" ").filter(Boolean)]);
  });

  test("empty words and words with spaces or line breaks", () => {
    const words = ["", "a b", "c\nd", "--mem", ""];
    expect(splitArgv(["-q", "--", ...words], flags).words).toEqual(words);
    expect(splitArgv(["-q", ...words], flags).words).toEqual(words);
  });
});

describe("node's own parser agrees", () => {
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, { type, alias }]) => [
      name,
      typeof alias === "string" ? { type, short: alias } : { type },
    ]),
  );
  test.each([
    "--mem 4g cmd --mem 9g",
    "-qv -- a -- b",
    "--mem=4g --events=json x -q",
    "-v -q --sim - y",
    "--gpu 0,1 --dry-run -- ",
    "cmd",
  ])("%s", (line) => {
    const args = line.split(" ").filter(Boolean);
    const { tokens } = parseArgs({
      args,
      options,
      strict: false,
      allowPositionals: true,
      tokens: true,
    });
    const stop = tokens.find((token) => token.kind !== "option");
    const end = stop?.index ?? args.length;
    const own = tokens.flatMap((token) =>
      token.kind === "option" && token.index < end ? [[token.name, token.value ?? "true"]] : [],
    );
    const [given, words] = split(line);
    expect(words).toEqual(args.slice(stop?.kind === "option-terminator" ? end + 1 : end));
    expect(given).toEqual(
      Object.fromEntries(own.map(([name, value]) => [name, [value]])) as Record<string, string[]>,
    );
  });
});

describe("mistakes name the flag", () => {
  test.each([
    ["--memm 4g cmd", "unknown flag '--memm' (did you mean --mem?)"],
    ["--bogus 5 cmd", "unknown flag '--bogus';"],
    ["-m=4g cmd", "unknown flag '-m'"],
    ["-qz cmd", "unknown flag '-z'"],
    ["--constructor cmd", "unknown flag '--constructor'"],
    ["--no-mem cmd", "unknown flag '--no-mem'"],
    ["--no-json=1 cmd", "unknown flag '--no-json'"],
    ["--mem", "--mem needs a value; write --mem SIZE"],
    ["--mem= cmd", "--mem needs a value"],
    ["--mem -- cmd", "--mem needs a value"],
    ["--mem --sm 25 cmd", "--mem needs a value"],
    ["--json=3 cmd", "--json takes no value, and was given '3'"],
    ["--sim= cmd", "--sim takes no value"],
    [
      "\u2014mem 4g cmd",
      "'\u2014mem' begins with a dash of the wrong kind; flags begin with - or --",
    ],
    ["-q \u2013v cmd", "'\u2013v' begins with a dash of the wrong kind"],
  ])("%s", (line, message) => {
    expect(failure(line)).toContain(message);
  });
});

test("a subcommand's own words may stand between flags", () => {
  const options = { json: { type: "boolean", group: "Output" } } as const;
  const { given, words } = splitMixed(["show", "--json", "half", "--", "--json"], options, "");
  expect([Object.fromEntries(given), words]).toEqual([
    { json: ["true"] },
    ["show", "half", "--json"],
  ]);
});
