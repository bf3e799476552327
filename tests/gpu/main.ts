// The checks on a real GPU: native and limited in the same run, one table at the end.
//   bun tests/gpu/main.ts [--part shares,load,memory,pair,cost,startup] [--out DIR]
// Needs a CUDA driver, gcc and nvcc; the PyTorch parts need python3 with torch (skipped without).
// Each row: what, asked, got, bar, ok. Exit status 1 if a row misses its bar.
import { mkdirSync, appendFileSync, existsSync } from "node:fs";
import { join } from "node:path";

const here = import.meta.dir;
const root = join(here, "../..");
const vgpu = join(root, "bin/vgpu");

interface Row {
  part: string;
  what: string;
  asked: string;
  got: string;
  bar: string;
  ok: boolean;
}

const rows: Row[] = [];
const option = (name: string): string | undefined => {
  const at = Bun.argv.indexOf(name);
  return at < 0 ? undefined : Bun.argv[at + 1];
};
const out = option("--out") ?? join("/tmp", `vgpu-gpu-${process.pid}`);
const parts = option("--part")?.split(",");
mkdirSync(out, { recursive: true });

function row(
  part: string,
  what: string,
  asked: string,
  got: string,
  bar: string,
  ok: boolean,
): void {
  rows.push({ part, what, asked, got, bar, ok });
  console.log(`${ok ? "ok" : "NOT OK"} ${part}: ${what}: asked ${asked}, got ${got} (bar ${bar})`);
}

interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

async function run(words: string[], env: Record<string, string> = {}): Promise<Ran> {
  const child = Bun.spawn(words, {
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), 240_000);
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  clearTimeout(timer);
  appendFileSync(join(out, "log.txt"), `$ ${words.join(" ")}\n[${code}]\n${stdout}${stderr}\n`);
  return { code, stdout, stderr };
}

const limited = (flags: string[], words: string[]): Promise<Ran> =>
  run([vgpu, "run", ...flags, "--", ...words]);

async function build(): Promise<void> {
  const commands = [
    ["nvcc", "-O2", "-o", join(out, "load"), join(here, "load.cu")],
    ["gcc", "-O2", "-w", "-o", join(out, "sampler"), join(here, "sampler.c"), "-ldl"],
    ["gcc", "-O2", "-w", "-o", join(out, "first_call"), join(here, "first_call.c"), "-ldl"],
    [
      "gcc",
      "-O2",
      "-w",
      "-D_GNU_SOURCE",
      "-o",
      join(out, "cost"),
      join(here, "cost.c"),
      join(root, "shim/elf.c"),
      "-ldl",
      "-lm",
      "-L/usr/local/cuda/lib64/stubs",
      "-lcuda",
    ],
  ];
  for (const words of commands) {
    const { code, stderr } = await run(words);
    if (code !== 0) throw new Error(`${words[0]} failed: ${stderr.slice(0, 400)}`);
  }
}

interface Load {
  rate: number;
  busy: number;
}

const last = <T>(text: string): T => JSON.parse(text.trim().split("\n").at(-1) ?? "") as T;
const percent = (value: number): string => `${value.toFixed(2)} %`;

// What is compared (docs/limits.md): throughput against native where the GPU sets the pace; where the
// host does (kernels shorter than a launch takes), occupancy against wall time, by %globaltimer. Several
// processes are compared with one native process: natively the driver's switching between them costs 9 %.
async function loadShares(): Promise<void> {
  const cases = [
    "--us 2",
    "--us 10",
    "--us 50",
    "--us 460",
    "--us 5000 --seconds 8",
    "--us 50 --streams 4",
    "--us 50 --sync",
    "--us 460 --sync",
    "--us 20 --graph 50",
    "--us 50 --processes 2",
    "--us 50 --threads 4",
  ];
  for (const words of cases) {
    const command = [join(out, "load"), ...words.split(" ")];
    const native = last<Load>(
      (await run([join(out, "load"), ...words.replace(/ --processes 2/, "").split(" ")])).stdout,
    );
    for (const share of words === "--us 50" ? [10, 25, 50, 75, 90] : [25]) {
      const got = await limited(["--sm", String(share), "-v"], command);
      if (got.code !== 0) {
        row("load", words, `${share} %`, `exit ${got.code}`, "runs", false);
        continue;
      }
      const load = last<Load>(got.stdout);
      const rate = (100 * load.rate) / native.rate;
      const judged = words === "--us 2" ? load.busy : rate;
      const seen = `${percent(rate)} of native rate, occupancy ${percent(load.busy)}`;
      row("load", words, `${share} %`, seen, "± 2 points", Math.abs(judged - share) <= 2);
    }
  }
}

