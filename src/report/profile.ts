import { stringify } from "yaml";
import type { Profile } from "../profile.ts";
import type { ProfileRow } from "../profile/show.ts";
import { writeSize } from "../units.ts";

/** The table of `vgpu profile list`. */
export function drawProfileList(rows: ProfileRow[]): string {
  const cells = rows.map(({ name, file, description, shadowed_by, problem }) => [
    name,
    problem === null ? (description ?? "") : "broken",
    shadowed_by === null ? file : `${file} (hidden by ${shadowed_by})`,
  ]);
  const table = [["NAME", "DESCRIPTION", "FILE"], ...cells];
  const widths = [0, 1].map((column) =>
    Math.max(...table.map((row) => Bun.stringWidth(row[column] ?? ""))),
  );
  return table
    .map(
      ([name = "", description = "", file = ""]) =>
        `${pad(name, widths[0])}  ${pad(description, widths[1])}  ${file}`,
    )
    .join("\n");
}

/** The joined profile, as YAML, with its files as a comment. */
export function drawProfile(profile: Profile): string {
  const { files, name: _, description, memory, compute, gpus, events, env } = profile;
  const part = { memory, compute };
  const body = {
    ...(description === null ? {} : { description }),
    ...drawLimits(part),
    gpus: Object.fromEntries(Object.entries(gpus).map(([key, gpu]) => [key, drawLimits(gpu)])),
    events,
    env,
  };
  const filled = Object.entries(body).filter(
    ([, value]) => typeof value !== "object" || Object.keys(value).length > 0,
  );
  return `# ${files.join(" extends ")}\n${stringify(Object.fromEntries(filled))}`;
}

function drawLimits({
  memory,
  compute,
}: Pick<Profile, "memory" | "compute">): Record<string, object> {
  const sizes = Object.entries(memory).map(([key, size]) => [key, writeSize(size)]);
  const shares = Object.entries(compute).map(([key, value]) => [key, value ?? "none"]);
  return {
    ...(sizes.length > 0 ? { memory: Object.fromEntries(sizes) } : {}),
    ...(shares.length > 0 ? { compute: Object.fromEntries(shares) } : {}),
  };
}

function pad(text: string, width = 0): string {
  return text + " ".repeat(Math.max(0, width - Bun.stringWidth(text)));
}
