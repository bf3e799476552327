/** Writes one line of ours to stderr, where all our words go: stdout belongs to the target. */
export function say(line: string): void {
  console.error(`vgpu: ${line}`);
}

/** Writes what a command was asked to print (help, a list, a dry run) to stdout. */
export function print(text: string): void {
  console.log(text.replace(/\n+$/, ""));
}
