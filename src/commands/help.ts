import type { Command } from "../command.ts";
import { findCommand, summaries } from "../command-table.ts";
import { VgpuError } from "../errors.ts";
import { isColored } from "../report/color.ts";
import { drawCommandHelp, drawMainHelp, EXIT_CODES } from "../report/help.ts";
import { print } from "../report/words.ts";

/** `vgpu help [TOPIC]`: vgpu itself, one subcommand, or exit-codes. */
const command: Command = {
  meta: {
    name: "help",
    description: "Shows how vgpu, one of its commands, or a topic is used.",
    usage: "vgpu help [COMMAND|exit-codes]",
    examples: ["vgpu help run", "vgpu help exit-codes"],
  },
  args: { help: { type: "boolean", alias: "h", group: "Output", description: "this text" } },
  async run({ words: [topic, extra] }) {
    if (extra !== undefined) throw new VgpuError("help: one topic at a time");
    const colored = isColored(1);
    if (topic === undefined) print(drawMainHelp(summaries, colored));
    else if (topic === "exit-codes") print(EXIT_CODES);
    else print(drawCommandHelp(await findCommand(topic, ["exit-codes"]), colored));
    return 0;
  },
};

export default command;
