import * as v from "valibot";
import { parseGpuKey } from "../gpu-value.ts";
import { CLASSES, DIRECTIONS, GANGS, THROTTLES } from "../time-mode.ts";
import { parseDuration, parsePercent, parseRate, parseSize, SIZE_PATTERN } from "../units.ts";

// Every message here completes "…, expected …"; strictObject's also lists the keys it knows.

const SIZE = "a size such as 4g, 512m, 1.5g, 4GB, 50% or none";
const SHARE = "a share in percent (more than 0, at most 100) or none";

const Size = v.pipe(
  v.string(SIZE),
  v.regex(SIZE_PATTERN, SIZE),
  v.check((text) => parseSize(text) !== undefined, SIZE),
  v.transform((text) => parseSize(text) ?? null),
);
const Percent = v.union(
  [
    v.pipe(v.number(SHARE), v.gtValue(0, SHARE), v.maxValue(100, SHARE)),
    v.pipe(
      v.string(SHARE),
      v.regex(/^\d+(?:\.\d+)?%$/, SHARE),
      v.check((text) => parsePercent(text) !== undefined, SHARE),
      v.transform((text) => Number.parseFloat(text)),
    ),
  ],
  SHARE,
);
const Share = v.union(
  [
    Percent,
    v.pipe(
      v.literal("none"),
      v.transform((text) => parsePercent(text) ?? null),
    ),
  ],
  SHARE,
);

function map<const T extends v.ObjectEntries>(entries: T): v.StrictObjectSchema<T, string> {
  return v.strictObject(entries, `a map of ${Object.keys(entries).join(", ")}`);
}

function choice<const T extends readonly string[]>(...words: T): v.PicklistSchema<T, string> {
  return v.picklist(words, `one of ${words.join(", ")}`);
}

function text(pattern: RegExp, expected: string) {
  return v.pipe(v.string(expected), v.regex(pattern, expected));
}

const Memory = v.union(
  [
    v.pipe(
      Size,
      v.transform((limit) => ({ limit })),
    ),
    map({ limit: v.exactOptional(Size), soft: v.exactOptional(Size) }),
  ],
  `${SIZE}, or a map of limit, soft`,
);

const QUANTUM = "the length of a turn, 0.5ms to 100ms, such as 20ms or 500us";
const Quantum = v.pipe(
  text(/^\d+(?:\.\d+)?(?:us|ms|s)$/, QUANTUM),
  v.check((text) => (parseDuration(text) ?? 0) >= 500 && parseDuration(text)! <= 100_000, QUANTUM),
);

const RATE = "a rate such as 8g/s, or none";
const Rate = v.pipe(
  text(/^(?:[nN][oO][nN][eE]|\d+(?:\.\d+)?[kKmMgGtT](?:[iI]?[bB])?\/s)$/, RATE),
  v.check((text) => parseRate(text) !== undefined, RATE),
);

const FACTOR = "a number from 0.1 to 10";
const Factor = v.pipe(v.number(FACTOR), v.minValue(0.1, FACTOR), v.maxValue(10, FACTOR));

/** A map in which each of the words may have such a value. */
function mapOf<const W extends string, const T extends v.GenericSchema>(
  words: readonly W[],
  value: T,
) {
  const entries = words.map((word) => [word, v.exactOptional(value)]);
  return map(Object.fromEntries(entries) as Record<W, v.ExactOptionalSchema<T, undefined>>);
}

/** What may differ between GPUs. */
const PER_GPU = { share: v.exactOptional(Share), burst: v.exactOptional(Percent) };

const ComputeMap = map({
  ...PER_GPU,
  mode: v.exactOptional(choice("time", "spatial", "auto")),
  mps: v.exactOptional(choice("auto", "on", "off")),
  quantum: v.exactOptional(Quantum),
  priority: v.exactOptional(choice("low", "normal", "high")),
  weight: v.exactOptional(Factor),
  throttle: v.exactOptional(choice(...THROTTLES)),
  copy_bw: v.exactOptional(
    v.union([Rate, mapOf(DIRECTIONS, Rate)], `${RATE}, or a map of ${DIRECTIONS.join(", ")}`),
  ),
  dampening: v.exactOptional(Factor),
  classes: v.exactOptional(mapOf(CLASSES, Factor)),
  gang: v.exactOptional(choice(...GANGS)),
});

const Compute = v.union(
  [
    v.pipe(
      Share,
      v.transform((share): v.InferOutput<typeof ComputeMap> => ({ share })),
    ),
    v.pipe(
      ComputeMap,
      v.forward(
        v.check(
          ({ priority, weight }) => priority === undefined || weight === undefined,
          "only one of priority and weight (low, normal, high are the weights 0.5, 1, 2)",
        ),
        ["weight"],
      ),
    ),
  ],
  `${SHARE}, or a map of ${Object.keys(ComputeMap.entries).join(", ")}`,
);

const GpuMap = map(PER_GPU);
const GpuCompute = v.union(
  [
    v.pipe(
      Share,
      v.transform((share): v.InferOutput<typeof GpuMap> => ({ share })),
    ),
    GpuMap,
  ],
  `${SHARE}, or a map of share, burst (the rest holds for the whole session)`,
);

const GPU = "nvidia-smi's GPU number in quotes, or a UUID such as GPU-1f2e";
const NAME = "the name of an environment variable (VGPU_ is vgpu's own, but for VGPU_SIM_)";
const VALUE = "text (numbers and true or false in quotes)";

/** A profile as it is written, each value checked; memory and compute without their short forms. */
export const ProfileSchema = map({
  description: v.exactOptional(v.string("text")),
  extends: v.exactOptional(text(/\S/, "another profile's name or path")),
  memory: v.exactOptional(Memory),
  compute: v.exactOptional(Compute),
  gpus: v.exactOptional(
    v.record(
      v.pipe(
        v.string(GPU),
        v.regex(/^(?:\d{1,4}|[gG][pP][uU]-[0-9a-fA-F][0-9a-fA-F-]*)$/, GPU),
        v.transform((key) => parseGpuKey(key) ?? key),
      ),
      map({ memory: v.exactOptional(Memory), compute: v.exactOptional(GpuCompute) }),
      "a map from GPU number or UUID to memory and compute",
    ),
  ),
  events: v.exactOptional(
    map({
      format: v.exactOptional(choice("pretty", "json", "none")),
      file: v.exactOptional(
        text(/^(?!fd:)\S|^fd:\d{1,6}$/, "a path, or fd:N with a descriptor number"),
      ),
    }),
  ),
  env: v.exactOptional(
    v.record(
      v.pipe(v.string(NAME), v.regex(/^(?!VGPU_(?!SIM_))[^=\0]+$/, NAME)),
      text(/^[^\0]*$/, VALUE),
      "a map from variable to text",
    ),
  ),
});

/** One profile file, checked. */
export type ProfileFile = v.InferOutput<typeof ProfileSchema>;
