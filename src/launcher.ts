/** What bin/vgpu noted before Bun changed it: see there. */
export interface Launcher {
  /** Soft limit on open files, a number or `unlimited`. */
  nofile: string;
  /** Masks as in /proc/PID/status: bit n-1 is signal n. */
  ignored: bigint;
  blocked: bigint;
  /** Descriptors that were open, in rising order. */
  descriptors: number[];
}

/** Reads VGPU_LAUNCHER (`nofile=1024,sigign=0,sigblk=0,fds=0.1.2.63`); null when cli.ts was started without the launcher. */
export function readLauncher(text = process.env["VGPU_LAUNCHER"]): Launcher | null {
  if (!text) return null;
  const fields = new Map(text.split(",").map((field) => field.split("=", 2) as [string, string]));
  const mask = (name: string) => BigInt(`0x${fields.get(name) || "0"}`);
  return {
    nofile: fields.get("nofile") ?? "unlimited",
    ignored: mask("sigign"),
    blocked: mask("sigblk"),
    descriptors: (fields.get("fds") ?? "").split(".").filter(Boolean).map(Number),
  };
}

/** Whether the caller had this signal ignored, as nohup has SIGHUP. */
export function isIgnored(launcher: Launcher | null, signal: number): boolean {
  return launcher !== null && ((launcher.ignored >> BigInt(signal - 1)) & 1n) === 1n;
}
