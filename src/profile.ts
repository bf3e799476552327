import { readFileSync, realpathSync } from "node:fs";
import { quote, VgpuError } from "./errors.ts";
import { didYouMean } from "./nearest.ts";
import type { ProfileFile } from "./profile/schema.ts";
import { findProfile, listProfiles } from "./profile/search.ts";

type Memory = NonNullable<ProfileFile["memory"]>;
type Compute = NonNullable<ProfileFile["compute"]>;
type PerGpu = Record<string, { memory: Memory; compute: Pick<Compute, "share" | "burst"> }>;

/** A profile with everything that it extends laid under it. */
export interface Profile {
  name: string;
  /** Its file, then those that it extends, nearest first. */
  files: string[];
  description: string | null;
  memory: Memory;
  compute: Compute;
  gpus: PerGpu;
  events: NonNullable<ProfileFile["events"]>;
  env: Record<string, string>;
}

/**
 * Finds, reads and joins a profile; `label` is the flag or variable that named it. Throws VgpuError with
 * the first problem as `file:line:column: what, what was expected`.
 */
export async function loadProfile(
  word: string,
  folders: string[],
  label = "--profile",
): Promise<Profile> {
  const file = findProfile(word, folders);
  if (file === undefined) {
    const names = [...new Set(listProfiles(folders).map(({ name }) => name))];
    throw new VgpuError(`${label}: no profile ${quote(word)}${didYouMean(word, names)}`, {
      hint: `looked in ${folders.join(", ")}; vgpu profile list shows all`,
    });
  }
  return loadChain(word, file, folders, []);
}

/** `chain` holds the real paths of the profiles that led here. */
async function loadChain(
  word: string,
  file: string,
  folders: string[],
  chain: string[],
): Promise<Profile> {
  const { readProfileText } = await import("./profile/document.ts");
  const reading = readProfileText(readText(file), file);
  if (reading.content === null) {
    const more = reading.problems.length - 1;
    throw new VgpuError(reading.problems[0], {
      hint: more > 0 ? `${more} more: vgpu profile check ${file}` : undefined,
    });
  }
  const { content } = reading;
  const own: Profile = {
    name: word,
    files: [file],
    description: content.description ?? null,
    memory: content.memory ?? {},
    compute: content.compute ?? {},
    gpus: completeGpus(content.gpus ?? {}),
    events: content.events ?? {},
    env: content.env ?? {},
  };
  if (content.extends === undefined) return own;
  const place = reading.at("extends");
  const base = findProfile(content.extends, folders, file);
  const real = base === undefined ? undefined : realPath(base);
  if (base === undefined || real === undefined) {
    throw new VgpuError(
      `${place}: extends: ${quote(content.extends)} is not there, expected another profile's name or path`,
    );
  }
  const seen = [...chain, realPath(file) ?? file];
  if (seen.includes(real)) {
    throw new VgpuError(
      `${place}: extends: ${quote(content.extends)} leads back to ${base}, expected no cycle`,
    );
  }
  return join(await loadChain(content.extends, base, folders, seen), own);
}

/** The upper profile laid over the lower; a memory limit or share for all GPUs replaces those below for single ones. */
function join(lower: Profile, upper: Profile): Profile {
  const gpus: PerGpu = {};
  for (const key of [...Object.keys(lower.gpus), ...Object.keys(upper.gpus)]) {
    const { limit, ...memory } = lower.gpus[key]?.memory ?? {};
    const { share, burst } = lower.gpus[key]?.compute ?? {};
    const keepLimit = limit !== undefined && upper.memory.limit === undefined;
    const keepShare = share !== undefined && upper.compute.share === undefined;
    const keepBurst = burst !== undefined && upper.compute.burst === undefined;
    gpus[key] = {
      memory: { ...memory, ...(keepLimit ? { limit } : {}), ...upper.gpus[key]?.memory },
      compute: {
        ...(keepShare ? { share } : {}),
        ...(keepBurst ? { burst } : {}),
        ...upper.gpus[key]?.compute,
      },
    };
  }
  return {
    name: upper.name,
    files: [...upper.files, ...lower.files],
    description: upper.description,
    memory: { ...lower.memory, ...upper.memory },
    compute: joinCompute(lower.compute, upper.compute),
    gpus,
    events: { ...lower.events, ...upper.events },
    env: { ...lower.env, ...upper.env },
  };
}

/** Priority and weight say the same thing: the upper one replaces either. */
function joinCompute({ priority, weight, ...lower }: Compute, upper: Compute): Compute {
  const isSaid = upper.priority !== undefined || upper.weight !== undefined;
  return {
    ...lower,
    ...(isSaid || priority === undefined ? {} : { priority }),
    ...(isSaid || weight === undefined ? {} : { weight }),
    ...upper,
  };
}

function completeGpus(gpus: NonNullable<ProfileFile["gpus"]>): PerGpu {
  return Object.fromEntries(
    Object.entries(gpus).map(([key, { memory = {}, compute = {} }]) => [key, { memory, compute }]),
  );
}

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new VgpuError(`${file}:1:1: cannot be read (${code}), expected a profile in YAML`);
  }
}

function realPath(file: string): string | undefined {
  try {
    return realpathSync(file);
  } catch {
    return undefined;
  }
}
