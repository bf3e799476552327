import { afterEach, beforeEach, expect, test } from "bun:test";
import { header, LAYOUT_VERSION } from "../src/layout.gen.ts";
import { settleModes } from "../src/modes.ts";
import type { Card } from "../src/nvml.ts";
import { createRegion } from "../src/region.ts";
import { CONTENT } from "./fixtures/content.ts";
import { plan } from "./fixtures/plan.ts";
import { folder } from "./vgpu.ts";

const CARD: Card = {
  index: 0,
  uuid: "GPU-8c1f3c3a-0011-2233-4455-66778899aabb",
  name: "H200",
  totalBytes: 1 << 30,
};
const SPLIT = { sms: 132, groupSms: 8, groups: 15 };

let work: ReturnType<typeof folder>;
const cache = process.env["XDG_CACHE_HOME"];
beforeEach(() => {
  work = folder();
  process.env["XDG_CACHE_HOME"] = `${work.path}/cache`; // what the probe says is kept there
});
afterEach(() => {
  work[Symbol.dispose]();
  if (cache === undefined) delete process.env["XDG_CACHE_HOME"];
  else process.env["XDG_CACHE_HOME"] = cache;
});

/** What `vgpu run LINE` starts with on this card, beside the sessions in the folder. */
function settle(line: string, isLocked = true) {
  const directory = work.path;
  const place = {
    directory,
    boardDirectory: directory,
    listCards: () => [CARD],
    probe: { command: ["echo", `${CARD.uuid} 1.0 1 132 8 15`], env: {}, domain: "modes" },
    mps: { directory, control: "/nonexistent", pidFile: "/nonexistent" },
  };
  return settleModes(plan(`--mps off ${line}`), place, CONTENT, {}, isLocked);
}

/** Another session with the first seven groups of the card. */
function hold() {
  const partition = { groups: 0x7fn, sms: 56, split: SPLIT };
  const device = { uuid: CARD.uuid, memLimit: null, sharePpm: 1_000_000, contextBytes: 0 };
  return createRegion(work.path, { ...CONTENT, devices: [{ ...device, partition }] });
}

test("without the lock nobody gets SMs, neither who asks nor who follows the card", async () => {
  hold();
  const refused = /^another vgpu run has been starting for 10 s$/;
  await expect(settle("--sm 25", false)).rejects.toThrow(refused);
  await expect(settle("", false)).rejects.toThrow(refused);
  await expect(settle("--mode auto --sm 25", false)).rejects.toThrow(refused);
  expect((await settle("--sm 25")).partitions).toMatchObject([{ sms: 32, groups: 0x780n }]);
});

test("without the lock a share of time is still to be had", async () => {
  const { partitions, content } = await settle("--sm 25", false);
  expect([partitions, content.sharePpm]).toEqual([[], CONTENT.sharePpm]);
});

test("what a session held that has ended since the last sweep is free", async () => {
  const { region, leave } = hold();
  region.store64(header.supervisor_start, 1n); // as of another process with its pid
  leave();
  expect((await settle("--sms 120")).partitions).toMatchObject([{ sms: 120 }]);
  hold();
  await expect(settle("--sms 120")).rejects.toThrow("has 56 SMs (groups 0-6)");
});

test("sessions of another version: refused while they live, of other boards or dead they do not count", async () => {
  const own = createRegion(work.path, { ...CONTENT, boardDirectory: work.path });
  const other = createRegion(work.path, { ...CONTENT, boardDirectory: "/elsewhere" });
  for (const { region } of [own, other]) region.store32(header.layout_version, LAYOUT_VERSION - 1);
  const named = `session ${own.session} (pid ${process.pid}) is of another version of vgpu`;
  await expect(settle("--sms 8")).rejects.toThrow(named);
  expect((await settle("--sm 25")).partitions).toEqual([]);

  own.region.store64(header.supervisor_start, 1n); // its supervisor is dead, a program still has the file
  const error = await settle("--sms 8").catch((reason) => reason);
  expect(error.oneLine).toContain("(its supervisor is gone)");
  expect(error.oneLine).toEndWith(`if there are none: rm ${own.region.path}`);

  own.leave();
  expect((await settle("--sms 8")).partitions).toMatchObject([{ sms: 8 }]);
});
