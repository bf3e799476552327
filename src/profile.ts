import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
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
  /** Where its ceilings stand, by GPU or `all`: `file:line:column: compute.burst`. */
  bursts: Record<string, string>;
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
    const here = [`./${word}.yaml`, `./${word}.yml`].find((path) => existsSync(path));
    const guess = here === undefined ? didYouMean(word, names) : ` (did you mean ${here}?)`;
    throw new VgpuError(`${label}: no profile ${quote(word)}${guess}`, {
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
  const reading = readProfileText(readProfileFile(file), file);
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
    bursts: placeBursts(content, reading.at),
  };
  if (content.extends === undefined) return own;
  const place = reading.at(["extends"]);
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
    bursts: { ...lower.bursts, ...upper.bursts },
  };
}

function placeBursts(
  { compute, gpus = {} }: ProfileFile,
  at: (path: string[]) => string,
): Profile["bursts"] {
  const draw = (path: string[]) => `${at(path)}: ${path.join(".")}`;
  const bursts: Profile["bursts"] = {};
  if (compute?.burst !== undefined) bursts["all"] = draw(["compute", "burst"]);
  for (const [key, { compute: own }] of Object.entries(gpus))
    if (own?.burst !== undefined) bursts[key] = draw(["gpus", key, "compute", "burst"]);
  return bursts;
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

/** Descriptors that the caller has opened, and the file that is always empty. */
const OPENED = /^\/(?:dev\/(?:stdin|null|fd\/\d+)|proc\/self\/fd\/\d+)$/;
const REASONS: Record<string, string> = {
  ENOENT: "no such file",
  EISDIR: "is a directory",
  EACCES: "permission denied",
};

/** A profile's text. Throws VgpuError for what cannot be read, or might never end: pipes and devices. */
export function readProfileFile(file: string): string {
  try {
    const kind = statSync(file);
    if (kind.isFile() || kind.isDirectory() || OPENED.test(file)) return readFileSync(file, "utf8");
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    const reason = REASONS[code] ?? `cannot be read (${code})`;
    throw new VgpuError(`${file}: ${reason}, expected a profile in YAML`);
  }
  throw new VgpuError(`${file}: is no regular file, expected a profile in YAML`);
}

function realPath(file: string): string | undefined {
  try {
    return realpathSync(file);
  } catch {
    return undefined;
  }
}
