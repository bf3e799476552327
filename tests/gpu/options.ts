import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { option } from "./flags.ts";

export const here = import.meta.dir;
export const root = join(here, "../..");
export const vgpu = join(root, "bin/vgpu");

/** On the simulated GPU: what needs the CUDA runtime is skipped, and no figure means anything. */
export const isSimulated = Bun.argv.includes("--sim");

/** Where programs, logs and rows go. */
export const out = option("--out") ?? join("/tmp", `vgpu-gpu-${process.pid}`);
mkdirSync(out, { recursive: true });

/** `--sizes 1,4,20`: the limits in GiB that are filled. */
export const sizes = (option("--sizes") ?? "1,4,20").split(",").map(Number);

/** `--seconds 60`: how long the mixes last. */
export const seconds = Number(option("--seconds") ?? 60);
