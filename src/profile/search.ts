import { existsSync, readdirSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join, resolve } from "node:path";

/** The profiles that come with vgpu. */
export const SHIPPED = resolve(import.meta.dir, "../../profiles");

/** Where a name is looked up, first match wins: ./.vgpu, the user's, the machine's, the shipped profiles. */
export function profileFolders(
  environment: Record<string, string | undefined> = process.env,
): string[] {
  const given = environment["XDG_CONFIG_HOME"];
  const home = environment["HOME"] || homedir();
  const config = given !== undefined && isAbsolute(given) ? given : join(home, ".config");
  return [".vgpu", join(config, "vgpu/profiles"), "/etc/vgpu/profiles", SHIPPED];
}

/** A word with `/` or ending in .yaml or .yml is a path, everything else a name. */
export function isPath(word: string): boolean {
  return word.includes("/") || /\.ya?ml$/.test(word);
}

/** The file of a profile, or undefined if no folder has that name. A path in `extends` starts at the file that says it. */
export function findProfile(word: string, folders: string[], from?: string): string | undefined {
  if (isPath(word))
    return from === undefined || isAbsolute(word) ? word : join(dirname(from), word);
  return folders
    .flatMap((folder) => fileNames(word).map((name) => join(folder, name)))
    .find(existsSync);
}

/** Every profile in the folders; `shadowedBy` names the file that wins over it. */
export function listProfiles(
  folders: string[],
): { name: string; file: string; shadowedBy: string | null }[] {
  const winners = new Map<string, string>();
  return folders.flatMap((folder) =>
    readFolder(folder).map((entry) => {
      const name = entry.replace(/\.ya?ml$/, "");
      const file = join(folder, entry);
      const shadowedBy = winners.get(name) ?? null;
      if (shadowedBy === null) winners.set(name, file);
      return { name, file, shadowedBy };
    }),
  );
}

function fileNames(name: string): string[] {
  return [`${name}.yaml`, `${name}.yml`];
}

/** A folder that is missing or closed to us holds no profiles. */
function readFolder(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter((entry) => /\.ya?ml$/.test(entry))
      .sort();
  } catch {
    return [];
  }
}
