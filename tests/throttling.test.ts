import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { Census } from "../src/census.ts";
import { EventFeed } from "../src/events.ts";
import * as layout from "../src/layout.gen.ts";
import { readProcess } from "../src/process.ts";
import { createRegion, deviceOffset, type Region, slotOffset, useOffset } from "../src/region.ts";
import { formatJson } from "../src/report/events.ts";
import { readSeats } from "../src/seats.ts";
import { Throttling } from "../src/throttling.ts";
import { writeBoard } from "./fixtures/board.ts";
import { findFaults } from "./fixtures/event-schema.ts";
import { CONTENT } from "./fixtures/content.ts";
import { folder } from "./vgpu.ts";

const UUID = "GPU-00000000-0000-0000-0000-000000000001";

/** A session at 60 % in a folder, and the board of its GPU. */
function session(directory: string) {
  const devices = [{ uuid: UUID, memLimit: null, sharePpm: 600_000, contextBytes: 0 }];
  const content = { ...CONTENT, devices, boardDirectory: directory };
  const { region } = createRegion(directory, content);
  const feed = new EventFeed(region);
  const census = new Census(region);
  const notes: string[] = [];
  const throttling = new Throttling(region, census, feed, (text) => void notes.push(text));
  const look = () => {
    census.update();
    throttling.finish();
  };
  return { region, feed, notes, throttling, look };
}

/** A process in slot 0 that was held back. */
function holdBack(region: Region, waits: number, throttledNs: number, launches: number): void {
  region.store32(layout.header.slots_used, 1);
  region.store64(slotOffset(0) + layout.slot.start_time, readProcess(process.pid)!.startTime);
  const owner = (BigInt(process.pid) << 32n) | BigInt(layout.SLOT.LIVE);
  region.store64(slotOffset(0) + layout.slot.owner, owner);
  region.store64(useOffset(0, 0) + layout.use.waits, BigInt(waits));
  region.store64(useOffset(0, 0) + layout.use.throttled_ns, BigInt(throttledNs));
  region.store64(useOffset(0, 0) + layout.use.launches, BigInt(launches));
}

const takeSeat = (region: Region, seat: number) =>
  region.store32(deviceOffset(0) + layout.device.board_seat, seat + 1);

async function eventsOf(feed: EventFeed) {
  feed.close();
  const events = await Array.fromAsync(feed);
  const frame = { session: "k3f9qa", startMonoNs: 0n, startWallNs: 0n };
  for (const event of events)
    expect(findFaults(JSON.parse(formatJson(event, 1, frame)))).toEqual([]);
  return events.map(({ kind, gpu, values }) => ({ kind, gpu, values }));
}

test("what was held back is told by difference, and only while it changes", async () => {
  using work = folder();
  const { region, feed, look, throttling } = session(work.path);
  takeSeat(region, 0);
  writeBoard(work.path, UUID, [{ path: region.path, sharePpm: 600_000, turns: 7 }]);
  holdBack(region, 10, 4_000_000, 300);
  look();
  look();
  writeBoard(work.path, UUID, [{ path: region.path, sharePpm: 600_000, turns: 9 }]);
  look(); // nothing was held back: the turns are told with what comes
  region.store32(deviceOffset(0) + layout.device.burst_ppm, 900_000);
  holdBack(region, 12, 5_000_000, 350);
  look();
  expect(throttling.turnsOf(0)).toEqual({ turns: 9, stolen: 1, waitedNs: 5000 });
  const events = await eventsOf(feed);
  expect(events.map(({ values: { realised_share, ...values } }) => values)).toEqual([
    {
      waits: 10,
      waited_ns: 4_000_000,
      launches: 300,
      share: 60,
      burst: null,
      turns: 7,
      turns_stolen: 1,
      turn_waited_ns: 5000,
    },
    {
      waits: 2,
      waited_ns: 1_000_000,
      launches: 50,
      share: 60,
      burst: 90,
      turns: 2,
      turns_stolen: 0,
      turn_waited_ns: 0,
    },
  ]);
});

test("GPU time over the time since the last report is the realised share", async () => {
  using work = folder();
  const { region, feed, look } = session(work.path);
  holdBack(region, 1, 1, 1);
  look();
  await Bun.sleep(200);
  region.store64(deviceOffset(0) + layout.device.charged_ns, 50_000_000n);
  holdBack(region, 2, 2, 2);
  look();
  const [, event] = await eventsOf(feed);
  expect(event?.values["realised_share"]).toBeWithin(5, 25.01);
});

test("shares above 100 together are told when they come to be, change, and are over", async () => {
  using work = folder();
  const { region, feed, notes, look } = session(work.path);
  const own = { path: region.path, sharePpm: 600_000 };
  const other = (sharePpm: number) => ({ path: "/other", sharePpm });
  const steps = [
    [own],
    [own, other(400_000)],
    [own, other(600_000)],
    [own, other(600_000)],
    [own, other(600_000), other(300_000), other(1_000_000)],
    [own, { ...other(900_000), pid: 999_999_999 }],
  ];
  writeBoard(work.path, UUID, [own, other(900_000)]);
  look(); // no seat yet: not our board
  takeSeat(region, 0);
  for (const seats of steps) {
    writeBoard(work.path, UUID, seats);
    look();
  }
  const events = await eventsOf(feed);
  expect(events.map(({ gpu }) => gpu)).toEqual([UUID, UUID, UUID]);
  expect(events.map(({ values }) => values)).toEqual([
    { share_sum: 120, sessions: 2, share: 60, scaled_share: 50 },
    { share_sum: 150, sessions: 3, share: 60, scaled_share: 40 },
    { share_sum: 60, sessions: 1, share: 60, scaled_share: 60 },
  ]);
  expect(notes).toEqual([
    `the shares of 2 sessions on ${UUID} come to 120 %: while all are busy, this session's 60 % is 50 %`,
  ]);
});

test("a board of another version, or a torn one, has no seats", () => {
  using work = folder();
  writeBoard(work.path, UUID, [{ path: "/x", sharePpm: 1 }]);
  expect(readSeats(work.path, UUID)).toHaveLength(1);
  const path = `${work.path}/board-${UUID}`;
  const bytes = Buffer.alloc(layout.board.bytes);
  writeFileSync(path, bytes);
  expect(readSeats(work.path, UUID)).toEqual([]);
  writeFileSync(path, bytes.subarray(0, 100));
  expect(readSeats(work.path, UUID)).toEqual([]);
  expect(readSeats(work.path, "GPU-none")).toEqual([]);
});
