import { join } from "node:path";
import { here, out } from "../options.ts";
import { row } from "../rows.ts";
import { last, mib } from "../run.ts";
import { sampled } from "../sampling.ts";

export async function memory(): Promise<void> {
  const limit = 4 * 2 ** 30;
  const file = join(out, "memory-events.ndjson");
  const flags = ["--mem", "4g", "--events-file", file];
  const [ran, sample] = await sampled(limit, flags, ["python3", join(here, "torch_memory.py")]);
  const seen = last<{ checks: Record<string, boolean> }>(ran.stdout);
  for (const [name, ok] of Object.entries(seen.checks))
    row("memory", `PyTorch in 4 GiB: ${name}`, "true", String(ok), "true", ok);
  row(
    "memory",
    "NVML's figure of the tree, sampled from outside",
    mib(limit),
    `${mib(sample.peak_bytes)} at most, ${sample.per_second} samples/s, ${sample.above_limit} above`,
    "never above",
    sample.above_limit === 0,
  );
  const events = (await Bun.file(file).text())
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const denied = events.find((event) => event["kind"] === "memory.denied");
  const named = ["pid", "api", "asked_bytes", "used_bytes", "limit_bytes"].every(
    (key) => denied?.[key] !== undefined,
  );
  row(
    "memory",
    "the denial's event names process, API, asked, used, limit",
    "all five",
    JSON.stringify(denied ?? null),
    "present",
    named,
  );
}
