import { expect, test } from "bun:test";
import { drawSchema } from "../../profiles/schema.gen.ts";
import shipped from "../../profiles/schema.json";

test("profiles/schema.json is what npm run schema writes", () => {
  expect(shipped as unknown).toEqual(JSON.parse(drawSchema()));
});
