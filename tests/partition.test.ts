import { describe, expect, test } from "bun:test";
import { allocate, type Asked, countBits, countGroups, formatGroups } from "../src/partition.ts";

const H200 = { sms: 132, groupSms: 8, groups: 15 };

describe("whole groups, rounded down, at least one", () => {
  const cases: [Asked, number][] = [
    [{ percent: 25 }, 4],
    [{ percent: 50 }, 8],
    [{ percent: 24 }, 3],
    [{ percent: 1 }, 1],
    [{ percent: 100 }, 15],
    [{ sms: 32 }, 4],
    [{ sms: 39 }, 4],
    [{ sms: 1 }, 1],
    [{ sms: 132 }, 15],
    ["rest", 15],
  ];
  for (const [asked, groups] of cases) {
    test(`${JSON.stringify(asked)} of an H200 is ${groups}`, () =>
      expect(countGroups(asked, H200)).toBe(groups));
  }
});

/** Sessions one after another: their groups, or null. */
function start(...asked: Asked[]): (string | null)[] {
  let taken = 0n;
  return asked.map((one) => {
    const partition = allocate(one, H200, taken);
    if (partition === null) return null;
    expect(partition.groups & taken).toBe(0n);
    expect(countBits(partition.groups) * 8).toBe(partition.sms);
    taken |= partition.groups;
    return formatGroups(partition.groups);
  });
}

describe("allocation", () => {
  test("four quarters: where one group is missing, one less", () => {
    const quarter = { percent: 25 };
    expect(start(quarter, quarter, quarter, quarter)).toEqual(["0-3", "4-7", "8-11", "12-14"]);
    expect(start(quarter, quarter, quarter, quarter, { percent: 1 })).toEqual([
      "0-3",
      "4-7",
      "8-11",
      "12-14",
      null,
    ]);
  });
  test("two halves: 8 and 7; a third finds nothing", () => {
    const half = { percent: 50 };
    expect(start(half, half, half)).toEqual(["0-7", "8-14", null]);
  });
  test("a number of SMs is met or refused", () => {
    expect(start({ sms: 56 }, { sms: 56 }, { sms: 16 }, { sms: 8 })).toEqual([
      "0-6",
      "7-13",
      null,
      "14",
    ]);
  });
  test("what is free", () => {
    expect(start({ sms: 56 }, "rest", "rest")).toEqual(["0-6", "7-14", null]);
  });
  test("the run that fits best, the lowest of equals", () => {
    // free: 0-3, 6-7, 10-14
    const taken = 0b000001100110000n | (1n << 8n) | (1n << 9n);
    const groups = (sms: number, free = taken) =>
      formatGroups(allocate({ sms }, H200, free)?.groups ?? 0n);
    expect(formatGroups(~taken & 0x7fffn)).toBe("0-3,6-7,10-14");
    expect(groups(16)).toBe("6-7");
    expect(groups(8)).toBe("6");
    expect(groups(24)).toBe("0-2");
    expect(groups(40)).toBe("10-14");
    expect(groups(48)).toBe("0-3,6-7"); // no run is long enough: the lowest
    expect(groups(88)).toBe("0-3,6-7,10-14");
    expect(groups(96)).toBe("");
  });
  test("a share keeps what it wanted in mind", () => {
    expect(allocate({ percent: 50 }, H200, 0xffn)).toEqual({
      groups: 0x7f00n,
      sms: 56,
      wantedSms: 64,
    });
  });
  test("random starts and ends: never two owners, nothing lost", () => {
    const held = new Map<number, bigint>();
    let seed = 1;
    const next = (bound: number) => (seed = (seed * 48271) % 0x7fffffff) % bound;
    for (let round = 0; round < 2000; round++) {
      const taken = [...held.values()].reduce((sum, groups) => sum | groups, 0n);
      expect(countBits(taken)).toBe(
        [...held.values()].reduce((sum, groups) => sum + countBits(groups), 0),
      );
      const partition = next(2) ? allocate({ sms: 8 * (1 + next(9)) }, H200, taken) : null;
      if (partition !== null) held.set(round, partition.groups);
      else held.delete([...held.keys()][next(held.size || 1)] ?? -1);
    }
    expect(allocate("rest", H200, 0n)?.sms).toBe(120);
  });
});
