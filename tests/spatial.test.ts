import { describe, expect, test } from "bun:test";
import { splitArgv } from "../src/argv.ts";
import run from "../src/commands/run.ts";
import { findVisible } from "../src/devices.ts";
import { resolvePlan } from "../src/limits.ts";
import type { Card } from "../src/nvml.ts";
import type { Stranger } from "../src/region.ts";
import { arrange, type Holder } from "../src/spatial.ts";

const CARDS: Card[] = ["a", "b"].map((letter, index) => ({
  index,
  uuid: `GPU-${letter.repeat(8)}`,
  name: "H200",
  totalBytes: 1 << 30,
}));
const [A, B] = CARDS.map(({ uuid }) => uuid) as [string, string];
const FIGURES = { contextBytes: 1, sms: 132, groupSms: 8, groups: 15 };
const OLD = { ...FIGURES, groupSms: 0, groups: 0 };

const spatial = (groups: bigint): Holder => ({ session: "k3f9qa", pid: 7, groups, sms: 8 });
const timed: Holder = { session: "k3f9qa", pid: 7, groups: 0n, sms: 0 };

/** What the flags get on two cards, of which the first is held so. */
function get(
  flags: string[],
  holders: Holder[] = [],
  figures = FIGURES,
  strangers: Stranger[] = [],
) {
  const plan = resolvePlan(splitArgv([...flags, "--", "x"], run.args ?? {}), {}, null);
  const scene = {
    cards: CARDS,
    visible: undefined,
    figures: new Map([
      [A, figures],
      [B, figures],
    ]),
    holders: new Map([[A, holders]]),
    strangers,
  };
  const { partitions, notes } = arrange(plan, scene);
  return { sms: Object.fromEntries(partitions.map(({ uuid, sms }) => [uuid, sms])), notes };
}

describe("one mode a card", () => {
  test("spatial on every visible card", () => {
    expect(get(["--mode", "spatial", "--sm", "25"]).sms).toEqual({ [A]: 32, [B]: 32 });
    expect(get(["--sms", "0=8,1=16"]).sms).toEqual({ [A]: 8, [B]: 16 });
    expect(get(["--sms", "1=16"]).sms).toEqual({ [B]: 16 });
  });
  test("unnamed, a session follows the card", () => {
    expect(get(["--sm", "25"]).sms).toEqual({});
    expect(get(["--sm", "25"], [spatial(1n)]).sms).toEqual({ [A]: 32 });
    expect(get([], [spatial(0xffn)]).sms).toEqual({ [A]: 56 });
    expect(get([], [timed]).sms).toEqual({});
  });
  test("the other mode by name is refused, and the holder named", () => {
    expect(() => get(["--sm", "25", "--mode", "time"], [spatial(1n)])).toThrow(
      `${A} is in spatial mode: session k3f9qa (pid 7) has 8 SMs (groups 0)`,
    );
    expect(() => get(["--sms", "8"], [timed])).toThrow(
      `${A} is in time mode: session k3f9qa (pid 7) has a share of its time`,
    );
    expect(() => get([], [spatial(0x7fffn)])).toThrow("has no room");
  });
  test("who has met no card yet may take any that it sees", () => {
    expect(() => get(["--sms", "8"], [{ ...timed, visible: "1,0" }])).toThrow("is in time mode");
    expect(get(["--sms", "8"], [{ ...timed, visible: "1" }]).sms).toEqual({ [A]: 8, [B]: 8 });
    expect(get(["--sms", "8"], [{ ...timed, visible: B }]).sms).toEqual({ [A]: 8, [B]: 8 });
  });
  test("auto takes time mode where spatial cannot be, and says why", () => {
    const auto = ["--mode", "auto", "--sm", "50"];
    expect(get(auto).sms).toEqual({ [A]: 64, [B]: 64 });
    expect(get(auto, [timed])).toMatchObject({ sms: { [B]: 64 } });
    expect(get(auto, [timed]).notes[0]).toContain("is in time mode");
    expect(get(auto, [spatial(0xfffn)]).notes[0]).toContain("no room on");
    expect(get(auto, [], OLD)).toMatchObject({ sms: {} });
    expect(get([...auto, "--burst", "80"]).notes[0]).toContain("--burst is for time mode");
  });
  test("beside a session of another version nobody gets SMs: auto takes time mode, others are refused", () => {
    const path = "/dev/shm/vgpu-0/a1b2c3";
    const stranger = { session: "a1b2c3", pid: 9 as number | null, path };
    const beside = (flags: string[], holders: Holder[] = []) =>
      get(flags, holders, FIGURES, [stranger]);
    const words =
      "session a1b2c3 (pid 9) is of another version of vgpu: which SMs it has is not known";
    expect(() => beside(["--sms", "8"])).toThrow(words);
    expect(() => beside(["--sm", "25"], [spatial(1n)])).toThrow(words);
    expect(() => beside([], [spatial(1n)])).toThrow(words);
    expect(beside(["--mode", "auto", "--sm", "25"])).toEqual({
      sms: {},
      notes: [`${words}; --mode auto: time mode`, `${words}; --mode auto: time mode`],
    });
    expect(beside(["--sm", "25"])).toEqual({ sms: {}, notes: [] });
    stranger.pid = null;
    expect(() => beside(["--sms", "8"])).toThrow("session a1b2c3 (its supervisor is gone)");
  });
  test("an old driver is named", () => {
    expect(() => get(["--sms", "8"], [], OLD)).toThrow("green contexts: CUDA 12.4");
  });
});

describe("the cards that the target will see", () => {
  const seen = (visible?: string) => findVisible(visible, CARDS).map(({ index }) => index);
  test("all, some, none, in their order", () => {
    expect(seen()).toEqual([0, 1]);
    expect(seen("1,0")).toEqual([1, 0]);
    expect(seen(`${B}, 0`)).toEqual([1, 0]);
    expect(seen("")).toEqual([]);
    expect(seen("1,7,0")).toEqual([1]); // CUDA stops at the first that it does not know
    expect(seen("1,1")).toEqual([1]);
  });
  test("numbers of different cards are refused: CUDA's order is its own", () => {
    const mixed = CARDS.map((card, index) => ({ ...card, name: `card ${index}` }));
    expect(() => findVisible("1", mixed)).toThrow("does not say which");
    expect(findVisible(B, mixed)).toHaveLength(1);
  });
});
