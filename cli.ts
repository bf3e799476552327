#!/usr/bin/env -S bun --no-env-file --no-install --config=/dev/null
import { splitArgv, splitMixed } from "./src/argv.ts";
import { findCommand } from "./src/command-table.ts";
import { VgpuError } from "./src/errors.ts";
import { print, say } from "./src/report/words.ts";

/** Runs the subcommand that the words name, and returns the exit status. */
async function main([name = "help", ...rest]: string[]): Promise<number> {
  if (name === "--version" || name === "-V") {
    const { default: about } = await import("./package.json");
    print(`vgpu ${about.version}`);
    return 0;
  }
  const isHelp = name === "--help" || name === "-h";
  const command = await findCommand(isHelp ? "help" : name);
  const split =
    command.words === "target"
      ? splitArgv(rest, command.args)
      : splitMixed(rest, command.args, `vgpu ${command.meta.name} --help lists them`);
  if (!split.given.has("help")) return command.run(split);
  const help = await findCommand("help");
  return help.run({ given: new Map(), words: [command.meta.name] });
}

/** From the first word to the exit status: the one place that catches. */
async function start(): Promise<void> {
  let status: number;
  try {
    // bin/vgpu starts Bun in the package's folder, see there.
    const caller = /,cwd=([^,]+)/.exec(process.env["VGPU_LAUNCHER"] ?? "")?.[1];
    if (caller !== undefined) process.chdir(caller);
    status = await main(process.argv.slice(2));
  } catch (error) {
    const known = error instanceof VgpuError;
    say(
      known
        ? error.oneLine
        : `internal error: ${error instanceof Error ? (error.stack ?? error.message) : error}`,
    );
    status = known ? error.exitCode : 125;
  }
  process.exit(status);
}

// Not awaited: Bun makes bytecode only of files without top-level await (src/bundle.ts).
void start();
