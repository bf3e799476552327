import { expect, test } from "bun:test";
import { join } from "node:path";

/** Each line of the script is one check; exit status 77 means that its tools are not installed. */
const scripts: [string, Record<string, string>][] = [
  ["routes.sh", {}],
  ["routes.sh", { SANITIZE: "thread" }],
  ["routes.sh", { SANITIZE: "address" }],
  ["aarch64.sh", {}],
];

test.each(scripts)(
  "every route reaches the shim: %s %j",
  async (script, settings) => {
    const run = Bun.spawn([join(import.meta.dir, script)], {
      env: { ...process.env, ...settings },
      stderr: "pipe",
    });
    const [output, errors, status] = await Promise.all([
      new Response(run.stdout).text(),
      new Response(run.stderr).text(),
      run.exited,
    ]);
    if (status === 77) return;
    expect(output.split("\n").filter((line) => line.startsWith("not ok"))).toEqual([]);
    expect({ status, errors }).toEqual({ status: 0, errors: "" });
  },
  120_000,
);
