import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { VgpuError } from "../src/errors.ts";
import { loadProfile } from "../src/profile.ts";
import { listProfiles, profileFolders, SHIPPED } from "../src/profile/search.ts";
import { resolvePlan } from "../src/limits.ts";
import { folder } from "./vgpu.ts";

const GIB = 1024 ** 3;

async function failure(word: string, folders: string[]): Promise<string> {
  try {
    await loadProfile(word, folders);
  } catch (error) {
    if (error instanceof VgpuError && error.exitCode === 125) return error.oneLine;
  }
  throw new Error(`no VgpuError for ${word}`);
}

describe("search", () => {
  test("the folders, nearest first", () => {
    expect(profileFolders({ HOME: "/home/a" })).toEqual([
      ".vgpu",
      "/home/a/.config/vgpu/profiles",
      "/etc/vgpu/profiles",
      SHIPPED,
    ]);
    expect(profileFolders({ HOME: "/home/a", XDG_CONFIG_HOME: "/x" })[1]).toBe("/x/vgpu/profiles");
    expect(profileFolders({ HOME: "/home/a", XDG_CONFIG_HOME: "relative" })[1]).toBe(
      "/home/a/.config/vgpu/profiles",
    );
  });

  test("the first folder wins and the list says so", async () => {
    using here = folder({
      "a/half.yaml": "memory: 1g",
      "b/half.yml": "memory: 2g",
      "b/own.yaml": "",
    });
    const folders = [join(here.path, "none"), join(here.path, "a"), join(here.path, "b")];
    expect((await loadProfile("half", folders)).memory).toEqual({ limit: { bytes: GIB } });
    expect(listProfiles(folders).map(({ name, shadowedBy }) => [name, shadowedBy])).toEqual([
      ["half", null],
      ["half", join(here.path, "a/half.yaml")],
      ["own", null],
    ]);
  });

  test("a path is not looked up", async () => {
    using here = folder({ "x.yaml": "memory: 3g" });
    expect((await loadProfile(join(here.path, "x.yaml"), [])).memory).toEqual({
      limit: { bytes: 3 * GIB },
    });
  });

  test("an unknown name gets a suggestion", async () => {
    expect(await failure("haff", [SHIPPED])).toContain(
      "--profile: no profile 'haff' (did you mean half?); looked in",
    );
  });
});

test("where a ceiling stands is remembered, nearest file first", async () => {
  using here = folder({
    "base.yaml": 'compute:\n  share: 10\n  burst: 20\ngpus: {"1": {compute: {burst: 30}}}\n',
    "top.yaml": "extends: base\ncompute: {burst: 50}\n",
  });
  const { bursts } = await loadProfile("top", [here.path]);
  expect(bursts).toEqual({
    all: `${here.path}/top.yaml:2:18: compute.burst`,
    "1": `${here.path}/base.yaml:4:31: gpus.1.compute.burst`,
  });
});

describe("extends", () => {
  test("joins key by key; a plain limit replaces those below for single GPUs", async () => {
    using here = folder({
      "base.yaml": `
description: below
memory: 8g
compute: {share: 50, priority: normal}
gpus: {0: {memory: 1g, compute: 5}, GPU-AB: {compute: 7}}
events: {format: json, file: a}
env: {A: "1", B: "2"}
`,
      "sub/top.yaml": `
extends: ../base.yaml
memory: 4g
gpus: {"0": {compute: 6}}
events: {file: b}
env: {B: "3"}
`,
    });
    const profile = await loadProfile(join(here.path, "sub/top.yaml"), []);
    expect(profile).toMatchObject({
      description: null,
      memory: { limit: { bytes: 4 * GIB } },
      compute: { share: 50, priority: "normal" },
      gpus: {
        "0": { memory: {}, compute: { share: 6 } },
        "GPU-ab": { memory: {}, compute: { share: 7 } },
      },
      events: { format: "json", file: "b" },
      env: { A: "1", B: "3" },
    });
    expect(profile.files).toEqual([join(here.path, "sub/top.yaml"), join(here.path, "base.yaml")]);
  });

  test("priority and weight replace each other; a plain ceiling those for single GPUs", async () => {
    using here = folder({
      "base.yaml":
        "compute: {share: 10, priority: high}\ngpus: {0: {compute: {share: 5, burst: 50}}}\n",
      "weight.yaml": "extends: base\ncompute: {weight: 3}\n",
      "burst.yaml": "extends: weight\ncompute: {priority: low, burst: 20}\n",
    });
    const weight = await loadProfile("weight", [here.path]);
    expect(weight.compute).toEqual({ share: 10, weight: 3 });
    expect(weight.gpus["0"]?.compute).toEqual({ share: 5, burst: 50 });
    const burst = await loadProfile("burst", [here.path]);
    expect(burst.compute).toEqual({ share: 10, priority: "low", burst: 20 });
    expect(burst.gpus["0"]?.compute).toEqual({ share: 5 });
  });

  test("mistakes are placed where the word stands", async () => {
    using here = folder({
      "a.yaml": "description: a\nextends: ./b.yaml\n",
      "b.yaml": "extends:   a.yaml\n",
      "self.yaml": "extends: self\n",
      "gone.yaml": "memory: 1g\nextends: nowhere\n",
      "broken.yaml": "extends: bad\n",
      "bad.yaml": "memory: 4x\n",
    });
    const at = (file: string): string => join(here.path, file);
    const folders = [here.path];
    expect(await failure(at("a.yaml"), folders)).toBe(
      `${at("b.yaml")}:1:12: extends: 'a.yaml' leads back to ${at("a.yaml")}, expected no cycle`,
    );
    expect(await failure("self", folders)).toStartWith(
      `${at("self.yaml")}:1:10: extends: 'self' leads back`,
    );
    expect(await failure("gone", folders)).toStartWith(
      `${at("gone.yaml")}:2:10: extends: 'nowhere' is not there, expected`,
    );
    expect(await failure("broken", folders)).toStartWith(
      `${at("bad.yaml")}:1:9: memory: '4x', expected a size`,
    );
  });
});

test("a file that cannot be read", async () => {
  using here = folder({ "dir.yaml/x": "" });
  expect(await failure(join(here.path, "dir.yaml"), [])).toBe(
    `${here.path}/dir.yaml: is a directory, expected a profile in YAML`,
  );
  expect(await failure("./no/such.yaml", [])).toBe(
    "./no/such.yaml: no such file, expected a profile in YAML",
  );
  const pipe = join(here.path, "pipe.yaml");
  Bun.spawnSync(["mkfifo", pipe]); // nobody writes to it
  expect(await failure(pipe, [])).toBe(`${pipe}: is no regular file, expected a profile in YAML`);
  expect(await failure("/dev/./zero", [])).toContain("is no regular file");
  expect((await loadProfile("/dev/null", [])).memory).toEqual({});
});

describe("shipped profiles", () => {
  test.each(listProfiles([SHIPPED]))("$name is described and limits memory", async ({ name }) => {
    const profile = await loadProfile(name, [SHIPPED]);
    expect(profile.description?.length).toBeGreaterThan(10);
    const { limits } = resolvePlan({ given: new Map(), words: ["cmd"] }, {}, profile);
    expect(limits.all?.memBytes).not.toBeNull();
    expect(limits.all?.sharePercent).not.toBeNull();
  });
});
