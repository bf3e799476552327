import type { Command } from "../command.ts";
import { quote, VgpuError } from "../errors.ts";
import { readTruth, findSetting } from "../setting.ts";

/** `vgpu demo`: the whole of vgpu in under 20 seconds, on the real card if there is one. */
const command: Command = {
  meta: {
    name: "demo",
    description:
      "Runs a small GPU program with and without limits, and shows what was denied and held back.",
    usage: "vgpu demo [--json]",
    examples: ["vgpu demo"],
  },
  args: {
    json: { type: "boolean", group: "Output", description: "the result as JSON on stdout" },
    help: { type: "boolean", alias: "h", group: "Output", description: "this text" },
  },
  async run({ given, words: [extra] }) {
    if (extra !== undefined)
      throw new VgpuError(`demo takes no words, and was given ${quote(extra)}`, {
        hint: `write ${command.meta.usage}`,
      });
    const { runDemo } = await import("../demo.ts");
    const { makeJsonTeller, makeTeller } = await import("../report/demo.ts");
    await runDemo(
      readTruth(findSetting("json", given, process.env)) ? makeJsonTeller() : makeTeller(),
    );
    return 0;
  },
};

export default command;
