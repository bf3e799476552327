import { dlopen, FFIType } from "bun:ffi";

const { ptr, i32 } = FFIType;

/** Sets variables where C code in this process sees them; process.env does not reach it. */
export function setForLibraries(variables: Record<string, string>): void {
  const { symbols: libc } = dlopen("libc.so.6", {
    setenv: { args: [ptr, ptr, i32], returns: i32 },
  });
  for (const [name, value] of Object.entries(variables)) {
    libc.setenv(Buffer.from(`${name}\0`), Buffer.from(`${value}\0`), 1);
  }
}

/** Takes a variable away from C code in this process. What is started from here still gets it. */
export function hideFromLibraries(name: string): void {
  const { symbols: libc } = dlopen("libc.so.6", { unsetenv: { args: [ptr], returns: i32 } });
  libc.unsetenv(Buffer.from(`${name}\0`));
}
