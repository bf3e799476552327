import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { isSimulated, out, vgpu } from "./options.ts";

export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

export interface How {
  env?: Record<string, string | undefined>;
  /** Told the pid as soon as there is one. */
  started?: (pid: number) => void;
  /** Killed then; 240 unless told. */
  limitSeconds?: number;
}

/** What every program here gets beside the caller's environment; build.ts adds the simulated driver. */
export const environment: Record<string, string> = {};

/** Runs a command to its end; all that it said goes to log.txt. */
export async function run(words: string[], how: How = {}): Promise<Ran> {
  const child = Bun.spawn(words, {
    env: { ...process.env, ...environment, ...how.env },
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
  });
  how.started?.(child.pid);
  const timer = setTimeout(() => child.kill("SIGTERM"), (how.limitSeconds ?? 240) * 1000);
  const later = setTimeout(() => child.kill("SIGKILL"), (how.limitSeconds ?? 240) * 1000 + 5000);
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  clearTimeout(timer);
  clearTimeout(later);
  appendFileSync(join(out, "log.txt"), `$ ${words.join(" ")}\n[${code}]\n${stdout}${stderr}\n`);
  return { code, stdout, stderr };
}

/** The same in a session. */
export const limited = (flags: string[], words: string[], how: How = {}): Promise<Ran> =>
  run([vgpu, "run", ...(isSimulated ? ["--sim"] : []), ...flags, "--", ...words], how);

/** The JSON object on the last line. */
export const last = <T>(text: string): T => JSON.parse(text.trim().split("\n").at(-1) ?? "") as T;

/** The JSON objects of all lines. */
export const objects = <T>(text: string): T[] =>
  text
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as T);

export const percent = (value: number): string => `${value.toFixed(2)} %`;
export const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
export const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;
