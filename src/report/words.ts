import { VgpuError } from "../errors.ts";
import { writeAll } from "../libc.ts";

/** Writes one line of ours to stderr, where all our words go: stdout belongs to the target. */
export function say(line: string): void {
  console.error(`vgpu: ${line}`);
}

/**
 * Writes what a command was asked to print (help, a list, a dry run) to stdout. Throws VgpuError if it cannot
 * be written; a reader that has gone (`| head`) has seen enough.
 */
export function print(text: string): void {
  const error = writeAll(1, `${text.replace(/\n+$/, "")}\n`);
  if (error === null || error === "EPIPE") return;
  throw new VgpuError(`cannot write to stdout (${error})`, {
    hint: "is the disk full, or stdout closed?",
  });
}
