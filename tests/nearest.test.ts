import { expect, test } from "bun:test";
import { nearest } from "../src/nearest.ts";

const CHOICES = ["run", "demo", "profile", "help", "events-file", "mem"];

test.each<[string, string | undefined]>([
  ["rnu", "run"],
  ["prof", "profile"],
  ["Profiel", "profile"],
  ["event-file", "events-file"],
  ["men", "mem"],
  ["python", undefined],
  ["x", undefined],
  ["", undefined],
])("%j is nearest to %j", (word, choice) => {
  expect(nearest(word, CHOICES)).toBe(choice);
});
