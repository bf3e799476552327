import { join } from "node:path";
import { findDriver } from "../build.ts";
import { root } from "../options.ts";
import { row, skip } from "../rows.ts";
import { run } from "../run.ts";

/** Every name that this machine's driver exports is hooked, excused or known to be harmless. */
export async function coverage(): Promise<void> {
  for (const name of ["libcuda.so.1", "libnvidia-ml.so.1"]) {
    const library = await findDriver(name);
    if (library === undefined) {
      skip("coverage", name, "the loader knows none");
      continue;
    }
    const script = join(root, "tests/shim/coverage.sh");
    const { code, stdout, stderr } = await run(["sh", script, "--driver", library]);
    const said = `${stdout}${stderr}`.trim().split("\n");
    const got = said.slice(0, 20).join("; ");
    row(
      "coverage",
      `coverage.sh --driver ${library}`,
      "nothing unknown",
      got,
      "exit 0",
      code === 0,
    );
  }
}
