/** The value after a flag of this command. */
export const option = (name: string): string | undefined => {
  const at = Bun.argv.indexOf(name);
  return at < 0 ? undefined : Bun.argv[at + 1];
};

/** Every value that a flag was given. */
export const options = (name: string): string[] =>
  Bun.argv.flatMap((word, i) => (Bun.argv[i - 1] === name ? [word] : []));
