import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { device, header } from "../../src/layout.gen.ts";
import { deviceOffset, Region } from "../../src/region.ts";
import { findFaults } from "../fixtures/event-schema.ts";
import { compileFixture, folder, PLAIN, ROOT } from "../vgpu.ts";

const MIB = 1024 ** 2;
const work = folder();
const hold = join(work.path, "hold");
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  compileFixture(hold);
  const env = { ...PLAIN, VGPU_SIM_DIR: work.path };
  Bun.spawnSync([join(ROOT, "bin/vgpu"), "run", "--sim", "-q", "true"], { env }); // builds the simulated GPU: takes seconds, once
}, 60_000);

/** Waits until a file holds a text. */
async function appearance(path: string, text = ""): Promise<void> {
  const holds = () => existsSync(path) && readFileSync(path, "utf8").includes(text);
  const deadline = Date.now() + 15_000;
  while (!holds() && Date.now() < deadline) await Bun.sleep(10);
  expect(holds()).toBe(true);
}

test("memory lowered below use: nothing is taken, nothing more is given, and it is said", async () => {
  const state = join(work.path, "machine");
  mkdirSync(state);
  const file = (name: string) => join(work.path, name);
  // The first holds a context of 518 MiB and 512 MiB more; others come when the limit has changed.
  const script = `
    ${hold} 256 2 30 >${file("first")} & first=$!
    until [ -s ${file("first")} ]; do sleep 0.02; done
    echo "$VGPU_REGION" >${file("region.new")}; mv ${file("region.new")} ${file("region")}
    until [ -e ${file("lowered")} ]; do sleep 0.02; done
    ${hold} 64 1 0 >${file("second")} 2>&1
    touch ${file("refused")}
    until [ -e ${file("raised")} ]; do sleep 0.02; done
    ${hold} 64 1 0 >${file("third")} 2>&1
    kill $first; wait; exit 0`;
  const words = [
    "run",
    "--sim",
    "--events-file",
    file("events"),
    "--mem",
    "2g",
    "--",
    "sh",
    "-c",
    script,
  ];
  const child = Bun.spawn([join(ROOT, "bin/vgpu"), ...words], {
    env: { ...PLAIN, VGPU_SIM_DIR: state },
    stdin: "ignore",
    stdout: "inherit",
    stderr: "pipe",
  });
  const said = new Response(child.stderr).text();
  await appearance(file("region"));
  const region = new Region(readFileSync(file("region"), "utf8").trim());
  const limit = (bytes: number) => {
    region.store64(deviceOffset(0) + device.mem_limit, BigInt(bytes));
    region.store32(header.limits_version, region.load32(header.limits_version) + 1);
  };
  limit(600 * MIB);
  writeFileSync(file("lowered"), "");
  await appearance(file("refused"));
  await appearance(file("events"), "limit.changed");
  limit(4096 * MIB);
  writeFileSync(file("raised"), "");
  expect(await child.exited).toBe(0);

  expect(readFileSync(file("first"), "utf8")).toContain("held 2 refused 0");
  expect(readFileSync(file("second"), "utf8")).not.toContain("held 1");
  expect(readFileSync(file("third"), "utf8")).toContain("held 1 refused 0");
  expect(await said).toMatch(/^vgpu: the limit on GPU-.* is now 600 MiB, below the 1.01 GiB /m);
  const events = readFileSync(file("events"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  for (const event of events) expect(findFaults(event)).toEqual([]);
  const changes = events.filter(({ kind }) => kind === "limit.changed");
  expect(changes[0]).toMatchObject({ limit_bytes: 600 * MIB, used_bytes: 1030 * MIB });
}, 60_000);
