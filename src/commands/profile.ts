import type { Command } from "../command.ts";
import { quote, VgpuError } from "../errors.ts";
import { didYouMean } from "../nearest.ts";
import { readTruth } from "../setting.ts";
import { findSetting } from "../setting.ts";

const ACTIONS = ["list", "show", "check"];

/** `vgpu profile list|show|check`. */
const command: Command = {
  meta: {
    name: "profile",
    description:
      "Lists the profiles that vgpu finds, shows one with all it extends, or checks profiles for mistakes.",
    usage: "vgpu profile list | show NAME | check NAME...",
    examples: ["vgpu profile show half", "vgpu profile check ./team.yaml"],
  },
  args: {
    json: { type: "boolean", group: "Output", description: "the same as JSON" },
    help: { type: "boolean", alias: "h", group: "Output", description: "this text" },
  },
  async run({ given, words: [action, ...names] }) {
    const { checkProfiles, showList, showProfile } = await import("../profile/show.ts");
    const json = readTruth(findSetting("json", given, process.env));
    const [name, extra] = names;
    if (action === "list" && name === undefined) return showList(json);
    if (action === "show" && name !== undefined && extra === undefined)
      return showProfile(name, json);
    if (action === "check" && name !== undefined) return checkProfiles(names, json);
    if (action === undefined)
      throw new VgpuError("profile: say list, show NAME or check NAME", {
        hint: "vgpu profile --help says more",
      });
    const known = ACTIONS.includes(action);
    const what = known ? `wrong number of words for ${action}` : `unknown action ${quote(action)}`;
    const guess = known ? "" : didYouMean(action, ACTIONS);
    throw new VgpuError(`profile: ${what}${guess}`, { hint: `write ${command.meta.usage}` });
  },
};

export default command;
