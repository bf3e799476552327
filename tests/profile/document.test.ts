import { expect, test } from "bun:test";
import { readProfileText } from "../../src/profile/document.ts";

const MAP = "a map of description, extends, memory, compute, gpus, events, env";
const SIZE = "a size such as 4g, 512m, 1.5g, 4GB, 50% or none";
const SHARE = "a share in percent (more than 0, at most 100) or none";
const COMPUTE =
  "share, burst, mode, mps, quantum, priority, weight, throttle, copy_bw, dampening, classes, gang";
const QUANTUM = "the length of a turn, 0.5ms to 100ms, such as 20ms or 500us";
const RATE = "a rate such as 8g/s, or none";
const VALUE = "text (numbers and true or false in quotes)";

/** Nine times nine times … of the same. */
function bomb(): string {
  const line = (name: string, item: string) => `${name}: &${name} [${Array(9).fill(item)}]\n`;
  const names = [..."abcdefgh"];
  return names.map((name, i) => line(name, i === 0 ? "x" : `*${names[i - 1]}`)).join("");
}

test.each<[string, string[]]>([
  ["memry: 4g", [`1:1: unknown key 'memry' (did you mean memory?), expected ${MAP}`]],
  ["\n\n  memory:\n    limit: 24x", [`4:12: memory.limit: '24x', expected ${SIZE}`]],
  [
    "memory: {limit: 4g, sof: 1g}",
    ["1:21: unknown key 'memory.sof' (did you mean soft?), expected a map of limit, soft"],
  ],
  ["memory: 4096", [`1:9: memory: 4096, expected ${SIZE}, or a map of limit, soft`]],
  ["memory:", [`1:8: memory: nothing, expected ${SIZE}, or a map of limit, soft`]],
  ["memory: [4g]", [`1:9: memory: a list, expected ${SIZE}, or a map of limit, soft`]],
  ["compute:\n  share: 101", [`2:10: compute.share: 101, expected ${SHARE}`]],
  ["compute: 140%", [`1:10: compute: '140%', expected ${SHARE}, or a map of ${COMPUTE}`]],
  ["compute: {burst: 0%}", [`1:18: compute.burst: '0%', expected ${SHARE}`]],
  ["compute: {mode: fast}", ["1:17: compute.mode: 'fast', expected one of time, spatial, auto"]],
  ["compute: {mps: true}", ["1:16: compute.mps: true, expected one of auto, on, off"]],
  ["compute: {quantum: 20}", [`1:20: compute.quantum: 20, expected ${QUANTUM}`]],
  ["compute: {quantum: 200ms}", [`1:20: compute.quantum: '200ms', expected ${QUANTUM}`]],
  ["compute: {weight: 0}", [`1:19: compute.weight: 0, expected a number from 0.1 to 10`]],
  [
    "compute:\n  priority: low\n  weight: 2",
    [
      "3:11: compute.weight: 2, expected only one of priority and weight (low, normal, high are the weights 0.5, 1, 2)",
    ],
  ],
  ["compute: {copy_bw: 8g}", [`1:20: compute.copy_bw: '8g', expected ${RATE}`]],
  [
    "compute: {copy_bw: {h2d: 8g/s, up: 1g/s}}",
    ["1:32: unknown key 'compute.copy_bw.up', expected a map of h2d, d2h, d2d"],
  ],
  [
    "compute: {classes: {atention: 2}}",
    [
      "1:21: unknown key 'compute.classes.atention' (did you mean attention?), expected a map of default, attention, ffn, copy",
    ],
  ],
  ["compute: {gang: maybe}", ["1:17: compute.gang: 'maybe', expected one of auto, on, off"]],
  [
    "gpus:\n  0: {compute: {share: 5, quantum: 20ms}}",
    ["2:27: unknown key 'gpus.0.compute.quantum', expected a map of share, burst"],
  ],
  [
    "gpus:\n  0: {memory: 4}",
    [`2:15: gpus.0.memory: 4, expected ${SIZE}, or a map of limit, soft`],
  ],
  [
    "gpus: {GPU-zz: {compute: 3}}",
    [
      "1:8: gpus.GPU-zz: key 'GPU-zz', expected nvidia-smi's GPU number in quotes, or a UUID such as GPU-1f2e",
    ],
  ],
  ["events: json", ["1:9: events: 'json', expected a map of format, file"]],
  ["events: [json]", ["1:9: events: a list, expected a map of format, file"]],
  [
    "env: {A: 1, B: yes, C: true}",
    [`1:10: env.A: 1, expected ${VALUE}`, `1:24: env.C: true, expected ${VALUE}`],
  ],
  [
    'env: {VGPU_REGION: "x"}',
    [
      "1:7: env.VGPU_REGION: key 'VGPU_REGION', expected the name of an environment variable (VGPU_ is vgpu's own, but for VGPU_SIM_)",
    ],
  ],
  [
    "x: &a {limit: 9}\nmemory: *a",
    [`1:1: unknown key 'x', expected ${MAP}`, `1:15: memory.limit: 9, expected ${SIZE}`],
  ],
  ["- 4g", [`1:1: a list, expected ${MAP}`]],
  ["memory: 4g\nmemory: 5g", ["2:1: Map keys must be unique, expected YAML"]],
  ["memory: !size 4g", ["1:9: Unresolved tag: !size, expected YAML"]],
  ["compute: 5\nmemory: 4", [`2:9: memory: 4, expected ${SIZE}, or a map of limit, soft`]],
  ["compute: *b", ["1:10: alias 'b', expected one whose anchor stands before it"]],
  ["memory: 4g\n---\nmemory: 5g", ["2:1: a second document, expected one document only"]],
  [bomb(), ["2:8: aliases of aliases without end, expected fewer"]],
  ["__proto__: {memory: 1g}", [`1:1: unknown key '__proto__', expected ${MAP}`]],
])("%j", (text, problems) => {
  expect(readProfileText(text, "p.yaml").problems as string[]).toEqual(
    problems.map((problem) => `p.yaml:${problem}`),
  );
});

