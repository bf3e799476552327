import type { ArgsDef, CommandMeta } from "citty";
import type { Split } from "./argv.ts";

/** One of our flags: citty's argument definition, and the heading it has in the help. */
export type Flag = Extract<ArgsDef[string], { type?: "string" | "boolean" }> & {
  type: "string" | "boolean";
  group: string;
  /** A boolean that also takes `--flag=VALUE`: the flag that VALUE belongs to. */
  inline?: string;
};

/** Flags by name as typed after the two dashes. */
export type Flags = Record<string, Flag>;

/** A subcommand: what the help shows, the flags it knows, and one call that returns the exit status. */
export interface Command {
  meta: CommandMeta & { name: string; description: string; usage: string; examples: string[] };
  args: Flags;
  /** "target": the first word ends our flags, the rest is another program's. Otherwise flags may stand anywhere. */
  words?: "target";
  run(split: Split): number | Promise<number>;
}
