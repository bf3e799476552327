import { expect, test } from "bun:test";
import { isColored } from "../../src/report/color.ts";
import { ROOT } from "../vgpu.ts";

test("no terminal, no colour", () => {
  const pipe = Bun.spawnSync([
    process.execPath,
    "-e",
    `import { isColored } from "${ROOT}/src/report/color.ts"; console.log(isColored(1, {}))`,
  ]);
  expect(pipe.stdout.toString()).toBe("false\n");
  expect(isColored(987654, {})).toBe(false);
});

// script(1) gives the command a terminal.
test.skipIf(Bun.which("script") === null).each([
  ["", true],
  ["NO_COLOR=", true],
  ["NO_COLOR=0", false],
  ["NO_COLOR=true", false],
  ["TERM=dumb", false],
])("on a terminal with %j: %p", (setting, colored) => {
  const words = [
    "script",
    "-qec",
    `env -u NO_COLOR TERM=xterm ${setting} ${ROOT}/bin/vgpu help`,
    "/dev/null",
  ];
  const { stdout } = Bun.spawnSync(words, { stdin: "ignore" });
  expect(stdout.toString().includes("\x1b[1m")).toBe(colored);
  expect(stdout.toString()).toContain("Usage:");
});
