/** Where a program is that a shell would find by this name, or null. Bun.which throws for a name that is longer than any path. */
export function findProgram(name: string, search?: { PATH: string }): string | null {
  try {
    return Bun.which(name, search);
  } catch {
    return null;
  }
}
