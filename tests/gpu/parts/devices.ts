import { join } from "node:path";
import { out } from "../options.ts";
import { row, skip } from "../rows.ts";
import { limited, mib, run } from "../run.ts";
import { describe, Sampler, staysBelow } from "../sampling.ts";

const BLOCK_MIB = 1024;
/** What the program takes at most of one card. */
const MOST = 64;
/** 1 TiB: to look at the cards, not to fill them. */
const TOO_LARGE = `${2 ** 20}`;
const program = join(out, "devices");

interface Seen {
  uuid: string;
  totalMib: number;
  held: number;
  code: number;
}

function parse(text: string): Seen[] {
  const pattern = /^(GPU-\S+) total (\d+) held (\d+) refused (\d+)/gm;
  return [...text.matchAll(pattern)].map(([, uuid = "", total, held, code]) => ({
    uuid,
    totalMib: Number(total),
    held: Number(held),
    code: Number(code),
  }));
}

/** nvidia-smi's order, and the size of each card. */
async function cards(): Promise<Seen[]> {
  const env = { CUDA_DEVICE_ORDER: "PCI_BUS_ID", CUDA_VISIBLE_DEVICES: undefined };
  return parse((await run([program, TOO_LARGE], { env })).stdout);
}

/** Limits follow the card, whatever CUDA_VISIBLE_DEVICES calls it. Needs two GPUs. */
export async function devices(): Promise<void> {
  const known = await cards();
  const [first, second] = known;
  if (!first || !second) return skip("devices", "all", `${known.length} GPU here, two are needed`);
  const [a, b] = [first.uuid, second.uuid];
  const context = await contextMib();
  const limits = [2048, 4096];
  const each = ["--mem", "0=2g,1=4g"];
  const cases: [what: string, visible: string | undefined, order: number[]][] = [
    ["not set", undefined, [0, 1]],
    ["1", "1", [1]],
    ["1,0", "1,0", [1, 0]],
    ["1,7,0: up to the first that is not there", "1,7,0", [1]],
    ["whole UUID", b, [1]],
    ["prefixes of UUIDs", [b, a].map((uuid) => prefixOf(uuid, known)).join(","), [1, 0]],
    ["empty", "", []],
    ["9: not there", "9", []],
    ["first: means nothing", "first", []],
    ["a MIG instance that is not there", "MIG-00000000-0000-0000-0000-000000000000", []],
  ];
  for (const order of ["PCI_BUS_ID", "FASTEST_FIRST"]) {
    for (const [what, visible, expected] of cases) {
      const env = { CUDA_DEVICE_ORDER: order, CUDA_VISIBLE_DEVICES: visible };
      const native = parse((await run([program, TOO_LARGE], { env })).stdout);
      await check(
        `CUDA_DEVICE_ORDER=${order} CUDA_VISIBLE_DEVICES ${what}`,
        each,
        env,
        native,
        expected,
      );
    }
  }
  const env = { CUDA_DEVICE_ORDER: "PCI_BUS_ID", CUDA_VISIBLE_DEVICES: undefined };
  await check(
    "limits named by UUID and prefix",
    ["--mem", `${b}=4g,${prefixOf(a, known)}=2g`],
    env,
    known,
    [0, 1],
  );
  await check(
    "--gpu 1 beside CUDA_VISIBLE_DEVICES=0",
    [...each, "--gpu", "1"],
    { ...env, CUDA_VISIBLE_DEVICES: "0" },
    null,
    [1],
  );

  const half = parse(
    (await limited(["--mem", "50%", "-q"], [program, `${BLOCK_MIB}`], { env })).stdout,
  );
  row(
    "devices",
    "--mem 50%, on each card",
    known.map(({ totalMib }) => `${Math.floor(totalMib / 2)} MiB`).join(", "),
    half.map(({ totalMib, held }) => `${totalMib} MiB, ${held} GiB held`).join(", "),
    "total = half the card",
    half.length === known.length &&
      half.every(({ totalMib, held }, i) => {
        const halfMib = Math.floor((known[i]?.totalMib ?? 0) / 2);
        const most = Math.min(MOST, Math.floor((halfMib - context) / BLOCK_MIB));
        return Math.abs(totalMib - halfMib) <= 1 && held === most;
      }),
  );
  await twoSessions(context);

  /** One run: the cards in the expected order, each with its limit shown and held. */
  async function check(
    what: string,
    flags: string[],
    how: Record<string, string | undefined>,
    native: Seen[] | null,
    expected: number[],
  ): Promise<void> {
    const { stdout, stderr } = await limited([...flags, "-q"], [program, `${BLOCK_MIB}`], {
      env: how,
    });
    const seen = parse(stdout);
    const show = (list: number[]) =>
      list.map((card) => `GPU ${card}: ${limits[card]} MiB`).join(", ") || "no device";
    const got = seen.map(({ uuid, totalMib, held, code }) => {
      const card = known.findIndex((one) => one.uuid === uuid);
      return `GPU ${card}: ${totalMib} MiB, ${held} GiB held, code ${code}`;
    });
    const isRight =
      seen.length === expected.length &&
      seen.every(({ uuid, totalMib, held, code }, i) => {
        const card = expected[i] ?? -1;
        const limit = limits[card] ?? 0;
        const fits = Math.floor((limit - context) / BLOCK_MIB);
        return uuid === known[card]?.uuid && totalMib === limit && held === fits && code === 2;
      });
    const isNative =
      native === null ||
      native.map(({ uuid }) => uuid).join() === seen.map(({ uuid }) => uuid).join();
    row(
      "devices",
      what,
      show(expected),
      got.join(", ") || stdout.trim() || stderr.trim(),
      "these cards in this order (natively too), each held at its limit",
      isRight && isNative,
    );
  }
}

/** What a context costs here, from what a limit of 2 GiB leaves for blocks of 1 MiB; rounded up. */
async function contextMib(): Promise<number> {
  const { stdout } = await limited(["--mem", "0=560m", "-q", "--gpu", "0"], [program, "2"]);
  const [seen] = parse(stdout);
  return seen && seen.held > 0 ? 560 - 2 * seen.held : 560;
}

async function twoSessions(context: number): Promise<void> {
  await using sampler = new Sampler();
  const gibs = [2, 4];
  const both = await Promise.all(
    gibs.map(async (gib) => {
      const ran = await sampler.session(
        gib * 2 ** 30,
        ["--mem", `${gib}g`, "--gpu", "0", "-q"],
        [program, `${BLOCK_MIB}`, "3"],
      );
      return { gib, seen: parse(ran.stdout)[0], sample: await sampler.ask("stop", ran.pid) };
    }),
  );
  for (const { gib, seen, sample } of both) {
    const fits = Math.floor((gib * 1024 - context) / BLOCK_MIB);
    row(
      "devices",
      `two sessions on one card: the one of ${gib} GiB`,
      `${gib * 1024} MiB, ${fits} GiB held`,
      `${seen?.totalMib} MiB, ${seen?.held} GiB held; ${describe(sample)}; ${mib(sample.peak_bytes)}`,
      "its own limit, never above",
      seen?.totalMib === gib * 1024 && seen.held === fits && staysBelow(sample, true),
    );
  }
}

/** As little of a UUID as tells it from the others. */
function prefixOf(uuid: string, known: Seen[]): string {
  for (let length = 5; length < uuid.length; length++) {
    const short = uuid.slice(0, length);
    if (known.filter((one) => one.uuid.startsWith(short)).length === 1) return short;
  }
  return uuid;
}