interface TorchLine {
  load: string;
  rate: number;
  busy: number | null;
}

async function torch(flags: string[] | null): Promise<Map<string, TorchLine>> {
  const words = ["python3", join(here, "torch_share.py"), "--seconds", "2"];
  const { code, stdout, stderr } = flags
    ? await limited([...flags, "-q"], words)
    : await run(words);
  if (code !== 0) throw new Error(`torch_share.py: exit ${code}: ${stderr.slice(-600)}`);
  const lines = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as TorchLine);
  return new Map(lines.map((line) => [line.load, line]));
}

const ROUNDS = 2;

async function torchShares(): Promise<void> {
  const share = await torch(["--sm", "25"]);
  const natives: Map<string, TorchLine>[] = [];
  const unlimited: Map<string, TorchLine>[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    natives.push(await torch(null));
    unlimited.push(await torch([]));
  }
  const best = (runs: Map<string, TorchLine>[], load: string): number =>
    Math.max(...runs.map((one) => one.get(load)?.rate ?? NaN));
  for (const [load, line] of share) {
    const native = best(natives, load);
    const rate = (100 * line.rate) / native;
    if (load === "matmul_bf16")
      row(
        "shares",
        `PyTorch ${load}, GPU time by events in a graph`,
        "25 %",
        `${percent(line.busy ?? NaN)} (throughput ${percent(rate)}: natively it is limited by power)`,
        "25 ± 2 points",
        Math.abs((line.busy ?? NaN) - 25) <= 2,
      );
    else
      row(
        "shares",
        `PyTorch ${load}`,
        "25 %",
        percent(rate),
        "25 ± 2 points",
        Math.abs(rate - 25) <= 2,
      );
    const free = (100 * best(unlimited, load)) / native;
    row(
      "shares",
      `PyTorch ${load}, no --sm, better of ${ROUNDS}`,
      "100 %",
      percent(free),
      "≥ 99.5 %",
      free >= 99.5,
    );
  }
}

interface Sample {
  peak_bytes: number;
  samples: number;
  per_second: number;
  slowest_ms: number;
  above_limit: number;
}

