import { join } from "node:path";
import { isSimulated, out, vgpu } from "../options.ts";
import { row } from "../rows.ts";
import { limited, median } from "../run.ts";

export async function startup(): Promise<void> {
  const region = ["sh", "-c", "echo $LD_PRELOAD $VGPU_REGION"];
  await limited(["-q"], region);
  const first = { native: [] as number[], ours: [] as number[] };
  const file = join(out, "first.json");
  // Inside one session, so that only the shim differs: with and without the preload, in turn.
  const script = `for i in $(seq 15); do ${join(out, "first_call")}; env -u LD_PRELOAD -u VGPU_REGION ${join(out, "first_call")}; done > ${file}`;
  await limited(["--mem", "4g", "--sm", "50", "-q"], ["sh", "-c", script]);
  const lines = (await Bun.file(file).text())
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { load_us: number; init_us: number });
  lines.forEach((line, i) => (i % 2 ? first.native : first.ours).push(line.load_us + line.init_us));
  const added = (median(first.ours) - median(first.native)) / 1000;
  row(
    "startup",
    "first CUDA call (dlopen + cuInit), median of 15",
    `${(median(first.native) / 1000).toFixed(2)} ms natively`,
    `${added >= 0 ? "+" : ""}${added.toFixed(2)} ms`,
    "≤ 1 ms",
    added <= 1,
  );
  const loop = (command: string): string =>
    `s=$(date +%s%N); for i in $(seq 200); do ${command}; done; e=$(date +%s%N); echo $(( (e-s)/200000 ))`;
  const shim = `/bin/true`;
  const inside = await limited(
    ["--mem", "4g", "-q"],
    [
      "sh",
      "-c",
      `${loop(shim)}; p=$LD_PRELOAD; unset LD_PRELOAD; ${loop(shim)}; LD_PRELOAD=$p; export LD_PRELOAD; ${loop(shim)}; unset LD_PRELOAD; ${loop(shim)}`,
    ],
  );
  const [a = 0, b = 0, c = 0, d = 0] = inside.stdout.trim().split("\n").map(Number);
  const per = ((a + c) / 2 - (b + d) / 2) / 1000;
  row(
    "startup",
    "a process without CUDA (/bin/true), mean of 400",
    `${((b + d) / 2000).toFixed(3)} ms natively`,
    `+${per.toFixed(3)} ms`,
    "≤ 0.2 ms",
    per <= 0.2,
  );
  const time = async (words: string[]): Promise<number> => {
    const begin = Bun.nanoseconds();
    const child = Bun.spawn(words, { stdin: "ignore", stdout: "ignore", stderr: "ignore" });
    await child.exited;
    return (Bun.nanoseconds() - begin) / 1e6;
  };
  const sim = isSimulated ? ["--sim"] : [];
  const ours: number[] = [];
  const native: number[] = [];
  for (let i = 0; i < 30; i++) {
    ours.push(await time([vgpu, "run", ...sim, "--mem", "4g", "--sm", "25", "true"]));
    native.push(await time(["true"]));
  }
  const launch = median(ours) - median(native);
  row(
    "startup",
    "vgpu run --mem 4g --sm 25 true, warm, median of 30",
    `${median(native).toFixed(2)} ms for true`,
    `+${launch.toFixed(2)} ms`,
    "≤ 15 ms",
    launch <= 15,
  );
}
