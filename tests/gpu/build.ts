import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { findSimulatedLibraries } from "../../src/shim.ts";
import { here, isSimulated, out, root } from "./options.ts";
import { environment, limited, run } from "./run.ts";

/** Where the simulated driver is; C programs are linked against it everywhere, since it has every name. */
let simulated = "";

/** The driver's library that programs get; undefined if the loader knows none. */
export async function findDriver(name: string): Promise<string | undefined> {
  if (isSimulated) return join(simulated, name);
  const { stdout } = await run(["/sbin/ldconfig", "-p"]);
  const found = new RegExp(`^\\s*${name.replaceAll(".", "\\.")} .*x86-64.* => (\\S+)$`, "m").exec(
    stdout,
  );
  return found?.[1];
}

/** Builds what the parts use, side by side, and lets vgpu learn the card. Throws for what does not compile. */
export async function build(parts: string[]): Promise<void> {
  simulated = await findSimulatedLibraries();
  if (isSimulated) {
    const machine = join(out, "machine");
    mkdirSync(machine, { recursive: true });
    const variables = { LD_LIBRARY_PATH: simulated, VGPU_SIM_DIR: machine, VGPU_SIM_GPUS: "2" };
    Object.assign(environment, variables);
  }
  const program = (name: string, ...more: string[]): string[] => [
    ...["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-pthread"],
    ...["-o", join(out, name), join(here, `${name}.c`), ...more],
    ...["-L", simulated, "-l:libcuda.so.1", "-ldl", "-lm"],
  ];
  const elf = join(root, "shim/elf.c");
  const commands = [
    program("sampler"),
    program("first_call"),
    program("memory_paths"),
    program("cost", elf),
    program("cost_inside", elf),
    ["gcc", "-O2", "-o", join(out, "devices"), join(root, "tests/fixtures/devices.c"), "-ldl"],
  ];
  const nvcc = Bun.which("nvcc") ?? "/usr/local/cuda/bin/nvcc";
  if (parts.includes("load") || parts.includes("pair"))
    commands.push([nvcc, "-O2", "-o", join(out, "load"), join(here, "load.cu")]);
  await Promise.all([
    ...commands.map(async (words) => {
      const { code, stderr } = await run(words);
      if (code !== 0) throw new Error(`${words.join(" ")} failed: ${stderr.slice(0, 1000)}`);
    }),
    limited(["--mem", "2g", "-q"], ["true"]),
  ]);
}
