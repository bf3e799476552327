import { expect, test } from "bun:test";
import { Nvml, parseUses } from "../src/nvml.ts";

/** Memory as the driver leaves it: elements of `stride` bytes, the rest untouched. */
function elements(stride: number, uses: [pid: number, bytes: bigint][]): Uint8Array {
  const room = new Uint8Array(1024).fill(0xa5);
  const view = new DataView(room.buffer);
  uses.forEach(([pid, bytes], index) => {
    room.fill(0, index * stride, (index + 1) * stride);
    view.setUint32(index * stride, pid, true);
    view.setBigUint64(index * stride + 8, bytes, true);
    view.setUint32(index * stride + 16, 0xffff_ffff, true);
    view.setUint32(index * stride + 20, 0xffff_ffff, true);
  });
  return room;
}

test.each([24, 32])("process elements of %d bytes", (stride) => {
  const room = elements(stride, [
    [10, 100n],
    [20, 200n],
    [30, 300n],
  ]);
  expect(parseUses(room, 3)).toEqual([
    { pid: 10, bytes: 100 },
    { pid: 20, bytes: 200 },
    { pid: 30, bytes: 300 },
  ]);
});

test("a process whose memory the driver cannot tell is left out", () => {
  expect(
    parseUses(
      elements(24, [
        [10, 0xffff_ffff_ffff_ffffn],
        [20, 5n],
      ]),
      2,
    ),
  ).toEqual([{ pid: 20, bytes: 5 }]);
});

test("no process", () => {
  expect(parseUses(elements(24, []), 0)).toEqual([]);
});

test("no library, no NVML", () => {
  expect(Nvml.open("/nonexistent/libnvidia-ml.so.1")).toBeNull();
});
