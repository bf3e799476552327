import { join } from "node:path";
import { here, isSimulated } from "../options.ts";
import { row, skip } from "../rows.ts";
import { mib, objects } from "../run.ts";
import { belowBar, describe, Sampler, staysBelow } from "../sampling.ts";

const GIB = 2 ** 30;

interface Seen {
  missing?: string;
  checks: Record<string, boolean>;
  filled_bytes: number;
  error: string;
  [fact: string]: unknown;
}

const cases: [what: string, name: string, gib: number, env: Record<string, string>][] = [
  ["PyTorch, native allocator", "torch", 4, {}],
  ["PyTorch, expandable_segments", "torch", 4, conf("expandable_segments:True")],
  ["PyTorch, cudaMallocAsync", "torch", 4, conf("backend:cudaMallocAsync")],
  ["CuPy, default pool", "cupy", 4, {}],
  ["CuPy, MemoryAsyncPool", "cupy-async", 4, {}],
  ["JAX, its 75 % arena", "jax", 8, {}],
];

function conf(value: string): Record<string, string> {
  return { PYTORCH_CUDA_ALLOC_CONF: value };
}

/** Each framework in a limit of its own, all at once. */
export async function frameworks(): Promise<void> {
  if (isSimulated)
    return skip("frameworks", "all", "the simulated GPU does not run the CUDA runtime");
  await using sampler = new Sampler();
  await Promise.all(cases.map((one) => look(one, sampler)));
}

async function look(
  [what, name, gib, env]: (typeof cases)[number],
  sampler: Sampler,
): Promise<void> {
  const limit = gib * GIB;
  const script = ["python3", join(here, "frameworks.py"), name, `${limit}`];
  const ran = await sampler.session(limit, ["--mem", `${gib}g`, "-q"], script, { env });
  const sample = await sampler.ask("stop", ran.pid);
  const seen = objects<Seen>(ran.stdout).at(-1);
  if (seen?.missing !== undefined) return skip("frameworks", what, seen.missing);
  const checks = Object.entries(seen?.checks ?? {});
  const failed = checks.filter(([, ok]) => !ok).map(([check]) => check);
  const { checks: _, error, filled_bytes: filled, ...facts } = seen ?? { error: ran.stderr };
  const said = `${error ?? "no error"}`.replace(/\s+/g, " ").slice(0, 160);
  row(
    "frameworks",
    what,
    `${gib} GiB`,
    `${failed.length === 0 ? checks.map(([check]) => check).join(", ") : `not: ${failed.join(", ")}`}; ` +
      `${mib(Number(filled ?? 0))} held; ${JSON.stringify(facts)}; "${said}"`,
    "computes, its own error, blocks intact, recovers",
    ran.code === 0 && checks.length > 0 && failed.length === 0,
  );
  row(
    "frameworks",
    `${what}: from outside`,
    `${gib} GiB`,
    describe(sample),
    belowBar(false),
    staysBelow(sample, false),
  );
}
