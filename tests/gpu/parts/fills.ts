import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { header } from "../../../src/layout.gen.ts";
import { stateDirectory } from "../../../src/state-directory.ts";
import { isSimulated, out, sizes } from "../options.ts";
import { row } from "../rows.ts";
import { last, limited, mib, run } from "../run.ts";
import { belowBar, describe, Sampler, staysBelow } from "../sampling.ts";

const GIB = 2 ** 30;
const AT_REST = 4 * 2 ** 20;
/** At once: each supervisor's looks at NVML hold up the others' driver calls, so not many. */
const BUDGET_GIB = 80;
/** Their calls hold the driver for milliseconds at this size: beside others NVML is asked too seldom. */
const SLOW = ["stream", "context", "stack", "local"];
const AT_ONCE = isSimulated ? 2 : 3;

interface Fill {
  limit_bytes: number;
  held_bytes: number;
  most_bytes: number;
  asked_bytes: number;
  code: number;
  pieces: number;
  ledger_full_bytes: number;
  after_bytes: number;
  ledger_after_bytes: number;
  managed_bytes: number;
  /** Plain blocks beside a slow path or one of small pieces, which filled the rest. */
  ballast_bytes: number;
  wrong: string;
}

interface Job {
  path: string;
  kind: string;
  gib: number;
  isAudited: boolean;
}

/** Each path alone up to the limit, at each size with the audit, and once without it. */
export async function fills(): Promise<void> {
  const program = join(out, "memory_paths");
  const list = (await run([program, "list"])).stdout.trim().split("\n");
  const jobs: Job[] = [];
  for (const gib of sizes.toSorted((a, b) => a - b))
    for (const line of list) {
      const [path = "", kind = ""] = line.split(" ");
      jobs.push({ path, kind, gib, isAudited: true });
      if (gib === (sizes.includes(4) ? 4 : sizes[0]))
        jobs.push({ path, kind, gib, isAudited: false });
    }
  const ended: number[] = [];
  await using sampler = new Sampler();
  const fillOne = async (job: Job) => void ended.push(await fill(job, sampler));
  const isSlow = ({ path, gib }: Job) => gib >= 20 && SLOW.includes(path);
  await atOnce(
    jobs.filter((job) => !isSlow(job)),
    AT_ONCE,
    fillOne,
  );
  await atOnce(jobs.filter(isSlow), 1, fillOne);
  await limited(["-q"], ["true"]);
  const samples = await Promise.all(ended.map((pid) => sampler.ask("stop", pid)));
  const held = samples.reduce((sum, { left_bytes }) => sum + left_bytes, 0);
  const left = leftovers();
  row(
    "fills",
    `residue of ${ended.length} sessions after one further vgpu command`,
    "none",
    `${mib(held)} listed by NVML, ${left.length} files of sessions`,
    "none",
    held === 0 && left.length === 0,
  );
}

async function fill({ path, kind, gib, isAudited }: Job, sampler: Sampler): Promise<number> {
  const limit = gib * GIB;
  const what = `${path} alone${isAudited ? "" : ", audit off"}`;
  const isSized = kind !== "unsized";
  const ran = await sampler.session(
    limit,
    ["--mem", `${gib}g`, "-q"],
    [join(out, "memory_paths"), "fill", path],
    { env: isAudited ? {} : { VGPU_TEST_AUDIT: "off" }, limitSeconds: 60 },
  );
  const sample = await sampler.ask("tell", ran.pid);
  const bar = `${belowBar(isSized)}; code 2; refused right; ledger = NVML ± 4 MiB`;
  if (!ran.stdout.startsWith("{")) {
    row("fills", what, `${gib} GiB`, `exit ${ran.code}: ${ran.stderr.slice(-200)}`, bar, false);
    return ran.pid;
  }
  const got = last<Fill>(ran.stdout);
  const isManaged = kind === "managed";
  const gaps = [got.ledger_full_bytes - got.held_bytes, got.ledger_after_bytes - got.after_bytes];
  const isEqual = isManaged || gaps.every((gap) => Math.abs(gap) <= AT_REST);
  const isLedgerJudged = isSized; // what no call names is not in the ledger before NVML says so
  row(
    "fills",
    what,
    `${gib} GiB`,
    `${describe(sample)}; ${got.pieces} pieces, coarse to fine${got.ballast_bytes > 0 ? ` above ${mib(got.ballast_bytes)} of plain blocks` : ""}; ` +
      (isManaged
        ? `sum of sizes ${mib(got.managed_bytes)}; `
        : `refused ${mib(got.asked_bytes)} at ${mib(got.held_bytes)} with code ${got.code}; ` +
          `ledger − NVML ${gaps.map((gap) => mib(gap)).join(" full, ")} empty; `) +
      (got.wrong || "nothing wrong"),
    isManaged ? `${belowBar(true)}; sum of sizes ≤ limit; code 2` : bar,
    ran.code === 0 && staysBelow(sample, isSized) && (isEqual || !isLedgerJudged),
  );
  return ran.pid;
}

/** Files in the state directory of sessions whose supervisor is no more. */
function leftovers(): string[] {
  const directory = stateDirectory();
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory);
  const isDead = (name: string): boolean => {
    try {
      const pid = readFileSync(join(directory, name)).readUInt32LE(header.supervisor_pid);
      return !existsSync(`/proc/${pid}`);
    } catch {
      return false; // gone meanwhile
    }
  };
  const regions = names.filter((name) => /^[0-9a-z]{6}$/.test(name));
  const bells = names.filter(
    (name) => name.endsWith(".bell") && !regions.includes(name.replace(".bell", "")),
  );
  return [...regions.filter(isDead), ...bells];
}

/** Runs the jobs in order, as many at a time as fit. */
async function atOnce(jobs: Job[], most: number, body: (job: Job) => Promise<void>): Promise<void> {
  const waiting = [...jobs];
  const running = new Set<Promise<void>>();
  let usedGib = 0;
  while (waiting.length > 0 || running.size > 0) {
    const next = waiting[0];
    if (next && running.size < most && usedGib + next.gib <= BUDGET_GIB) {
      waiting.shift();
      usedGib += next.gib;
      const job: Promise<void> = body(next).finally(() => {
        usedGib -= next.gib;
        running.delete(job);
      });
      running.add(job);
    } else await Promise.race(running);
  }
}
