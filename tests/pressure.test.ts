import { expect, test } from "bun:test";
import { nextThreshold, type Pressure, stepPressure, Velocity } from "../src/pressure.ts";

const calm: Pressure = { level: 0, aboveSoft: false };
const at = (level: number, aboveSoft = false): Pressure => ({ level, aboveSoft });

test.each([
  [calm, 69, at(0)],
  [calm, 70, at(70)],
  [calm, 96, at(95)],
  [at(70), 66, at(70)],
  [at(70), 64, at(0)],
  [at(95), 91, at(95)],
  [at(95), 89, at(85)],
  [at(95), 67, at(70)],
  [at(95), 10, at(0)],
])("%o at %d %% of the limit becomes %o", (before, percent, after) => {
  expect(stepPressure(before, percent, 100, null)).toEqual(after);
});

test.each([
  [false, 40, false],
  [false, 41, true],
  [true, 36, true],
  [true, 35, false],
])("soft limit 40 of 100: above %p, then %d is %p", (aboveSoft, used, after) => {
  expect(stepPressure({ level: 0, aboveSoft }, used, 100, 40).aboveSoft).toBe(after);
});

test("the next threshold is the nearest that is not reached", () => {
  expect(nextThreshold(calm, 1000, null)).toBe(699);
  expect(nextThreshold(calm, 1000, 500)).toBe(500);
  expect(nextThreshold(at(85, true), 1000, 500)).toBe(949);
  expect(nextThreshold(at(95), 1000, null)).toBe(0);
  expect(nextThreshold(calm, null, 500)).toBe(500);
  expect(nextThreshold(calm, null, null)).toBe(0);
});

test("velocity follows growth, forgets it in seconds, and frees do not count", () => {
  const velocity = new Velocity();
  velocity.take(0, 1);
  for (let second = 1; second <= 8; second++) velocity.take(second * 1000, second * 1e9);
  expect(velocity.bytesPerSecond).toBeCloseTo(1000, -1);
  velocity.take(0, 9e9);
  expect(velocity.bytesPerSecond).toBeLessThan(400);
  velocity.take(0, 30e9);
  expect(velocity.bytesPerSecond).toBe(0);
  expect(velocity.peak).toBeCloseTo(1000, -1);
});
