import { DEMO_LIMITS, type DemoResult, type DemoTeller } from "../demo.ts";
import { isRoutine } from "../sink.ts";
import { formatBytes } from "../units.ts";
import { isColored } from "./color.ts";
import { drawDuration, drawPercent, type Paint, paintFor } from "./drawing.ts";
import { formatPretty } from "./events.ts";
import { print } from "./words.ts";

/** Below, the box around the result would break. */
const BOX_COLUMNS = 100;

/** Tells the demo on stdout, line by line. */
export function makeTeller(): DemoTeller {
  const paint = paintFor(1);
  const rate = (unitsPerSecond: number) =>
    print(`   ${unitsPerSecond.toFixed(0)} kernels a second`);
  const limits = `${formatBytes(DEMO_LIMITS.memBytes)} of memory, ${DEMO_LIMITS.sharePercent} % of the GPU's time`;
  return {
    card: (name) =>
      print(`${paint("bold", "GPU")}     ${name}\n${paint("bold", "limits")}  ${limits}`),
    native: (rateOrNone) =>
      rateOrNone === undefined ? print("\n1. without limits") : rate(rateOrNone),
    limited: (rateOrNone) =>
      rateOrNone === undefined ? print("\n2. with limits, as vgpu reports it") : rate(rateOrNone),
    event(event, _, frame) {
      try {
        if (!isRoutine(event)) print(`   ${formatPretty(event, frame, paint)}`);
      } catch {} // the next line that is no event says so
    },
    async result(result) {
      const lines = drawResult(result, paint);
      if (!isColored(1) || (process.stdout.columns ?? 0) < BOX_COLUMNS)
        return print(`\n3. result\n${lines.map((line) => `   ${line}`).join("\n")}`);
      const { box } = await import("consola/utils"); // 20 ms, which only a demo can spare
      print(box(lines.join("\n"), { title: "3. result" }));
    },
  };
}

function drawResult({ limited, realisedPercent, session }: DemoResult, paint: Paint): string[] {
  const [gpu] = session.gpus;
  const peak = `peak ${formatBytes(gpu?.peakBytes ?? 0)} of ${formatBytes(DEMO_LIMITS.memBytes)}`;
  const refused = limited.refusal === 0 ? "" : ", then refused";
  const denials = `${session.denials} ${session.denials === 1 ? "denial" : "denials"}`;
  const held = `held back for ${drawDuration(gpu?.throttledNs ?? 0)} in ${gpu?.waits ?? 0} waits`;
  return [
    `memory   ${formatBytes(limited.had_bytes)} in blocks of 512 MiB${refused}; ${peak}, context included`,
    `compute  ${paint("bold", drawPercent(realisedPercent))} of the rate without limits, for ${DEMO_LIMITS.sharePercent} % asked`,
    `vgpu     ${denials}; ${held}`,
  ];
}

/** Says nothing but one object of JSON at the end. */
export function makeJsonTeller(): DemoTeller {
  const silent = () => {};
  return {
    card: silent,
    native: silent,
    limited: silent,
    event: silent,
    result: (result) => print(formatJson(result)),
  };
}

function formatJson({
  card,
  isSimulated,
  native,
  limited,
  realisedPercent,
  session,
}: DemoResult): string {
  const [gpu] = session.gpus;
  return JSON.stringify({
    card,
    simulated: isSimulated,
    limit_bytes: DEMO_LIMITS.memBytes,
    share: DEMO_LIMITS.sharePercent,
    native_units_per_second: native.units_per_second,
    limited_units_per_second: limited.units_per_second,
    realised_share: Number(realisedPercent.toFixed(2)),
    had_bytes: limited.had_bytes,
    peak_bytes: gpu?.peakBytes ?? 0,
    denials: session.denials,
    throttled_ns: gpu?.throttledNs ?? 0,
    waits: gpu?.waits ?? 0,
  });
}