async function sampled<T>(limit: number, body: () => Promise<T>): Promise<[T, Sample]> {
  const sampler = Bun.spawn([join(out, "sampler"), String(limit)], {
    stdin: "pipe",
    stdout: "pipe",
  });
  const value = await body();
  sampler.stdin.end();
  return [value, last<Sample>(await new Response(sampler.stdout).text())];
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

async function memory(): Promise<void> {
  const limit = 4 * 2 ** 30;
  const file = join(out, "memory-events.ndjson");
  const [ran, sample] = await sampled(limit, () =>
    limited(["--mem", "4g", "--events-file", file], ["python3", join(here, "torch_memory.py")]),
  );
  const seen = last<{ checks: Record<string, boolean> }>(ran.stdout);
  for (const [name, ok] of Object.entries(seen.checks))
    row("memory", `PyTorch in 4 GiB: ${name}`, "true", String(ok), "true", ok);
  row(
    "memory",
    "NVML's figure of the tree, sampled from outside",
    mib(limit),
    `${mib(sample.peak_bytes)} at most, ${sample.per_second} samples/s, ${sample.above_limit} above`,
    "never above",
    sample.above_limit === 0,
  );
  const events = (await Bun.file(file).text())
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const denied = events.find((event) => event["kind"] === "memory.denied");
  const named = ["pid", "api", "asked_bytes", "used_bytes", "limit_bytes"].every(
    (key) => denied?.[key] !== undefined,
  );
  row(
    "memory",
    "the denial's event names process, API, asked, used, limit",
    "all five",
    JSON.stringify(denied ?? null),
    "present",
    named,
  );
}

// Two programs started by one shell under one session share one limit and one share.
async function pair(): Promise<void> {
  const load = `${join(out, "load")} --us 50 --seconds 4`;
  const native = last<Load>(
    (await run([join(out, "load"), "--us", "50", "--seconds", "3"])).stdout,
  );
  const both = await limited(
    ["--mem", "4g", "--sm", "25", "-q"],
    ["sh", "-c", `${load} > ${out}/a.json & ${load} > ${out}/b.json; wait`],
  );
  const rates = await Promise.all(
    ["a", "b"].map(async (name) => last<Load>(await Bun.file(`${out}/${name}.json`).text()).rate),
  );
  const sum = (100 * rates.reduce((a, b) => a + b, 0)) / native.rate;
  row(
    "pair",
    "two processes of one session, sum of native rate",
    "25 %",
    `${percent(sum)} (${rates.map((rate) => percent((100 * rate) / native.rate)).join(" + ")})`,
    "25 ± 2 points",
    both.code === 0 && Math.abs(sum - 25) <= 2,
  );
  const fill = `python3 -c 'import torch,time
held=[]
try:
    while True: held.append(torch.empty(32<<20,dtype=torch.uint8,device="cuda"))
except torch.OutOfMemoryError: print(len(held)*32)
time.sleep(3)'`;
  const [filled, sample] = await sampled(4 * 2 ** 30, () =>
    limited(["--mem", "4g", "-q"], ["sh", "-c", `${fill} & ${fill}; wait`]),
  );
  row(
    "pair",
    "two processes fill one 4 GiB, NVML's figure of both",
    "4096 MiB",
    `${mib(sample.peak_bytes)}, PyTorch held ${filled.stdout.trim().split("\n").join(" + ")} MiB`,
    "≤ limit, > limit − 64 MiB",
    filled.code === 0 && sample.above_limit === 0 && sample.peak_bytes > (4096 - 64) * 2 ** 20,
  );
}

interface Cost {
  what: string;
  hooked: boolean;
  native_ns: number;
  added_ns: number;
  low: number;
  high: number;
}

async function cost(): Promise<void> {
  const cases: [string, string[], number][] = [
    ["launch", [], 20],
    ["launch", ["--sm", "90"], 150],
    ["alloc", ["--mem", "4g"], 300],
    ["async", ["--mem", "4g"], 250],
    ["create", ["--mem", "4g"], 1000],
  ];
  for (const [what, flags, bar] of cases) {
    const { code, stdout, stderr } = await limited(
      [...flags, "-q"],
      [join(out, "cost"), what, "40"],
    );
    if (code !== 0) throw new Error(`cost ${what}: exit ${code}: ${stderr}`);
    const got = last<Cost>(stdout);
    row(
      "cost",
      `${what}${flags.length ? ` under ${flags.join(" ")}` : ", unlimited"}`,
      "0 ns",
      `+${got.added_ns} ns [${got.low}, ${got.high}] on ${got.native_ns} ns`,
      `≤ ${bar} ns`,
      got.hooked && got.added_ns <= bar,
    );
  }
}

const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;

async function startup(): Promise<void> {
  const region = ["sh", "-c", "echo $LD_PRELOAD $VGPU_REGION"];
  await limited(["-q"], region);
  const first = { native: [] as number[], ours: [] as number[] };
  const file = join(out, "first.json");
  // Inside one session, so that only the shim differs: with and without the preload, in turn.
  const script = `for i in $(seq 15); do ${join(out, "first_call")}; env -u LD_PRELOAD -u VGPU_REGION ${join(out, "first_call")}; done > ${file}`;
  await limited(["--mem", "4g", "--sm", "50", "-q"], ["sh", "-c", script]);
  const lines = (await Bun.file(file).text())
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { load_us: number; init_us: number });
  lines.forEach((line, i) => (i % 2 ? first.native : first.ours).push(line.load_us + line.init_us));
  const added = (median(first.ours) - median(first.native)) / 1000;
  row(
    "startup",
    "first CUDA call (dlopen + cuInit), median of 15",
    `${(median(first.native) / 1000).toFixed(2)} ms natively`,
    `${added >= 0 ? "+" : ""}${added.toFixed(2)} ms`,
    "≤ 1 ms",
    added <= 1,
  );
  const loop = (command: string): string =>
    `s=$(date +%s%N); for i in $(seq 200); do ${command}; done; e=$(date +%s%N); echo $(( (e-s)/200000 ))`;
  const shim = `/bin/true`;
  const inside = await limited(
    ["--mem", "4g", "-q"],
    [
      "sh",
      "-c",
      `${loop(shim)}; p=$LD_PRELOAD; unset LD_PRELOAD; ${loop(shim)}; LD_PRELOAD=$p; export LD_PRELOAD; ${loop(shim)}; unset LD_PRELOAD; ${loop(shim)}`,
    ],
  );
  const [a = 0, b = 0, c = 0, d = 0] = inside.stdout.trim().split("\n").map(Number);
  const per = ((a + c) / 2 - (b + d) / 2) / 1000;
  row(
    "startup",
    "a process without CUDA (/bin/true), mean of 400",
    `${((b + d) / 2000).toFixed(3)} ms natively`,
    `+${per.toFixed(3)} ms`,
    "≤ 0.2 ms",
    per <= 0.2,
  );
  const time = async (words: string[]): Promise<number> => {
    const begin = Bun.nanoseconds();
    const child = Bun.spawn(words, { stdin: "ignore", stdout: "ignore", stderr: "ignore" });
    await child.exited;
    return (Bun.nanoseconds() - begin) / 1e6;
  };
  const ours: number[] = [];
  const native: number[] = [];
  for (let i = 0; i < 30; i++) {
    ours.push(await time([vgpu, "run", "--mem", "4g", "--sm", "25", "true"]));
    native.push(await time(["true"]));
  }
  const launch = median(ours) - median(native);
  row(
    "startup",
    "vgpu run --mem 4g --sm 25 true, warm, median of 30",
    `${median(native).toFixed(2)} ms for true`,
    `+${launch.toFixed(2)} ms`,
    "≤ 15 ms",
    launch <= 15,
  );
}

const all: Record<string, () => Promise<void>> = {
  memory,
  shares: torchShares,
  load: loadShares,
  pair,
  cost,
  startup,
};
if (!existsSync("/dev/nvidiactl")) {
  console.log("skipped: no NVIDIA GPU here");
  process.exit(0);
}
await build();
for (const [name, part] of Object.entries(all)) {
  if (parts && !parts.includes(name)) continue;
  try {
    await part();
  } catch (error) {
    row(name, "ran to its end", "yes", String(error), "no error", false);
  }
}
const table = [
  "| part | what | asked | got | bar | |",
  "|---|---|---|---|---|---|",
  ...rows.map(
    (r) => `| ${r.part} | ${r.what} | ${r.asked} | ${r.got} | ${r.bar} | ${r.ok ? "✓" : "✗"} |`,
  ),
];
await Bun.write(join(out, "table.md"), `${table.join("\n")}\n`);
await Bun.write(join(out, "rows.json"), JSON.stringify(rows, null, 1));
console.log(
  `${rows.filter((r) => r.ok).length} passed, ${rows.filter((r) => !r.ok).length} failed`,
);
process.exit(rows.every((r) => r.ok) ? 0 : 1);
