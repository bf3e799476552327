import { expect, test } from "bun:test";
import { writeSync, openSync, constants } from "node:fs";
import { EventFeed } from "../src/events.ts";
import * as layout from "../src/layout.gen.ts";
import { createRegion, type Region } from "../src/region.ts";
import { checkRecord, type Event, Ring } from "../src/ring.ts";
import { CONTENT } from "./fixtures/content.ts";
import { folder } from "./vgpu.ts";

const DENIED = layout.events.find(({ name }) => name === "memory.denied")!.kind;
const { record, header } = layout;

/** What vgpu_ring_publish does, with a mark instead of real values. `state`: how far the writer comes. */
function publish(
  region: Region,
  mark: number,
  state: "published" | "writing" | "claimed" = "published",
): void {
  const index = region.number(header.ring_head);
  region.store64(header.ring_head, BigInt(index + 1));
  if (state === "claimed") return;
  const at = layout.region.ring + (index % layout.RING_RECORDS) * record.bytes;
  const lap = BigInt(Math.floor(index / layout.RING_RECORDS));
  region.store64(at + record.turn, 2n * lap + 1n);
  if (state === "writing") return;
  region.store64(at + record.mono_ns, BigInt(mark));
  region.store32(at + record.kind, DENIED);
  region.store32(at + record.pid, 4711);
  region.store32(at + record.device, layout.NO_DEVICE);
  region.copy(at + record.api, Buffer.from("cuMemAlloc_v2\0"));
  region.copy(at + record.name, Buffer.from("sixteen letters!"));
  [mark, 2, 0xffff_ffff_ffff_ffffn, 0].forEach((value, i) =>
    region.store64(at + record.value + 8 * i, BigInt(value)),
  );
  const check = checkRecord(region.slice(at, record.bytes), 2n * lap + 2n);
  region.store32(at + record.check, check);
  region.store64(at + record.turn, 2n * lap + 2n);
}

function withRegion<T>(act: (region: Region) => T): T {
  using work = folder();
  return act(createRegion(work.path, CONTENT).region);
}

const marks = (events: Iterable<Event>) => [...events].map(({ values }) => values["asked_bytes"]);

test("an event has the names that the layout gives its values", () => {
  withRegion((region) => {
    publish(region, 5);
    const [event] = [...new Ring(region).read(0n)];
    expect(event).toEqual({
      monoNs: 5n,
      pid: 4711,
      gpu: null,
      kind: "memory.denied",
      api: "cuMemAlloc_v2",
      name: "sixteen letters!",
      values: { asked_bytes: 5, used_bytes: 2, limit_bytes: null, context_bytes: 0 },
    });
  });
});

test("a reader that was lapped counts what it missed and goes on with what is left", () => {
  withRegion((region) => {
    const ring = new Ring(region);
    for (let mark = 0; mark < layout.RING_RECORDS + 10; mark++) publish(region, mark);
    const seen = marks(ring.read(0n));
    expect(seen).toHaveLength(layout.RING_RECORDS);
    expect(seen[0]).toBe(10);
    expect(ring.lost).toBe(10);
    publish(region, 9999);
    expect(marks(ring.read(0n))).toEqual([9999]);
  });
});

test.each(["writing", "claimed"] as const)(
  "a writer that died %s is waited for, then skipped and counted",
  (state) => {
    withRegion((region) => {
      const ring = new Ring(region);
      publish(region, 1);
      publish(region, 2, state);
      publish(region, 3);
      expect(marks(ring.read(1_000_000_000n))).toEqual([1]);
      expect(marks(ring.read(1_099_000_000n))).toEqual([]);
      expect(marks(ring.read(1_100_000_000n))).toEqual([3]);
      expect(ring.lost).toBe(1);
      expect(ring.isEmpty).toBe(true);
    });
  },
);

test.each([record.mono_ns, record.pid, record.value + 24, record.name + 8])(
  "a record into which a writer of an earlier lap has written at %d is not told, and counted",
  (at) => {
    withRegion((region) => {
      const ring = new Ring(region);
      [1, 2, 3].forEach((mark) => publish(region, mark));
      region.store32(layout.region.ring + record.bytes + at, 99);
      expect(marks(ring.read(0n))).toEqual([1, 3]);
      expect(ring.lost).toBe(1);
    });
  },
);

test("the feed sleeps on the bell, mixes in the supervisor's own events, and ends when it is closed", async () => {
  using work = folder();
  const { region } = createRegion(work.path, CONTENT);
  const feed = new EventFeed(region);
  const seen: unknown[] = [];
  const reading = (async () => {
    for await (const { kind, values } of feed) seen.push(values["asked_bytes"] ?? kind);
  })();
  await Bun.sleep(20);
  expect(region.load32(header.bell_wanted)).toBe(1);

  publish(region, 1);
  region.store32(header.bell_wanted, 0);
  writeSync(openSync(region.bell, constants.O_WRONLY | constants.O_NONBLOCK), "\0");
  await Bun.sleep(20);
  expect(seen).toEqual([1]);

  feed.publish({ pid: 1, gpu: null, kind: "session.end", api: null, name: "", values: {} });
  await Bun.sleep(5);
  expect(seen).toEqual([1, "session.end"]);

  publish(region, 2); // nobody rings: the end must not miss it
  publish(region, 3, "writing");
  feed.close();
  await reading;
  expect(seen).toEqual([1, "session.end", 2]);
  expect(feed.lost).toBe(1);
  expect(region.load32(header.bell_wanted)).toBe(0);
});
