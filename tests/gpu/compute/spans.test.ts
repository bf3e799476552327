import { describe, expect, test } from "bun:test";
import { type Cell, partOf } from "./cell.ts";
import { overshoot, settledAfter } from "./live.ts";
import { sumUp } from "./report.ts";
import * as spans from "./spans.ts";

const of = (...pairs: [number, number][]): spans.Spans => ({
  starts: Float64Array.from(pairs, ([start]) => start),
  ends: Float64Array.from(pairs, ([, end]) => end),
});

/** Slices of `share` percent of 4 ms, from `from` to `to`. */
const slices = (share: number, from: number, to: number): spans.Piece[] =>
  Array.from({ length: Math.floor((to - from) / 4e6) }, (_, i) => [
    from + i * 4e6,
    from + i * 4e6 + share * 4e4,
  ]);

describe("spans", () => {
  test("are read relative to the origin, sorted, unwritten ones left out", () => {
    const origin = 1_790_000_000_000_000_000n;
    const words = new BigUint64Array([
      origin + 500n,
      origin + 900n,
      0n,
      0n,
      origin + 10n,
      origin + 20n,
    ]);
    expect(spans.parseSpans(words.buffer, origin)).toEqual(of([10, 20], [500, 900]));
    const low = new BigUint64Array([origin - 7n, origin + (1n << 33n)]);
    expect(spans.parseSpans(low.buffer, origin)).toEqual(of([-7, 2 ** 33]));
  });
  test("merge by start", () => {
    expect(spans.mergeSpans([of([5, 6], [9, 10]), of([1, 7])])).toEqual(
      of([1, 7], [5, 6], [9, 10]),
    );
  });
  test("pauses up to 100 µs are occupied, longer ones not", () => {
    const pieces = spans.piecesOf(of([0, 10e3], [110e3, 120e3], [220_001, 230e3]));
    expect(pieces).toEqual(
      [
        [0, 120e3],
        [220_001, 230e3],
      ].map(([a, b]): spans.Piece => [a!, b!]),
    );
    expect(spans.covered(pieces, [60e3, 225e3])).toBe(60e3 + 4999);
  });
  test("a kernel half in the window counts a half", () => {
    expect(spans.kernelsIn(of([0, 10], [10, 20], [20, 30]), [5, 20])).toBe(1.5);
    expect(spans.kernelsIn(of([5, 5], [20, 20]), [5, 20])).toBe(1);
  });
  test("a window shrinks to whole periods, unless little would be left", () => {
    const pieces = slices(25, 1e6, 101e6);
    expect(spans.wholePeriods(pieces, [0, 100e6])).toEqual([1e6, 97e6]);
    expect(
      spans.wholePeriods(
        [
          [0, 90e6],
          [95e6, 100e6],
        ],
        [0, 100e6],
      ),
    ).toEqual([0, 95e6]);
    expect(
      spans.wholePeriods(
        [
          [0, 35e6],
          [40e6, 100e6],
        ],
        [0, 100e6],
      ),
    ).toEqual([0, 100e6]);
  });
  test("overlap of two sessions", () => {
    expect(
      spans.overlap(
        [
          [0, 10],
          [20, 30],
        ],
        [[5, 25]],
        [0, 100],
      ),
    ).toBe(10);
    expect(spans.overlap([[0, 10]], [[10, 20]], [0, 100])).toBe(0);
  });
  test("hand-overs are from one session's last kernel to the other's first", () => {
    const [a, b] = [of([0, 1e6], [1.01e6, 2e6], [5.2e6, 6e6]), of([2.15e6, 5e6])];
    expect(spans.handOvers([a, b], [0, 1e9]).map(Math.round)).toEqual([150_000, 200_000]);
  });
  test("a stall counts from the moment, and is endless if nothing followed", () => {
    const one = of([0, 10], [50, 60], [61, 200]);
    expect(spans.stallAfter(one, 20, 100)).toBe(30);
    expect(spans.stallAfter(one, 5, 100)).toBe(40);
    expect(spans.stallAfter(of([0, 10]), 20, 100)).toBe(Infinity);
    expect(spans.stallAfter(of([0, 10], [5000, 5001]), 20, 100)).toBe(4980);
  });
});

describe("a live change", () => {
  const change = { at: 100e6, until: 600e6, share: 50 };
  test("at once is settled with the first 100 ms", () => {
    const pieces = [...slices(25, 0, 100e6), ...slices(50, 100e6, 600e6)];
    expect(settledAfter(pieces, change)).toBe(100e6);
    expect(overshoot(pieces, change)).toBe(1e6);
  });
  test("late is seen late", () => {
    const pieces = [...slices(25, 0, 200e6), ...slices(50, 200e6, 600e6)];
    expect(settledAfter(pieces, change)).toBeGreaterThan(150e6);
  });
  test("that never comes is never settled, and too much is an overshoot", () => {
    expect(settledAfter(slices(25, 0, 600e6), change)).toBe(Infinity);
    expect(overshoot([[100e6, 300e6]], change)).toBe(100e6);
  });
});

test("parts are about equal and lose nothing", () => {
  const run = async () => {};
  const cells = [9, 1, 2, 3, 8, 4, 5].map((seconds, i): Cell => ({
    group: "g",
    what: `${i}`,
    seconds,
    run,
  }));
  const parts = [1, 2, 3].map((k) => partOf(cells, k, 3));
  expect(parts.flat().toSorted((a, b) => +a.what - +b.what)).toEqual(cells);
  for (const part of parts) {
    const sum = part.reduce((total, { seconds }) => total + seconds, 0);
    expect(sum).toBeGreaterThan(8);
    expect(sum).toBeLessThan(14);
  }
});

test("a group with small errors and a great mean fails", () => {
  const row = { group: "one session", asked: "25 %", got: "", bar: "", ok: true };
  const rows = [0.4, -0.9].map((error, i) => ({ ...row, what: `${i}`, error }));
  expect(sumUp(rows).map(({ ok }) => ok)).toEqual([false]);
  expect(sumUp(rows.slice(0, 1)).map(({ ok }) => ok)).toEqual([true]);
});
