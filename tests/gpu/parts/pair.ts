import { join } from "node:path";
import { out } from "../options.ts";
import { row } from "../rows.ts";
import { last, limited, mib, percent, run } from "../run.ts";
import { sampled } from "../sampling.ts";
import type { Load } from "./load.ts";

// Two programs started by one shell under one session share one limit and one share.
export async function pair(): Promise<void> {
  const load = `${join(out, "load")} --us 50 --seconds 4`;
  const native = last<Load>(
    (await run([join(out, "load"), "--us", "50", "--seconds", "3"])).stdout,
  );
  const both = await limited(
    ["--mem", "4g", "--sm", "25", "-q"],
    ["sh", "-c", `${load} > ${out}/a.json & ${load} > ${out}/b.json; wait`],
  );
  const rates = await Promise.all(
    ["a", "b"].map(async (name) => last<Load>(await Bun.file(`${out}/${name}.json`).text()).rate),
  );
  const sum = (100 * rates.reduce((a, b) => a + b, 0)) / native.rate;
  row(
    "pair",
    "two processes of one session, sum of native rate",
    "25 %",
    `${percent(sum)} (${rates.map((rate) => percent((100 * rate) / native.rate)).join(" + ")})`,
    "25 ± 2 points",
    both.code === 0 && Math.abs(sum - 25) <= 2,
  );
  const fill = `python3 -c 'import torch,time
held=[]
try:
    while True: held.append(torch.empty(32<<20,dtype=torch.uint8,device="cuda"))
except torch.OutOfMemoryError: print(len(held)*32)
time.sleep(3)'`;
  const [filled, sample] = await sampled(
    4 * 2 ** 30,
    ["--mem", "4g", "-q"],
    ["sh", "-c", `${fill} & ${fill}; wait`],
  );
  row(
    "pair",
    "two processes fill one 4 GiB, NVML's figure of both",
    "4096 MiB",
    `${mib(sample.peak_bytes)}, PyTorch held ${filled.stdout.trim().split("\n").join(" + ")} MiB`,
    "≤ limit, > limit − 64 MiB",
    filled.code === 0 && sample.above_limit === 0 && sample.peak_bytes > (4096 - 64) * 2 ** 20,
  );
}
