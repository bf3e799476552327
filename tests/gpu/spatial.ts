// Issue 6's figures on a real GPU, native measured in the same run. One JSON line a row, to stdout and DIR/spatial.jsonl.
//   bun tests/gpu/spatial.ts --part smoke [--out DIR]     the essentials, about a minute
//   bun tests/gpu/spatial.ts [--only TEXT]…               all cells of one GPU, the weightiest first: about six minutes
//   bun tests/gpu/spatial.ts --part 1/3                   a third of them
//   bun tests/gpu/spatial.ts --part nccl                  two GPUs
//   … --list                                              the cells of the part
//   … --sim [--scale 0.2]                                 tries the script on the simulated GPU, windows shortened
// Needs nvcc; cells of frameworks are skipped where they are not installed. Exit status 1 if a bar is missed.
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
} from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { isPresent } from "../../src/process.ts";
import { option, options } from "./flags.ts";

const root = join(import.meta.dir, "../..");
const sim = Bun.argv.includes("--sim");
const scale = Number(option("--scale") ?? 1);
const out = option("--out") ?? join("/tmp", `vgpu-spatial-${process.pid}`);
const work = join(out, "work");
const python = process.env["VGPU_TEST_PYTHON"] ?? "python3";
const TOTAL = 132;
const USABLE = 120;
const WINDOW_S = 2 * scale;
/** From the start of a set of programs to the beginning of their common window. */
const LEAD_S = 4 * (sim ? scale : 1);
mkdirSync(out, { recursive: true });
const environment: Record<string, string | undefined> = sim
  ? { VGPU_SIM_DIR: join(out, "machine") }
  : {};
if (sim) mkdirSync(join(out, "machine"), { recursive: true });

let failed = 0;

function row(what: string, got: unknown, bar = "", ok = true): void {
  if (!ok) failed++;
  const line = JSON.stringify({ ok, what, got, bar });
  console.log(line);
  appendFileSync(join(out, "spatial.jsonl"), `${line}\n`);
}

interface Ran {
  status: number;
  lines: Record<string, any>[];
  err: string;
  text: string;
}

const vgpu = (flags: string[] | null, words: string[]): string[] =>
  flags === null
    ? words
    : [join(root, "bin/vgpu"), "run", ...(sim ? ["--sim"] : []), "-q", ...flags, "--", ...words];

