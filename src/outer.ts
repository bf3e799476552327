import { basename } from "node:path";
import { findVisible, visibleDevices } from "./devices.ts";
import { hideFromLibraries } from "./environment.ts";
import { quote, VgpuError } from "./errors.ts";
import * as layout from "./layout.gen.ts";
import type { Plan, Source } from "./limits.ts";
import type { Card } from "./nvml.ts";
import { Region } from "./region.ts";
import { formatBytes } from "./units.ts";

/** What the outer session decides, because its seat and its turns are the inner one's too. */
const DECIDED = [
  ...["burst", "throttle", "priority", "weight", "quantum", "gang"],
  ...["admit", "mode", "mps"],
];
/** Not by an environment that the outer session's command may have had from it. */
const isGiven = (source: Source | undefined) => source === "flag" || source === "profile";

/** The session in which this command was started. What runs in a session inside another counts against both. */
export class Outer {
  readonly path: string;
  readonly #region: Region;

  /** `path`: VGPU_REGION. Throws VgpuError where that cannot be joined. */
  constructor(path: string) {
    this.path = path;
    this.#region = open(path);
    let depth = 1;
    for (let at = outerOf(this.#region); at !== ""; at = outerOf(open(at))) depth++;
    // The outer session's shim is in this process too: it need not join to tell us what NVML says.
    hideFromLibraries("VGPU_REGION");
    if (depth < layout.MAX_DEPTH) return;
    throw new VgpuError(`${depth} vgpu sessions are around this one already`, {
      hint: "run the command without vgpu run",
    });
  }

  /** One line for each setting that does not do what it says in here. Throws VgpuError for SMs of one's own. */
  note({ limits: { all }, mode, sources }: Plan): string[] {
    const wantsMode = mode === "spatial" && isGiven(sources["mode"]);
    if (
      wantsMode ||
      Object.keys(sources).some((key) => /^sms\b/.test(key) && isGiven(sources[key]))
    ) {
      throw new VgpuError("a session inside another one cannot get SMs of its own", {
        hint: "give them to the outer vgpu run: inside it --sm is a share of their time",
      });
    }
    const notes: string[] = [];
    const held = this.#region.load64(layout.header.default_mem_limit);
    const size = all?.memBytes;
    if (size != null && "bytes" in size && BigInt(size.bytes) > held) {
      const [asked, limit] = [formatBytes(size.bytes), formatBytes(Number(held))];
      notes.push(
        `--mem ${asked} is more than the session around this one may use: ${limit} is the limit`,
      );
    }
    const names = DECIDED.filter((name) => isGiven(sources[name]));
    if (names.length > 0) {
      const flags = names.map((name) => `--${name}`).join(", ");
      notes.push(`${flags}: not heeded here, the session around this one decides`);
    }
    return notes;
  }

  /** Throws VgpuError for a card that the outer session's command does not see. `visible`: CUDA_VISIBLE_DEVICES as it is here. */
  checkCards(gpu: string[], cards: Card[], visible: string | undefined): void {
    const seen = findVisible(visible, cards).map(({ uuid }) => uuid);
    const hidden = visibleDevices(gpu, cards)
      .split(",")
      .find((uuid) => !seen.includes(uuid));
    if (hidden === undefined) return;
    throw new VgpuError(
      `--gpu ${gpu.join(",")}: the session around this one does not see ${hidden}`,
      {
        hint: `it sees ${seen.join(", ") || "no GPU"}`,
      },
    );
  }

  /** LD_PRELOAD for the target: our shim in the place of the outer session's, which may be of another build. */
  replaceShim(preloads: string | undefined, library: string): string {
    const words = (preloads ?? "").split(/[\s:]+/).filter((path) => path !== "");
    return [...words.filter((path) => basename(path) !== basename(library)), library].join(":");
  }
}

const outerOf = (region: Region) => region.text(layout.header.outer, layout.OUTER_BYTES);

function open(path: string): Region {
  let region: Region | undefined;
  try {
    region = new Region(path);
  } catch {}
  if (region?.isCurrent === true) return region;
  throw new VgpuError(
    region === undefined
      ? `VGPU_REGION=${quote(path)} names no session`
      : `the session around this one (${quote(path)}) was started by another version of vgpu`,
    { hint: "to start one outside of it: env -u VGPU_REGION -u LD_PRELOAD vgpu run …" },
  );
}
