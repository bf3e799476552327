import { existsSync } from "node:fs";
import { VgpuError } from "../errors.ts";
import { resolvePlan } from "../limits.ts";
import { loadProfile, type Profile, readProfileFile } from "../profile.ts";
import { drawProfile, drawProfileList } from "../report/profile.ts";
import { print, say } from "../report/words.ts";
import { findProfile, listProfiles, profileFolders } from "./search.ts";

/** One row of `vgpu profile list`; `problem` stands in place of the description of a broken file. */
export interface ProfileRow {
  name: string;
  file: string;
  description: string | null;
  shadowed_by: string | null;
  problem: string | null;
}

/** `vgpu profile list`: every profile in the folders and which one wins. Returns 0. */
export async function showList(json: boolean): Promise<number> {
  const rows = await Promise.all(
    listProfiles(profileFolders()).map(async ({ name, file, shadowedBy }): Promise<ProfileRow> => {
      const found = await tryLoad(file);
      const broken = found instanceof VgpuError;
      return {
        name,
        file,
        description: broken ? null : found.description,
        shadowed_by: shadowedBy,
        problem: broken ? found.oneLine : null,
      };
    }),
  );
  print(json ? JSON.stringify(rows) : drawProfileList(rows));
  return 0;
}

/** `vgpu profile show NAME`: the profile with everything that it extends. Returns 0. */
export async function showProfile(name: string, json: boolean): Promise<number> {
  const profile = await loadProfile(name, profileFolders(), "profile show");
  const { bursts: _, ...shown } = profile;
  print(json ? JSON.stringify(shown) : await drawProfile(profile));
  return 0;
}

/** `vgpu profile check NAME...`: every problem on a line of its own. Returns 0, or 125 if there is one. */
export async function checkProfiles(names: string[], json: boolean): Promise<number> {
  const results = await Promise.all(
    names.map(async (name) => {
      const found = await tryLoad(name);
      if (!(found instanceof VgpuError)) return { name, problems: findContradictions(found) };
      const own = await listProblems(name);
      return { name, problems: own.length > 0 ? own : [found.oneLine] };
    }),
  );
  if (json) print(JSON.stringify(results));
  for (const { name, problems } of json ? [] : results) {
    problems.forEach(say);
    if (problems.length === 0) print(`${name}: ok`);
  }
  return results.some(({ problems }) => problems.length > 0) ? 125 : 0;
}

async function tryLoad(word: string): Promise<Profile | VgpuError> {
  try {
    return await loadProfile(word, profileFolders(), "profile");
  } catch (error) {
    if (error instanceof VgpuError) return error;
    throw error;
  }
}

/** Every problem inside the file itself; none if they lie in what it extends, or if it cannot be read. */
async function listProblems(word: string): Promise<string[]> {
  const file = findProfile(word, profileFolders());
  if (file === undefined || !existsSync(file)) return [];
  const { readProfileText } = await import("./document.ts");
  try {
    return readProfileText(readProfileFile(file), file).problems;
  } catch (error) {
    if (error instanceof VgpuError) return [];
    throw error;
  }
}

/** What only the values together show to be wrong: a run with this profile alone would refuse it. */
function findContradictions(profile: Profile): string[] {
  try {
    resolvePlan({ given: new Map(), words: ["true"] }, {}, profile);
    return [];
  } catch (error) {
    if (!(error instanceof VgpuError)) throw error;
    const isPlaced = profile.files.some((file) => error.oneLine.startsWith(`${file}:`));
    return [isPlaced ? error.oneLine : `${profile.files[0]}: ${error.oneLine}`];
  }
}
