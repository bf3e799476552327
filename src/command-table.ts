import type { Command } from "./command.ts";
import { quote, VgpuError } from "./errors.ts";
import { didYouMean } from "./nearest.ts";

type Load = () => Promise<{ default: Command }>;

/** Each subcommand, loaded only when it is used: start-up pays for one. */
const commands: Record<string, { summary: string; load: Load }> = {
  run: { summary: "run a command under GPU limits", load: () => import("./commands/run.ts") },
  demo: { summary: "show limits at work in 20 seconds", load: () => import("./commands/demo.ts") },
  profile: {
    summary: "list, show and check profiles",
    load: () => import("./commands/profile.ts"),
  },
  help: { summary: "show help on a command or topic", load: () => import("./commands/help.ts") },
};

/** Name and one line for each subcommand, in the order of the help. */
export const summaries = Object.entries(commands).map(([name, { summary }]): [string, string] => [
  name,
  summary,
]);

/** The subcommand of that name; throws VgpuError with a suggestion if there is none. */
export async function findCommand(name: string, topics: string[] = []): Promise<Command> {
  const found = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (found !== undefined) return (await found.load()).default;
  const guess = didYouMean(name, [...Object.keys(commands), ...topics]);
  const kind = topics.length > 0 ? "topic" : name.startsWith("-") ? "flag" : "command";
  const hints = {
    topic: `topics are ${[...Object.keys(commands), ...topics].join(", ")}`,
    flag: "flags stand after the subcommand: vgpu run --mem 4g -- COMMAND",
    command: "vgpu --help lists the commands; to run a program: vgpu run [flags] -- COMMAND",
  };
  const isVersion = kind !== "topic" && /^-*v(?:ersion)?$/i.test(name);
  throw new VgpuError(`unknown ${kind} ${quote(name)}${guess}`, {
    hint: isVersion ? "vgpu --version shows the version" : hints[kind],
  });
}
