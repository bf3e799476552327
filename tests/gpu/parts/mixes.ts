import { join } from "node:path";
import { out, seconds, sizes } from "../options.ts";
import { row } from "../rows.ts";
import { limited, mib, objects, type Ran } from "../run.ts";
import { belowBar, describe, type Sample, Sampler, staysBelow } from "../sampling.ts";

const MIB = 2 ** 20;
const PROCESSES = 4;
const THREADS = 8;

interface Mix {
  calls: number;
  denials: number;
  failures: number;
  last_code: number;
  failed: string;
  after_bytes: number;
  ledger_after_bytes: number;
  /** With what the audit added or took off. */
  audited_after_bytes: number;
  managed_most_bytes: number;
  wrong: string;
}

interface Denial {
  kind: string;
  api: string;
  asked_bytes: number;
  used_bytes: number;
  limit_bytes: number;
  context_bytes?: number;
}

/** Random mixes at each size, all sizes at once: of all paths, then, shorter, of the sized ones. */
export async function mixes(): Promise<void> {
  await using sampler = new Sampler();
  const larger = sizes.filter((gib) => gib >= 4);
  await Promise.all(larger.map((gib) => mix(gib, false, seconds, sampler)));
  await Promise.all(larger.map((gib) => mix(gib, true, Math.ceil(seconds / 3), sampler)));
  await contextThatDoesNotFit();
}

async function mix(
  gib: number,
  isSized: boolean,
  seconds: number,
  sampler: Sampler,
): Promise<void> {
  const file = join(out, `mix-${gib}-${isSized ? "sized" : "all"}.ndjson`);
  const words = ["mix", `${seconds}`, `${THREADS}`, `${PROCESSES}`, isSized ? "sized" : "all"];
  const ran = await sampler.session(
    gib * 2 ** 30,
    ["--mem", `${gib}g`, "-q", "--events-file", file],
    [join(out, "memory_paths"), ...words],
    // Off, so that at rest the ledger stands for itself.
    { env: isSized ? { VGPU_TEST_AUDIT: "off" } : {}, limitSeconds: seconds + 60 },
  );
  const sample = await sampler.ask("stop", ran.pid);
  const what = `${PROCESSES} × ${THREADS} threads, ${seconds} s, ${isSized ? "sized paths, audit off" : "all paths"}`;
  judge(what, gib, isSized, ran, sample);
  judgeDenials(what, gib, objects<Denial>(await Bun.file(file).text()));
}

function judge(what: string, gib: number, isSized: boolean, ran: Ran, sample: Sample): void {
  const all = objects<Mix>(ran.stdout);
  const sum = (value: (one: Mix) => number) => all.reduce((total, one) => total + value(one), 0);
  const own = sum((one) => one.ledger_after_bytes - one.after_bytes);
  const gap = isSized ? own : sum((one) => one.audited_after_bytes - one.after_bytes);
  const managed = sum((one) => one.managed_most_bytes);
  const wrong = all.flatMap(({ wrong, failed, last_code: code }) =>
    wrong ? [`${wrong}${failed ? ` (${failed}: code ${code})` : ""}`] : [],
  );
  const isWhole = ran.code === 0 && all.length === PROCESSES && wrong.length === 0;
  const asked = `${gib} GiB`;
  row(
    "mixes",
    what,
    asked,
    `${describe(sample)}; ${sum(({ calls }) => calls)} calls, ${sum(({ denials }) => denials)} denials; ` +
      (isWhole
        ? "no other code"
        : `exit ${ran.code}, ${wrong.join("; ")} ${ran.stderr.slice(-200)}`),
    `${belowBar(isSized)}; codes 0 and 2 only`,
    isWhole && staysBelow(sample, isSized),
  );
  row(
    "mixes",
    `${what}: all given back, ledger${isSized ? "" : ", audited,"} − NVML`,
    asked,
    `${mib(gap)} (NVML ${mib(sum(({ after_bytes: bytes }) => bytes))}${isSized ? "" : `; before the audit ${mib(own)}`})`,
    isSized ? "± 4 MiB" : "never less (local memory that the driver gives back stays charged)",
    isWhole && (isSized ? Math.abs(gap) <= 4 * MIB : gap >= -4 * MIB),
  );
  row(
    "mixes",
    `${what}: managed memory, sum of sizes`,
    asked,
    `${mib(managed)} at most`,
    "≤ limit",
    isWhole && managed <= gib * 2 ** 30,
  );
}

/** The ledger's use as the refused request met it, reservations in flight included; at rest it equals NVML's figure. */
function judgeDenials(what: string, gib: number, events: Denial[]): void {
  const denials = events.filter(({ kind }) => kind === "memory.denied");
  const early = denials.filter((one) => {
    const charge = one.context_bytes ?? Math.ceil(one.asked_bytes / (2 * MIB)) * 2 * MIB;
    const slack = /Async|Graph/.test(one.api) ? 64 : 4;
    return one.used_bytes + charge <= one.limit_bytes - slack * MIB;
  });
  const contexts = denials.filter(({ api }) => /Ctx(Create|Retain)/.test(api));
  const unnamed = contexts.filter(({ context_bytes: bytes }) => !bytes);
  row(
    "mixes",
    `${what}: denials with used + charge asked > limit − 4 MiB (pools 64)`,
    `${gib} GiB`,
    `${denials.length - early.length} of ${denials.length}${early[0] ? `; not: ${JSON.stringify(early[0])}` : ""}`,
    "all",
    denials.length > 0 && early.length === 0,
  );
  row(
    "mixes",
    `${what}: refused contexts whose event names their size`,
    `${gib} GiB`,
    `${contexts.length - unnamed.length} of ${contexts.length}`,
    "all, and some",
    contexts.length > 0 && unnamed.length === 0,
  );
}

async function contextThatDoesNotFit(): Promise<void> {
  const file = join(out, "context.ndjson");
  const ran = await limited(
    ["--mem", "300m", "-q", "--events-file", file],
    [join(out, "memory_paths"), "fill", "plain"],
  );
  const denied = objects<Denial>(await Bun.file(file).text()).find(
    ({ kind }) => kind === "memory.denied",
  );
  row(
    "mixes",
    "the first context in a limit that cannot hold it",
    "300 MiB",
    `${ran.stderr.trim()}; event: ${denied?.api}, context_bytes ${denied?.context_bytes}`,
    "code 2, its size named",
    /code 2$/m.test(ran.stderr) && (denied?.context_bytes ?? 0) > 300 * MIB,
  );
}
