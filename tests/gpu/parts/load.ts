import { join } from "node:path";
import { out } from "../options.ts";
import { row } from "../rows.ts";
import { last, limited, percent, run } from "../run.ts";

export interface Load {
  rate: number;
  busy: number;
}

// What is compared (docs/limits.md): throughput against native where the GPU sets the pace; where the
// host does (kernels shorter than a launch takes), occupancy against wall time, by %globaltimer. Several
// processes are compared with one native process: natively the driver's switching between them costs 9 %.
export async function loadShares(): Promise<void> {
  const cases = [
    "--us 2",
    "--us 10",
    "--us 50",
    "--us 460",
    "--us 5000 --seconds 8",
    "--us 50 --streams 4",
    "--us 50 --sync",
    "--us 460 --sync",
    "--us 20 --graph 50",
    "--us 50 --processes 2",
    "--us 50 --threads 4",
  ];
  for (const words of cases) {
    const command = [join(out, "load"), ...words.split(" ")];
    const native = last<Load>(
      (await run([join(out, "load"), ...words.replace(/ --processes 2/, "").split(" ")])).stdout,
    );
    for (const share of words === "--us 50" ? [10, 25, 50, 75, 90] : [25]) {
      const got = await limited(["--sm", String(share), "-v"], command);
      if (got.code !== 0) {
        row("load", words, `${share} %`, `exit ${got.code}`, "runs", false);
        continue;
      }
      const load = last<Load>(got.stdout);
      const rate = (100 * load.rate) / native.rate;
      const judged = words === "--us 2" ? load.busy : rate;
      const seen = `${percent(rate)} of native rate, occupancy ${percent(load.busy)}`;
      row("load", words, `${share} %`, seen, "± 2 points", Math.abs(judged - share) <= 2);
    }
  }
}