function spawn(flags: string[] | null, words: string[]) {
  return Bun.spawn(vgpu(flags, words), {
    env: { ...process.env, ...environment },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

async function run(flags: string[] | null, words: string[], limitS = 120): Promise<Ran> {
  const child = spawn(flags, words);
  const timer = setTimeout(() => child.kill("SIGKILL"), limitS * 1000);
  const [text, err, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  clearTimeout(timer);
  appendFileSync(
    join(out, "log.txt"),
    `$ ${vgpu(flags, words).join(" ")}\n[${status}]\n${text}${err}\n`,
  );
  const lines = text.split("\n").filter((line) => line.startsWith("{"));
  return { status, lines: lines.map((line) => JSON.parse(line)), err, text };
}

interface Rate {
  rate: number;
  p50_ms: number;
  p99_ms: number;
}

/** A program's rate in a window that begins at `at` (0: as soon as it is ready). */
async function rateOf(flags: string[] | null, what: string[], at: number): Promise<Rate> {
  const words = sim
    ? [join(out, "load"), "--us", "500", "--seconds", `${WINDOW_S}`]
    : what[0] === "matmul"
      ? [python, join(import.meta.dir, "spatial/frameworks.py"), "matmul", `${WINDOW_S}`, `${at}`]
      : [work, what[0]!, `${WINDOW_S}`, "--at", `${at}`];
  const { lines, err, text } = await run(sim ? (flags ?? []) : flags, words);
  const found = lines.at(-1) as Rate | undefined;
  if (found?.rate === undefined) throw new Error(`no rate: ${text}${err}`.slice(0, 500));
  return found;
}

const solos = new Map<string, Promise<Rate>>();

/** Alone, measured once. */
function solo(flags: string[] | null, what = ["rate"]): Promise<Rate> {
  const key = JSON.stringify([flags, what]);
  const known = solos.get(key) ?? rateOf(flags, what, 0);
  solos.set(key, known);
  return known;
}

/** All at once, in one window. */
function together(
  all: { flags: string[] | null; what?: string[] }[],
  leadS = LEAD_S,
): Promise<Rate[]> {
  const at = Date.now() / 1000 + leadS;
  return Promise.all(all.map(({ flags, what = ["rate"] }) => rateOf(flags, what, at)));
}

const round = (value: number, digits = 2) => Number(value.toFixed(digits));
const sms = (count: number) => ["--sms", `${count}`];

const native = (what = ["rate"]) => solo(null, what);

interface Cell {
  name: string;
  seconds: number;
  run(): Promise<void>;
}

/** The SMs that a session's kernels ran on, by route. */
async function sets(flags: string[]): Promise<{
  attribute: number;
  routes: Record<string, { sms: number; set: string; code: number; left_running?: boolean }>;
  all: any;
}> {
  if (sim) {
    const { text } = await run(flags, [join(out, "smids")]);
    const [, count, attribute, set] = /^(\d+) of (\d+): (.*)$/m.exec(text) ?? [];
    return {
      attribute: Number(attribute),
      routes: { "null stream": { sms: Number(count), set: set!.replaceAll(" ", " "), code: 0 } },
      all: {},
    };
  }
  const { lines, err, text } = await run(flags, [work, "smids"]);
  const found = lines.at(-1);
  if (found?.["routes"] === undefined) throw new Error(`no routes: ${text}${err}`.slice(0, 500));
  return { attribute: found["attribute"], routes: found["routes"], all: found };
}

const members = (set: string): number[] =>
  set
    .split(" ")
    .filter(Boolean)
    .flatMap((range) => {
      const [first, last] = range.split("-").map(Number);
      return Array.from({ length: last! - first! + 1 }, (_, index) => first! + index);
    });

async function showRoutes(count: number): Promise<void> {
  const { attribute, routes, all } = await sets(sms(count));
  row(`${count} SMs: the attribute`, attribute, `${count}`, attribute === count);
  for (const [route, got] of Object.entries(routes)) {
    const isInside = got.code === 0 && got.sms === count && got.set === routes["null stream"]!.set;
    const bar = "all SMs, nothing left running";
    row(`${count} SMs: ${route}`, got, bar, isInside && got.left_running !== true);
  }
  if (sim) return;
  const waits = [
    "a copy for a kernel in a blocking stream",
    "a copy for a graph in one",
    "a kernel in one for a fill in the legacy stream",
    "a graph in one for such a fill",
    "a free for a graph",
  ];
  for (const [i, what] of waits.entries())
    row(`waits, ${what}: not, of 20`, all.passed[i], "0", all.passed[i] === 0);
  row(
    "a grid that fills the device",
    { grid: all.potential_grid, block: all.potential_block },
    "a multiple of the SMs",
    all.potential_grid % count === 0,
  );
  row("clusters of 2 at once (occupancy query)", all.clusters_of_2);
  row(
    "a cooperative launch of one block more: the code",
    all.cooperative_one_more,
    "720",
    all.cooperative_one_more === 720,
  );
}

/**
 * %smid counts within the partition under MPS, so it tells how many SMs a session has and not which: those are the
 * groups that the event names, and that they are really apart the throughput of neighbours shows (`beside`).
 */
async function showDisjoint(): Promise<void> {
  const told = (name: string) => join(out, `partition-${name}.ndjson`);
  const flags = (name: string) => [...sms(40), "--events", "json", "--events-file", told(name)];
  const hold = sim ? [join(out, "smids"), "30"] : [work, "hold"];
  const holders = ["first", "second"].map((name) => spawn(flags(name), hold));
  await Bun.sleep(sim ? 2000 : 4000);
  const third = await sets(flags("third"));
  const again = await sets(flags("fourth"));
  const running = holders.filter(({ exitCode }) => exitCode === null).length;
  for (const child of holders) child.kill();
  await Promise.all(holders.map(({ exited }) => exited));
  const groups = ["first", "second", "third", "fourth"].map((name) => readGroups(told(name)));
  const [a, b, c, d] = groups.map((text) => members(text.replaceAll(",", " ")));
  const apart = new Set([...a!, ...b!, ...c!]).size === 15 && running === 2;
  row(
    "three sessions of 40 SMs: their groups",
    groups.slice(0, 3),
    "disjoint, both running",
    apart,
  );
  row("after the third: its groups go to the next", d, `${c}`, `${d}` === `${c}`);
  const [set, next] = [third, again].map(({ routes }) => routes["null stream"]!);
  row("the third's %smid", set, "40 SMs", set!.sms === 40);
  row("the same groups in another process: %smid", next!.set, set!.set, next!.set === set!.set);
}

/** `0-4`: what the event said; a number alone is a range too. */
function readGroups(file: string): string {
  const lines = readFileSync(file, "utf8").split("\n").filter(Boolean);
  const event = lines
    .map((line) => JSON.parse(line))
    .find(({ kind }) => kind === "compute.partition");
  return `${event?.groups}`.replaceAll(/(^|,)(\d+)(?=,|$)/g, "$1$2-$2");
}

/** What the driver does without us: why the shim swaps streams and waits for graphs. */
async function showFacts(): Promise<void> {
  const { lines, err, text } = await run(null, [work, "facts"]);
  row("the driver's green contexts, natively", lines.at(-1) ?? `${text}${err}`, "reported");
}

async function showSolo(count: number): Promise<void> {
  const { rate } = await native();
  const got = (100 * (await solo(sms(count))).rate) / rate;
  const wanted = (100 * count) / TOTAL;
  row(
    `${count} of ${TOTAL} SMs: percent of native`,
    round(got),
    `${round(wanted)} ± 1`,
    Math.abs(got - wanted) <= 1,
  );
}

async function showBeside(counts: number[], what: string, bar: number): Promise<void> {
  const alone: Rate[] = [];
  for (const count of counts) alone.push(await solo(sms(count), [what]));
  const got = await together(
    counts.map((count) => ({ flags: sms(count), what: [what] })),
    what === "matmul" ? 12 : LEAD_S,
  );
  for (const [i, count] of counts.entries()) {
    const percent = (100 * got[i]!.rate) / alone[i]!.rate;
    const spread = got[i]!.p99_ms / got[i]!.p50_ms;
    const label = `${counts.join(" + ")} SMs, ${what}: the ${i + 1}. (${count})`;
    row(`${label}: percent of its solo`, round(percent), `≥ ${bar}`, percent >= bar);
    if (!sim) row(`${label}: p99/p50 of a step`, round(spread, 3), "≤ 1.05", spread <= 1.05);
  }
}

async function showHog(): Promise<void> {
  const alone = await solo(sms(32));
  const [victim] = await together([{ flags: sms(32) }, { flags: sms(64), what: ["hog"] }]);
  row(
    "32 SMs beside a bandwidth hog on 64: percent of its solo",
    round((100 * victim!.rate) / alone.rate),
    "reported",
  );
}

const timed = (share: number) => ["--sm", `${share}`, "--mps", "on"];

/** Kernels of about 0.3 ms: turns are of 4 ms under MPS. */
async function showTimeMode(shares: number[]): Promise<void> {
  const what = ["short"];
  const { rate } = await native(what);
  const got = await together(shares.map((share) => ({ flags: timed(share), what })));
  const percents = got.map((one) => (100 * one.rate) / rate);
  for (const [i, share] of shares.entries())
    row(
      `time mode under MPS, ${shares.join(" + ")}: no. ${i + 1}`,
      round(percents[i]!),
      `${share} ± 1`,
      Math.abs(percents[i]! - share) <= 1,
    );
  const sum = percents.reduce((a, b) => a + b, 0);
  row(`time mode under MPS, ${shares.join(" + ")}: sum`, round(sum), "≥ 99.3", sum >= 99.3);
}

/** 1 ms of work due every 10 ms at 25 %, beside a session that takes all of its 75 %. */
async function showSmallDemand(): Promise<void> {
  const what = ["small"];
  const alone = await native(what);
  const { rate } = await native(["short"]);
  const [got, neighbour] = await together([
    { flags: timed(25), what },
    { flags: timed(75), what: ["short"] },
  ]);
  const label = "small demand under MPS";
  const late = got!.p99_ms - alone.p99_ms;
  row(`${label}: p99 beyond native (ms)`, round(late, 3), "≤ 1", late <= 1);
  const done = (100 * got!.rate) / alone.rate;
  row(`${label}: percent of the steps due`, round(done), "≥ 99", done >= 99);
  row(
    `${label}: the neighbour's percent of native`,
    round((100 * neighbour!.rate) / rate),
    "reported",
  );
}

async function showLaunchCost(): Promise<void> {
  const { lines, err } = await run(
    [...sms(56), "--mps", "off"],
    [join(out, "cost"), "launch", "400"],
  );
  const cost = lines.at(-1);
  if (cost === undefined || !cost["hooked"]) throw new Error(`no cost: ${err}`.slice(0, 300));
  row(
    "a launch in a partition: added (ns)",
    cost,
    "≤ 20 (time mode without a limit)",
    cost["added_ns"] <= 20,
  );
}

async function showNccl(): Promise<void> {
  const ddp = (flags: string[] | null, meet: string, name: string, parties: number) =>
    run(flags, [
      ...[python, join(import.meta.dir, "compute/ddp.py"), "--meet", meet, "--name", name],
      ...["--parties", `${parties}`, "--seconds", "4"],
    ]);
  const figures = ({ lines, err, status }: Ran) => {
    const found = lines.at(-1);
    if (found === undefined) throw new Error(`NCCL: ${status}: ${err.slice(-300)}`);
    const times = found["times"] as [number, number][];
    const [first, last] = [times[times.length >> 2]!, times.at(-1)!];
    return {
      losses: found["losses"] as number[],
      rate: (1e9 * (last[1] - first[1])) / (last[0] - first[0]),
    };
  };
  const meet = () => mkdtempSync(join(out, "meet-"));
  const near = (a: number, b: number) => Math.abs(a - b) <= 1e-3 * Math.max(1e-6, Math.abs(b));
  const whole = figures(await ddp(null, meet(), "a", 1));
  const alone = figures(await ddp(sms(56), meet(), "a", 1));
  const here = meet();
  const both = (await Promise.all(["a", "b"].map((name) => ddp(sms(56), here, name, 2)))).map(
    figures,
  );
  for (const [i, job] of [alone, ...both].entries()) {
    const label = i === 0 ? "NCCL on two GPUs, 56 SMs each" : `two such jobs at once: no. ${i}`;
    const same = job.losses.every((loss, at) => near(loss, whole.losses[at]!));
    row(
      `${label}: the last loss`,
      [job.losses.at(-1), whole.losses.at(-1)],
      "equal to rounding",
      same,
    );
    row(`${label}: percent of native steps`, round((100 * job.rate) / whole.rate), "reported");
  }
}

async function showSetup(): Promise<void> {
  const measure = async (flags: string[] | null) => {
    const { lines, err } = await run(flags, [work, "setup"]);
    if (lines.length === 0) throw new Error(err.slice(0, 300));
    return lines[0]!["first_kernel_ms"] as number;
  };
  const plain: number[] = [];
  const inside: number[] = [];
  for (let i = 0; i < 9; i++) {
    plain.push(await measure(["--mps", "off"]));
    inside.push(await measure([...sms(32), "--mps", "off"]));
  }
  const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;
  const added = median(inside) - median(plain);
  row("set-up to the first kernel, added (ms; medians of 9)", round(added, 3), "≤ 3", added <= 3);
}

async function framework(
  what: string,
  flags: string[] | null,
): Promise<Record<string, any> | null> {
  const { lines, err, status } = await run(
    flags,
    [python, join(import.meta.dir, "spatial/frameworks.py"), what],
    240,
  );
  if (/No module named/.test(err)) return null;
  if (lines.length === 0) throw new Error(`${what}: ${status}: ${err.slice(-300)}`);
  return lines.at(-1)!;
}

async function showFrameworks(): Promise<void> {
  const near = (a: number, b: number) => Math.abs(a - b) <= 1e-3 * Math.max(1e-6, Math.abs(b));
  const [train, nativeTrain] = [await framework("train", sms(56)), await framework("train", null)];
  if (train === null || nativeTrain === null) row("PyTorch", "not installed");
  else {
    const losses = train["losses"].every((loss: number, i: number) =>
      near(loss, nativeTrain["losses"][i]),
    );
    row(
      "PyTorch training: the last of 50 losses",
      [train["losses"].at(-1), nativeTrain["losses"].at(-1)],
      "equal to rounding",
      losses,
    );
    row(
      "torch.compile",
      [train["compiled"], nativeTrain["compiled"]],
      "equal to rounding",
      near(train["compiled"], nativeTrain["compiled"]),
    );
    row("CUDA graphs in PyTorch", train["graph"], "true", train["graph"] === true);
    row("SMs that PyTorch sees", train["sms"], "56", train["sms"] === 56);
  }
  const triton = await framework("triton", sms(56));
  if (triton !== null) {
    const { routes } = await sets(sms(56));
    row(
      "a persistent Triton kernel",
      triton,
      "on the session's SMs",
      triton["on"] === 56 && triton["set"] === routes["null stream"]!.set,
    );
  }
  for (const what of ["cupy", "jax"]) {
    const [got, wanted] = [await framework(what, sms(56)), await framework(what, null)];
    if (got === null || wanted === null) row(what, "not installed");
    else row(what, got, JSON.stringify(wanted), near(got["value"], wanted["value"]));
  }
}

/** Overlapping sessions killed with their supervisors, at any moment. */
async function showKills(rounds: number): Promise<void> {
  let lost = 0;
  let survivors = 0;
  for (let i = 0; i < rounds; i++) {
    const words = sim ? [join(out, "smids"), "30"] : [work, "hold"];
    const children = [40, 40, 40].map((count) => spawn(sms(count), words));
    await Bun.sleep(Math.random() * 1500 * scale);
    const trees = children.map(({ pid }) => freeze(pid));
    trees[2]!.forEach((pid) => kill(pid, "SIGCONT"));
    const [victims, others] = [trees.slice(0, 2).flat(), trees[2]!];
    for (const pid of victims) kill(pid);
    await Bun.sleep(50);
    survivors += others.every(isAlive) ? 1 : 0;
    for (const pid of freeze(children[2]!.pid)) {
      others.push(pid);
      kill(pid);
    }
    await Promise.all(children.map(({ exited }) => exited));
    while ([...victims, ...others].some(isAlive)) await Bun.sleep(5);
    const { status, err } = await run(sms(USABLE), ["true"]);
    if (status !== 0) {
      lost++;
      appendFileSync(join(out, "log.txt"), err);
    }
  }
  row(`${rounds} rounds of start and kill -9: rounds with groups lost`, lost, "0", lost === 0);
  row("rounds in which the session that was not killed went on", survivors, "reported");
  await run(null, [join(root, "bin/vgpu"), "run", ...(sim ? ["--sim"] : []), "-q", "true"]);
  const state = sim ? join(out, "machine") : `/dev/shm/vgpu-${userInfo().uid}`;
  const daemon = existsSync(join(state, "mps/nvidia-cuda-mps-control.pid"));
  row("an MPS daemon is left", daemon, "false", !daemon);
}

async function showFault(): Promise<void> {
  const neighbour = spawn(sms(40), [work, "rate", "6"]);
  await Bun.sleep(3000);
  const { lines } = await run(sms(40), [work, "fault"]);
  const status = await neighbour.exited;
  row(
    "an illegal address under MPS: its own code, and how the neighbour ended",
    { fault: lines[0]?.["code"], neighbour: status },
    "reported (shared faults)",
  );
  const { routes } = await sets(sms(40));
  row(
    "afterwards a new session works",
    routes["null stream"]!.sms,
    "40",
    routes["null stream"]!.sms === 40,
  );
}

/** Stops a process and all below it, so that none is started unseen. */
function freeze(pid: number): number[] {
  kill(pid, "SIGSTOP");
  const { stdout } = Bun.spawnSync(["cat", `/proc/${pid}/task/${pid}/children`]);
  const children = stdout.toString().trim().split(" ").filter(Boolean).map(Number);
  return [pid, ...children.flatMap(freeze)];
}

function kill(pid: number, signal: NodeJS.Signals = "SIGKILL"): void {
  try {
    process.kill(pid, signal);
  } catch {}
}

/** Also a process that is a zombie already, but has threads that the driver still tears down. */
const isAlive = (pid: number): boolean => isPresent(pid, 0n);

const smoke: Cell[] = [
  { name: "facts", seconds: 3, run: showFacts },
  { name: "routes", seconds: 3, run: () => showRoutes(56) },
  { name: "disjoint", seconds: 9, run: showDisjoint },
  { name: "beside 40 + 40 + 40", seconds: 11, run: () => showBeside([40, 40, 40], "rate", 99) },
  { name: "small demand under MPS", seconds: 16, run: showSmallDemand },
  { name: "launch cost", seconds: 6, run: showLaunchCost },
];
/** The weightiest first, so that a visit cut short has them. */
const CELLS: Cell[] = [
  ...smoke,
  { name: "beside 56 + 56", seconds: 11, run: () => showBeside([56, 56], "rate", 99) },
  {
    name: "beside 24 + 32 + 32 + 24",
    seconds: 14,
    run: () => showBeside([24, 32, 32, 24], "rate", 99),
  },
  ...[8, 16, 32, 64, 96, 120].map((count) => ({
    name: `solo ${count}`,
    seconds: 4,
    run: () => showSolo(count),
  })),
  { name: "time mode 50 + 50", seconds: 8, run: () => showTimeMode([50, 50]) },
  { name: "time mode 10 + 20 + 30 + 40", seconds: 8, run: () => showTimeMode([10, 20, 30, 40]) },
  { name: "set-up", seconds: 20, run: showSetup },
  { name: "frameworks", seconds: 80, run: showFrameworks },
  { name: "beside in PyTorch", seconds: 35, run: () => showBeside([56, 56], "matmul", 98) },
  { name: "hog", seconds: 10, run: showHog },
  { name: "fault", seconds: 12, run: showFault },
  { name: "kills", seconds: 50, run: () => showKills(Math.max(2, Math.round(25 * scale))) },
];
/** A hundred rounds of kills, for a visit with time. */
const KILLS: Cell[] = [{ name: "kills", seconds: 200, run: () => showKills(100) }];
const NCCL: Cell[] = [{ name: "NCCL", seconds: 90, run: showNccl }];
const NOT_SIMULATED = [
  ...["facts", "small demand under MPS", "launch cost", "beside in PyTorch", "hog", "set-up"],
  ...["frameworks", "fault", "NCCL"],
];

async function build(): Promise<void> {
  const commands = sim
    ? [
        [
          "cc",
          "-std=gnu11",
          "-O2",
          "-o",
          join(out, "smids"),
          join(root, "tests/fixtures/smids.c"),
          "-ldl",
        ],
        [
          "cc",
          "-std=gnu11",
          "-O2",
          "-pthread",
          "-o",
          join(out, "load"),
          join(root, "tests/fixtures/load.c"),
          "-ldl",
        ],
      ]
    : [
        [
          Bun.which("nvcc") ?? "/usr/local/cuda/bin/nvcc",
          "-O2",
          "-arch=sm_90",
          "-o",
          work,
          join(import.meta.dir, "spatial/work.cu"),
        ],
        [
          ...[
            "cc",
            "-std=gnu11",
            "-O2",
            "-w",
            "-o",
            join(out, "cost"),
            join(import.meta.dir, "cost.c"),
          ],
          ...[join(root, "shim/elf.c"), "-ldl", "-lm", "-L/usr/local/cuda/lib64/stubs", "-lcuda"],
        ],
      ];
  for (const words of commands) {
    const { status, err } = await run(null, words);
    if (status !== 0) throw new Error(err);
  }
  await run(["--mem", "8g"], ["true"]); // builds the shim, learns the card
}

const part = option("--part") ?? "1/1";
const [k = 1, n = 1] = part.split("/").map(Number);
const only = options("--only");
const named: Record<string, Cell[]> = { smoke, nccl: NCCL, kills: KILLS };
const cells = (named[part] ?? CELLS.filter((_, index) => index % n === k - 1))
  .filter(({ name }) => only.length === 0 || only.some((text) => name.includes(text)))
  .filter(({ name }) => !sim || !NOT_SIMULATED.includes(name));
if (Bun.argv.includes("--list")) {
  for (const { name, seconds } of cells) console.log(`${seconds} s  ${name}`);
  process.exit(0);
}
if (
  !sim &&
  !existsSync("/dev/nvidiactl") &&
  readdirSync("/dev").every((name) => !/^nvidia\d/.test(name))
) {
  console.log("skipped: no NVIDIA GPU here (--sim tries the script)");
  process.exit(0);
}
await build();
for (const cell of cells) {
  const began = performance.now();
  try {
    await cell.run();
  } catch (error) {
    row(`${cell.name}: ran to its end`, String(error).slice(0, 500), "no error", false);
  }
  console.error(
    `# ${cell.name}: ${((performance.now() - began) / 1000).toFixed(1)} s of ${cell.seconds}`,
  );
}
process.exit(failed === 0 ? 0 : 1);
