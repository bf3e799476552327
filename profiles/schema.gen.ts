// Writes profiles/schema.json, for editors, from the schema that vgpu itself checks profiles with.
// `bun profiles/schema.gen.ts` (npm run schema); a test compares the two.
import { toJsonSchema } from "@valibot/to-json-schema";
import { ProfileSchema } from "../src/profile/schema.ts";

/** The text of profiles/schema.json. Checks that JSON Schema cannot express are left to vgpu. */
export function drawSchema(): string {
  const schema = toJsonSchema(ProfileSchema, {
    typeMode: "input",
    target: "draft-07",
    ignoreActions: ["check"],
    overrideAction: ({ valibotAction, jsonSchema }) =>
      valibotAction.type === "gt_value"
        ? {
            ...jsonSchema,
            exclusiveMinimum: (valibotAction as unknown as { requirement: number }).requirement,
          }
        : undefined,
  });
  return `${JSON.stringify({ title: "vgpu profile", ...schema }, null, 2)}\n`;
}

if (import.meta.main) await Bun.write(`${import.meta.dir}/schema.json`, drawSchema());
