import { dlopen, FFIType } from "bun:ffi";

/** Sets variables where C code in this process sees them; process.env does not reach it. */
export function setForLibraries(variables: Record<string, string>): void {
  const { ptr, i32 } = FFIType;
  const { symbols: libc } = dlopen("libc.so.6", {
    setenv: { args: [ptr, ptr, i32], returns: i32 },
  });
  for (const [name, value] of Object.entries(variables)) {
    libc.setenv(Buffer.from(`${name}\0`), Buffer.from(`${value}\0`), 1);
  }
}
