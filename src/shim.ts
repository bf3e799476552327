import { findBuilt, type Output, type Steps } from "./cache.ts";
import { VgpuError } from "./errors.ts";

/** What the shim's build gives: the preload library, the trampoline, the context probe, and a library for the supervisor. */
export interface Shim {
  library: string;
  exec: string;
  probe: string;
  sender: string;
}

const HOME = `${import.meta.dir.replace(/\/src$/, "")}/shim`;
const PROGRAMS = ["layout.c", "exec.c", "check.c", "probe.c", "demo.c"];
const COMPILE = ["-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread"];
const PROGRAM = { compile: ["-std=gnu11", "-O2"], link: ["-ldl"] };

/** Compiles the shim on first use and returns where it is. Throws VgpuError: no compiler, a failed build, a library that does not load. */
export async function findShim(isQuiet = false): Promise<Shim> {
  const files = ["vgpu-shim.so", "vgpu-exec", "vgpu-probe", "vgpu-sender.so"];
  const pattern = /^(?!demo\.c|layout\.c).*\.(c|h|def|S|map)$/;
  const directories = [HOME, `${HOME}/supervisor`];
  const recipe = { name: "shim", directories, pattern, files, load: loadShimSteps };
  const directory = await findBuilt(recipe, isQuiet);
  return {
    library: `${directory}/vgpu-shim.so`,
    exec: `${directory}/vgpu-exec`,
    probe: `${directory}/vgpu-probe`,
    sender: `${directory}/vgpu-sender.so`,
  };
}

/** The units come from the directory itself, so that a new file needs no second list. */
async function loadShimSteps(): Promise<Steps> {
  const machine = process.arch === "arm64" ? "aarch64" : "x86_64";
  const files = await listUnits(HOME, /\.(c|S)$/);
  const units = files.filter((file) =>
    file.endsWith(".c")
      ? !PROGRAMS.some((program) => file === `${HOME}/${program}`)
      : file.endsWith(`trampoline_${machine}.S`),
  );
  return {
    outputs: [
      {
        file: "vgpu-shim.so",
        units,
        compile: COMPILE,
        link: ["-shared", "-pthread", `-Wl,--version-script=${HOME}/exports.map`, "-ldl"],
      },
      // Static, it starts a tenth of a millisecond sooner.
      { file: "vgpu-exec", units: [`${HOME}/exec.c`], ...PROGRAM, preferred: ["-static"] },
      { file: "vgpu-check", units: [`${HOME}/check.c`], ...PROGRAM },
      { file: "vgpu-probe", units: [`${HOME}/probe.c`], ...PROGRAM },
      {
        file: "vgpu-sender.so",
        units: [`${HOME}/supervisor/sender.c`],
        compile: COMPILE,
        link: ["-shared"],
      },
    ],
    check: checkLoads,
  };
}

/** ld.so only warns about a preload that it cannot load, and the target would run unlimited. So it is tried once, in a process of its own. */
function checkLoads(directory: string): void {
  const command = [`${directory}/vgpu-check`, `${directory}/vgpu-shim.so`];
  const { exitCode, stderr } = Bun.spawnSync(command, { env: {} });
  if (exitCode === 0) return;
  throw new VgpuError(`the preload library does not load: ${stderr.toString().trim()}`, {
    hint: "is the compiler for this machine's own C library?",
  });
}

/** Compiles the demo's program on first use and returns its path. */
export async function findDemo(): Promise<string> {
  const load = async () => ({
    outputs: [{ file: "vgpu-demo", units: [`${HOME}/demo.c`], ...PROGRAM }],
  });
  const pattern = /^(demo\.c|cuda_.*\.h)$/;
  return `${await findBuilt({ name: "demo", directories: [HOME], pattern, files: ["vgpu-demo"], load })}/vgpu-demo`;
}

/** Compiles the simulated driver, NVML and MPS daemon on first use and returns their directory. */
export async function findSimulatedLibraries(isQuiet = false): Promise<string> {
  const home = `${HOME}/sim`;
  const library = async (file: string, units: RegExp): Promise<Output> => ({
    file,
    units: await listUnits(home, units),
    compile: COMPILE,
    link: ["-shared", "-pthread", "-Wl,-Bsymbolic", "-Wl,-z,nodelete", `-Wl,-soname,${file}`],
  });
  const load = async () => ({
    outputs: [
      await library("libcuda.so.1", /^(cuda|sim)_.*\.c$/),
      await library("libnvidia-ml.so.1", /^(nvml|sim)_.*\.c$/),
      {
        file: "nvidia-cuda-mps-control",
        units: await listUnits(home, /^(mps|sim)_.*\.c$/),
        compile: COMPILE,
        link: ["-pthread"],
      },
    ],
  });
  const pattern = /^((cuda|nvml|sim|mps)_.*\.c|(sim|.*_sim|.*_(abi|calls|structs))\.h|names\.def)$/;
  const files = ["libcuda.so.1", "libnvidia-ml.so.1", "nvidia-cuda-mps-control"];
  const recipe = { name: "simulated-gpu", directories: [home, HOME], pattern, files, load };
  return findBuilt(recipe, isQuiet);
}

async function listUnits(directory: string, pattern: RegExp): Promise<string[]> {
  const { readdirSync } = await import("node:fs");
  const names = readdirSync(directory).filter((name) => pattern.test(name));
  return names.sort().map((name) => `${directory}/${name}`);
}
