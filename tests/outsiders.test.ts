import { expect, test } from "bun:test";
import { Census } from "../src/census.ts";
import { EventFeed } from "../src/events.ts";
import { Outsiders } from "../src/outsiders.ts";
import * as layout from "../src/layout.gen.ts";
import { createRegion, slotOffset } from "../src/region.ts";
import { writeBoard } from "./fixtures/board.ts";
import { CONTENT } from "./fixtures/content.ts";
import { folder } from "./vgpu.ts";

const UUID = "GPU-00000000-0000-0000-0000-000000000001";
const STAY_MS = 1050;

/** The events after processes have been listed on a GPU for over a second; `neighbour` holds a slot of another session. */
async function watch(
  pids: number[],
  sharePpm: number,
  { isOurs = (_: number): boolean => false, neighbour = 0 } = {},
) {
  using work = folder();
  const other = createRegion(work.path, CONTENT);
  const owner = (BigInt(neighbour) << 32n) | BigInt(layout.SLOT.LIVE);
  other.region.store64(slotOffset(0) + layout.slot.owner, owner);
  other.region.store32(layout.header.slots_used, 1);
  writeBoard(work.path, UUID, [{ path: other.region.path, sharePpm }]);
  const devices = [{ uuid: UUID, memLimit: null, sharePpm, contextBytes: 0 }];
  const own = createRegion(work.path, { ...CONTENT, devices, boardDirectory: work.path });
  const feed = new EventFeed(own.region);
  const [device] = new Census(own.region).devices();
  const outsiders = new Outsiders(own.region, feed);
  const uses = pids.map((pid) => ({ pid, bytes: 5 }));
  outsiders.look(device!, uses, isOurs);
  outsiders.look(device!, uses, isOurs);
  await Bun.sleep(STAY_MS);
  for (let i = 0; i < 3; i++) outsiders.look(device!, uses, isOurs);
  feed.close();
  const events = await Array.fromAsync(feed);
  own.remove();
  other.remove();
  return events.map(({ pid, kind, name, gpu, values }) => ({ pid, kind, name, gpu, values }));
}

test("a process in no session is told of once, by name; ours, session members and the dead are not", async () => {
  using stranger = sleep({});
  using member = sleep({ VGPU_REGION: "/dev/shm/other" });
  using ours = sleep({});
  using neighbour = sleep({});
  const pids = [stranger.pid, member.pid, ours.pid, neighbour.pid, 999_999_999];
  const isOurs = (pid: number) => pid === ours.pid;
  expect(await watch(pids, 250_000, { isOurs, neighbour: neighbour.pid })).toEqual([
    {
      pid: stranger.pid,
      kind: "compute.outsider",
      name: "sleep",
      gpu: UUID,
      values: { nvml_bytes: 5 },
    },
  ]);
});

test("who has no share has nothing to lose", async () => {
  using stranger = sleep({});
  expect(await watch([stranger.pid], 1_000_000)).toEqual([]);
});

function sleep(env: Record<string, string>) {
  const child = Bun.spawn(["sleep", "20"], { env: { PATH: process.env["PATH"] ?? "", ...env } });
  return { pid: child.pid, [Symbol.dispose]: () => child.kill() };
}
