import type { Command, Flags } from "../command.ts";
import { bold } from "./color.ts";

/** The help of one subcommand: usage line, examples, then its flags under their headings. */
export function drawCommandHelp({ meta, args }: Command, colored: boolean): string {
  const head = [`${bold("Usage:", colored)} ${meta.usage}`, "", meta.description, ""];
  const groups = Map.groupBy(Object.entries(args), ([, flag]) => flag.group);
  const width = Math.max(...Object.entries(args).map((entry) => drawFlag(...entry).length));
  const flags = [...groups].flatMap(([group, entries]) => [
    "",
    bold(`${group}:`, colored),
    ...drawRows(
      entries.map(([name, flag]) => [drawFlag(name, flag), flag.description ?? ""]),
      width,
    ),
  ]);
  return [
    ...head,
    bold("Examples:", colored),
    ...meta.examples.map((line) => `  ${line}`),
    ...flags,
  ].join("\n");
}

/** The help of vgpu itself: usage line, two examples, the commands. */
export function drawMainHelp(
  commands: [name: string, description: string][],
  colored: boolean,
): string {
  return [
    `${bold("Usage:", colored)} vgpu run [flags] [--] COMMAND [ARGUMENT...]`,
    "",
    bold("Examples:", colored),
    "  vgpu run --mem 4g --sm 25 -- python train.py    4 GiB and a quarter of the GPU's time",
    "  vgpu run --profile half -- ./server             limits from a profile",
    "",
    bold("Commands:", colored),
    ...drawRows(commands),
    "",
    bold("More:", colored),
    ...drawRows([
      ["vgpu COMMAND --help", "the flags of one command"],
      ["vgpu help exit-codes", "what vgpu's exit status says; other topics are the commands"],
      ["vgpu --version", "the version (also -V)"],
    ]),
  ].join("\n");
}

/** `vgpu help exit-codes`. */
export const EXIT_CODES = `The exit status of vgpu run is the command's own. If a signal ended the command, vgpu ends by the
same signal (a shell shows 128 + its number). Beyond that:

  125  vgpu itself failed: a bad flag or profile, or the session could not be made
  126  the command was found but cannot be executed
  127  the command was not found

Every other subcommand ends with 0, or with 125 and one line on stderr.`;

function drawFlag(name: string, { alias, type, valueHint }: Flags[string]): string {
  const short = typeof alias === "string" ? `-${alias}, ` : "    ";
  return `${short}--${name}${type === "string" ? ` ${valueHint ?? "VALUE"}` : ""}`;
}

function drawRows(
  rows: [left: string, right: string][],
  width = Math.max(...rows.map(([left]) => left.length)),
): string[] {
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
}
