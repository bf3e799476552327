import { basename } from "node:path";
import { hideFromLibraries } from "./environment.ts";
import { quote, VgpuError } from "./errors.ts";
import * as layout from "./layout.gen.ts";
import type { Plan } from "./limits.ts";
import { Region } from "./region.ts";
import { formatBytes } from "./units.ts";

/** What the outer session decides, because its seat and its turns are the inner one's too. */
const DECIDED = ["burst", "throttle", "priority", "weight", "quantum", "gang", "admit", "mode"];
const GIVEN = ["flag", "environment", "profile"];

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
  note({ limits: { all, gpus }, mode, sources }: Plan): string[] {
    if (mode === "spatial" || [all, ...gpus.values()].some((limit) => limit?.smCount != null)) {
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
    const names = DECIDED.filter((name) => GIVEN.includes(sources[name] ?? "default"));
    if (names.length > 0) {
      const flags = names.map((name) => `--${name}`).join(", ");
      notes.push(`${flags}: not heeded here, the session around this one decides`);
    }
    return notes;
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

/** LD_PRELOAD for the target: our shim in the place of the outer session's, which may be another build. */
export function replaceShim(preloads: string | undefined, library: string): string {
  const others = (preloads ?? "").split(/[\s:]+/).filter((path) => path !== "");
  return [...others.filter((path) => basename(path) !== basename(library)), library].join(":");
}
