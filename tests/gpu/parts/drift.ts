import { join } from "node:path";
import { option } from "../flags.ts";
import { isSimulated, out } from "../options.ts";
import { row } from "../rows.ts";
import { mib, objects, run } from "../run.ts";
import { describe, Sampler } from "../sampling.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** Room for four contexts and a fifth. */
const LIMIT_GIB = 3;
const SECONDS = 3;
const PROCESSES = 4;
const THREADS = 8;
const AT_ONCE = isSimulated ? 1 : 4;
/** Paths that share what the driver keeps. */
const PAIRS = ["small,array_small", "stack,local", "async,pool", "graph,capture", "module,library"];

interface Rest {
  calls: number;
  denials: number;
  before_bytes: number;
  after_bytes: number;
  ledger_after_bytes: number;
  pool_bytes: number;
  default_pool_bytes: number;
  graph_bytes: number;
  stack_bytes: number;
  local_bytes: number;
  wrong: string;
}

/** Which path the ledger does not follow: a mix of each alone, audit off, and what is left of it at rest. */
export async function drift(): Promise<void> {
  const list = (await run([join(out, "memory_paths"), "list"])).stdout.trim().split("\n");
  const paths = list.map((line) => line.split(" ")[0] ?? "");
  const waiting = option("--paths")?.split(" ") ?? [...paths, ...PAIRS];
  await using sampler = new Sampler();
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (let paths = waiting.shift(); paths; paths = waiting.shift()) await mix(paths, sampler);
    }),
  );
}

async function mix(paths: string, sampler: Sampler): Promise<void> {
  const words = ["mix", `${SECONDS}`, `${THREADS}`, `${PROCESSES}`, paths];
  const ran = await sampler.session(
    LIMIT_GIB * GIB,
    ["--mem", `${LIMIT_GIB}g`, "-q"],
    [join(out, "memory_paths"), ...words],
    { env: { VGPU_TEST_AUDIT: "off" }, limitSeconds: 60 },
  );
  const sample = await sampler.ask("stop", ran.pid);
  const all = objects<Rest>(ran.stdout);
  const gap = all.reduce((sum, one) => sum + one.ledger_after_bytes - one.after_bytes, 0);
  const parts = all.map(
    (one) =>
      `${((one.ledger_after_bytes - one.after_bytes) / MIB).toFixed(1)} of ${mib(one.after_bytes)} ` +
      `(at first ${mib(one.before_bytes)}; pools ${mib(one.pool_bytes + one.default_pool_bytes)}, ` +
      `graphs ${mib(one.graph_bytes)}, stack ${one.stack_bytes} B, kernels ${one.local_bytes} B)`,
  );
  const wrong = all.flatMap(({ wrong }) => (wrong ? [wrong] : []));
  const count = (value: (one: Rest) => number) => all.reduce((sum, one) => sum + value(one), 0);
  const isWhole = ran.code === 0 && all.length === PROCESSES && wrong.length === 0;
  row(
    "drift",
    `${paths}, ${PROCESSES} × ${THREADS} threads, ${SECONDS} s, audit off`,
    `${LIMIT_GIB} GiB`,
    `at rest ledger − NVML ${mib(gap)}: ${parts.join(", ")}; ${describe(sample)}; ` +
      `${count(({ calls }) => calls)} calls, ${count(({ denials }) => denials)} denials` +
      (isWhole ? "" : `; exit ${ran.code}, ${wrong.join("; ")} ${ran.stderr.slice(-200)}`),
    "± 4 MiB, 0 above",
    isWhole && Math.abs(gap) <= 4 * MIB && sample.above_limit === 0,
  );
}
