import { expect, test } from "bun:test";
import { Census } from "../src/census.ts";
import { EventFeed } from "../src/events.ts";
import * as layout from "../src/layout.gen.ts";
import { LimitChanges } from "../src/limit-changes.ts";
import { createRegion, deviceOffset, type Region, uuidBytes } from "../src/region.ts";
import type { Event } from "../src/ring.ts";
import { CONTENT } from "./fixtures/content.ts";
import { folder } from "./vgpu.ts";

const GIB = 1024 ** 3;
const NAMED = "GPU-8c1f3c3a-0011-2233-4455-66778899aabb";
const MET = "GPU-00000000-0011-2233-4455-66778899aabb";
const { device } = layout;

/** A session of 4 GiB at 25 %, with one named card of 8 GiB without a share: what it tells after each act. */
function tell(acts: ((region: Region) => void)[]): Partial<Event["values"]>[][] {
  using work = folder();
  const devices = [{ uuid: NAMED, memLimit: 8 * GIB, sharePpm: 1_000_000, contextBytes: 7 }];
  const own = createRegion(work.path, { ...CONTENT, devices });
  const feed = new EventFeed(own.region);
  const told: Event[] = [];
  feed.publish = (event) => told.push({ monoNs: 0n, ...event });
  const changes = new LimitChanges(own.content, feed, () => {});
  const census = new Census(own.region);
  return acts.map((act) => {
    act(own.region);
    changes.look(census.devices(), []);
    return told.splice(0).map(({ gpu, values }) => ({ gpu, ...values }));
  });
}

/** A process claims a card nobody named, with these limits. */
const meet = (memLimit: number, sharePpm: number) => (region: Region) => {
  const at = deviceOffset(1);
  region.copy(at + device.uuid, uuidBytes(MET));
  region.store64(at + device.mem_limit, BigInt(memLimit));
  region.store32(at + device.share_ppm, sharePpm);
  region.store32(at + device.state, layout.DEVICE.READY);
};
const nothing = () => {};

test("a card that is met with the session's own limits is no change", () => {
  expect(tell([nothing, meet(4 * GIB, 250_000), nothing])).toEqual([[], [], []]);
});

test("limits that changed before the first look at a card are told, once", () => {
  const changed = { gpu: MET, limit_bytes: GIB, share_ppm: 500_000, used_bytes: 0 };
  expect(tell([meet(GIB, 500_000), nothing])).toEqual([[changed], []]);
  const named = (region: Region) => region.store32(deviceOffset(0) + device.share_ppm, 100_000);
  const narrowed = { gpu: NAMED, limit_bytes: 8 * GIB, share_ppm: 100_000, used_bytes: 0 };
  expect(tell([named, nothing])).toEqual([[narrowed], []]);
});

test("each later change is told", () => {
  const acts = [meet(4 * GIB, 250_000), meet(2 * GIB, 250_000), meet(2 * GIB, 1_000_000)];
  const change = (limit_bytes: number, share_ppm: number) => [
    { gpu: MET, limit_bytes, share_ppm, used_bytes: 0 },
  ];
  expect(tell(acts)).toEqual([[], change(2 * GIB, 250_000), change(2 * GIB, 1_000_000)]);
});
