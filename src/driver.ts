import { readState, readText } from "./libc.ts";

/** Whether CUDA programs would find a driver: its device node, or libcuda.so.1 where the loader looks. Loads nothing. */
export function hasDriver(): boolean {
  if (readState("/dev/nvidiactl") !== null) return true;
  const listed = (process.env["LD_LIBRARY_PATH"] ?? "").split(":").filter(Boolean);
  if ([...listed, ...USUAL].some((directory) => readState(`${directory}/libcuda.so.1`) !== null))
    return true;
  return readText("/etc/ld.so.cache")?.includes("libcuda.so.1\0") ?? false;
}

const USUAL = ["/usr/lib/wsl/lib", "/usr/lib64", "/usr/local/nvidia/lib64"];
