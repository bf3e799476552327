import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { compileFixture, folder, PLAIN, vgpu } from "../vgpu.ts";

const work = folder();
const devices = join(work.path, "devices");
afterAll(() => work[Symbol.dispose]());

/** UUIDs of the simulated cards in nvidia-smi's order. */
let cards: string[] = [];

beforeAll(() => {
  compileFixture(devices);
  cards = run([], 3).map(([uuid]) => uuid);
}, 60_000);

const CARD_MIB = 143_155;
let machines = 0;

/** What the program saw: UUID, total MiB, blocks of 1 GiB that it got, for each CUDA device in its order. */
function run(flags: string[], gpus: number, more: Record<string, string> = {}) {
  const directory = join(work.path, `machine-${machines++}`);
  mkdirSync(directory);
  const env = { ...PLAIN, VGPU_SIM_DIR: directory, VGPU_SIM_GPUS: `${gpus}`, ...more };
  const words = ["run", "--sim", "-q", ...flags, "--", devices, "1024"];
  const { stdout, stderr } = vgpu(words, { env });
  expect(stderr).toBe("");
  return [...stdout.matchAll(/^(GPU-\S+) total (\d+) held (\d+) refused/gm)].map(
    ([, uuid = "", total, held]) => [uuid, Number(total), Number(held)] as const,
  );
}

const limited = ["--mem", "0=2g,1=4g,2=8g"];
/** What each card's limit lets a program see and take (a context costs 518 MiB). */
const seen = (card: number) => [cards[card], [2048, 4096, 8192][card], [1, 3, 7][card]];

describe("limits of single GPUs follow the card, whatever CUDA_VISIBLE_DEVICES calls it", () => {
  test.each([
    ["all, when it is not set", undefined, [0, 1, 2]],
    ["a subset", "1", [1]],
    ["another order", "2,0", [2, 0]],
    ["up to the first that is not there", "1,7,0", [1]],
    ["none, when it is empty", "", []],
    ["none, when nothing in it is there", "9", []],
    ["none, for words that mean nothing", "first", []],
    ["none, for a MIG instance that is not there", "MIG-00000000-0000-0000-0000-000000000000", []],
  ])("%s", (_, visible, order) => {
    const env: Record<string, string> =
      visible === undefined ? {} : { CUDA_VISIBLE_DEVICES: visible };
    expect(run(limited, 3, env)).toEqual(order.map(seen) as never);
  });

  test("UUIDs, whole and as a prefix", () => {
    const [first = "", second = "", third = ""] = cards;
    const short = prefixOf(third);
    expect(run(limited, 3, { CUDA_VISIBLE_DEVICES: second })).toEqual([seen(1)] as never);
    expect(run(limited, 3, { CUDA_VISIBLE_DEVICES: `${short},${first}` })).toEqual([
      seen(2),
      seen(0),
    ] as never);
  });

  test.each(["PCI_BUS_ID", "FASTEST_FIRST"])("CUDA_DEVICE_ORDER=%s", (order) => {
    const env = { CUDA_DEVICE_ORDER: order, CUDA_VISIBLE_DEVICES: "1,0" };
    expect(run(limited, 3, env)).toEqual([seen(1), seen(0)] as never);
  });

  test("named by UUID, and by a prefix of it", () => {
    const [first = "", second = ""] = cards;
    expect(run(["--mem", `${second}=4g,${prefixOf(first)}=2g`], 2)).toEqual([
      seen(0),
      seen(1),
    ] as never);
  });

  test("--gpu and CUDA_VISIBLE_DEVICES: the flag wins", () => {
    const env = { CUDA_VISIBLE_DEVICES: "0" };
    expect(run([...limited, "--gpu", "2,1"], 3, env)).toEqual([seen(2), seen(1)] as never);
  });
});

/** The shortest beginning that only this card has. */
function prefixOf(uuid: string): string {
  for (let length = 5; length < uuid.length; length++) {
    const prefix = uuid.slice(0, length);
    if (cards.filter((card) => card.startsWith(prefix)).length === 1) return prefix;
  }
  return uuid;
}

test("a plain limit holds on each card by itself", () => {
  expect(run(["--mem", "4g"], 2)).toEqual([
    [cards[0]!, 4096, 3],
    [cards[1]!, 4096, 3],
  ]);
});

test("half of each card", () => {
  const half = Math.floor(CARD_MIB / 2);
  for (const [, total, held] of run(["--mem", "50%"], 2)) {
    expect(total).toBe(half);
    expect(held).toBe(64); // the program stops there
  }
  const small = run(["--mem", "2%"], 2).map(([, total, held]) => [total, held]);
  expect(small).toEqual([
    [2863, 2],
    [2863, 2],
  ]);
});

test("cards that nobody names are unlimited, and a note says so", () => {
  const directory = join(work.path, "note");
  mkdirSync(directory);
  const env = { ...PLAIN, VGPU_SIM_DIR: directory, VGPU_SIM_GPUS: "2" };
  const { stdout, stderr } = vgpu(["run", "--sim", "--mem", "1=4g", "--", devices, "1024"], {
    env,
  });
  expect(stderr).toContain("vgpu: no limit is given for memory on GPU 0\n");
  expect(stdout).toMatch(/total 143155 held 64[^\n]*\n[^\n]*total 4096 held 3 refused 2\n$/);
});

test("no note where every card has a limit", () => {
  const env = { ...PLAIN, VGPU_SIM_GPUS: "2", VGPU_SIM_DIR: work.path };
  const words = ["run", "--sim", "--mem", "0=4g,1=8g", "--sm", "0=25,1=50", "true"];
  expect(vgpu(words, { env })).toEqual({ status: 0, stdout: "", stderr: "" });
});

test("a GPU that is not there is refused before anything starts, in one line that says who named it", () => {
  const env = { ...PLAIN, VGPU_SIM_GPUS: "2", VGPU_SIM_DIR: work.path };
  const refuse = (words: string[], more: Record<string, string> = {}) =>
    vgpu(["run", "--sim", ...words, "true"], { env: { ...env, ...more } });
  const { status, stderr } = refuse(["--mem", "2=4g"]);
  expect(status).toBe(125);
  expect(stderr).toMatch(
    /^vgpu: --mem: there is no GPU '2'; this machine has GPU 0 \(GPU-.*1 \(GPU-.*\n$/,
  );
  expect(refuse([], { VGPU_GPU: "7" }).stderr).toStartWith("vgpu: VGPU_GPU: there is no GPU '7'");
  using here = folder({ "p.yaml": 'gpus: {"3": {memory: 1g}}' });
  const profile = `${here.path}/p.yaml`;
  expect(refuse(["--profile", profile]).stderr).toStartWith(
    `vgpu: profile ${profile}: gpus.3: there is no GPU '3'`,
  );
});