test("broken YAML has a position", () => {
  expect(readProfileText("memory: 4g\nenv: [1\n", "p.yaml").problems[0]).toMatch(
    /^p\.yaml:[23]:\d+: .*, expected YAML$/,
  );
});

test.each(["", "# nothing\n", "{}", "description: x"])("%j is a profile without limits", (text) => {
  expect(readProfileText(text, "p.yaml").content?.memory).toBeUndefined();
});

test("shares in percent, with and without the sign", () => {
  const read = (text: string) => readProfileText(text, "p.yaml").content;
  expect(read("compute: 40%")?.compute).toEqual({ share: 40 });
  const text = "compute: {share: 12.5%, burst: 50%}\ngpus: {0: {compute: 7%}}";
  expect(read(text)?.compute).toEqual({ share: 12.5, burst: 50 });
  expect(read(text)?.gpus?.["0"]?.compute).toEqual({ share: 7 });
});

test("the whole form of design §11", () => {
  const text = `
description: one LLM server beside other work
extends: base
memory: {limit: 24g, soft: 22g}
compute: {share: 40, burst: 100, mode: time, mps: on, quantum: 20ms, priority: high, throttle: adaptive, copy_bw: {h2d: 8g/s}, dampening: 1, classes: {attention: 1.0, ffn: 1.0, copy: 1.0, default: 1.0}, gang: on}
gpus: {"0": {memory: 24g}, "GPU-1f2e": {memory: 10%, compute: none}}
events: {format: json, file: /var/log/x.ndjson}
env: {PYTORCH_CUDA_ALLOC_CONF: "expandable_segments:True", VGPU_SIM_KERNEL_US: "10"}
`;
  const { content, problems } = readProfileText(text, "p.yaml");
  expect(problems).toEqual([]);
  expect(content?.memory).toEqual({
    limit: { bytes: 24 * 1024 ** 3 },
    soft: { bytes: 22 * 1024 ** 3 },
  });
  expect(content?.gpus?.["GPU-1f2e"]).toEqual({
    memory: { limit: { percent: 10 } },
    compute: { share: null },
  });
});
