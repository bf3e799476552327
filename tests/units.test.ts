import { describe, expect, test } from "bun:test";
import { formatBytes, formatSize, parsePercent, parseSize, writeSize } from "../src/units.ts";

const GIB = 1024 ** 3;

describe("parseSize", () => {
  test.each([
    ["4g", 4 * GIB],
    ["4G", 4 * GIB],
    ["4GiB", 4 * GIB],
    ["4gib", 4 * GIB],
    ["4GB", 4e9],
    ["4gb", 4e9],
    ["512m", 512 * 1024 ** 2],
    ["512MB", 512e6],
    ["1.5g", 1.5 * GIB],
    ["1k", 1024],
    ["1kB", 1000],
    ["2T", 2 * 1024 ** 4],
    ["0.3k", 307],
  ])("%s is %d bytes", (text, bytes) => {
    expect(parseSize(text)).toEqual({ bytes });
  });

  test.each([
    ["50%", 50],
    ["0.5%", 0.5],
    ["100%", 100],
  ])("%s is %d percent of the device", (text, percent) => {
    expect(parseSize(text)).toEqual({ percent });
  });

  test.each(["none", "None", "NONE"])("%s is no limit", (text) => {
    expect(parseSize(text)).toBeNull();
  });

  test.each([
    "4096",
    "4b",
    "4z",
    "g",
    "",
    " 4g",
    "4 g",
    "-4g",
    "+4g",
    "1e3m",
    ".5g",
    "4.g",
    "4g4",
    "0g",
    "0%",
    "101%",
    "0.0001k",
    "9000000t",
    "infinity",
    "4GIBB",
    "4i",
    "none4g",
    "4g\n",
  ])("%j is malformed", (text) => {
    expect(parseSize(text)).toBeUndefined();
  });
});

describe("parsePercent", () => {
  test.each([
    ["25", 25],
    ["12.5", 12.5],
    ["0.1", 0.1],
    ["100", 100],
    ["25%", 25],
  ])("%s is %d", (text, percent) => {
    expect(parsePercent(text)).toBe(percent);
  });
  test.each(["0", "0.0", "100.1", "-5", "a", "", "1e1", "25 %", "NaN", "Infinity"])(
    "%j is malformed",
    (text) => {
      expect(parsePercent(text)).toBeUndefined();
    },
  );
  test("none is no limit", () => expect(parsePercent("none")).toBeNull());
});

test.each([
  [0, "0 B"],
  [1023, "1023 B"],
  [1536, "1.5 KiB"],
  [4 * GIB, "4 GiB"],
  [4e9, "3.73 GiB"],
  [5 * 1024 ** 4, "5 TiB"],
])("%d bytes are drawn as %s", (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test("sizes are drawn for a reader", () => {
  expect([formatSize(null), formatSize({ percent: 50 }), formatSize({ bytes: GIB })]).toEqual([
    "no limit",
    "50 % of the device",
    "1 GiB",
  ]);
});

test.each(["4g", "4GB", "1500m", "0.3k", "50%", "none", "1.5g", "3.7t"])(
  "%s is written so that it reads back exactly",
  (text) => {
    const size = parseSize(text) ?? null;
    expect(parseSize(writeSize(size))).toEqual(size);
  },
);
