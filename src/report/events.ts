import type { Event } from "../ring.ts";
import { formatBytes } from "../units.ts";
import { drawDuration, drawPercent, type Paint } from "./drawing.ts";

/** What turns an event into a line: who writes, and the session's time zero in both clocks. */
export interface Frame {
  session: string;
  startMonoNs: bigint;
  startWallNs: bigint;
}

/** One line of NDJSON, without the line break (docs/events.schema.json). */
export function formatJson(event: Event, seq: number, frame: Frame): string {
  const { monoNs, pid, gpu, kind, api, name, values } = event;
  return JSON.stringify({
    v: 1,
    seq,
    time: formatTime(frame.startWallNs + (monoNs - frame.startMonoNs)),
    mono_ns: Number(monoNs),
    session: frame.session,
    pid,
    ...(name ? { process: name } : {}),
    ...(gpu === null ? {} : { gpu }),
    kind,
    ...(api === null ? {} : { api }),
    ...withoutZeroContext(values),
  });
}

/** RFC 3339 with microseconds: ns since 1970 pass 2⁵³. */
export function formatTime(wallNs: bigint): string {
  const micros = wallNs / 1000n;
  const seconds = new Date(Number(micros / 1_000_000n) * 1000)
    .toISOString()
    .slice(0, -".000Z".length);
  return `${seconds}.${String(micros % 1_000_000n).padStart(6, "0")}Z`;
}

const COLOURS: Record<string, Parameters<Paint>[0]> = {
  "memory.denied": "red",
  "shim.missing": "red",
  "memory.drift": "yellow",
  "memory.unknown": "yellow",
  "compute.stolen": "yellow",
  "compute.scaled": "yellow",
  "compute.outsider": "yellow",
};

/** One line for a person: when (since the start), what, who, how much. */
export function formatPretty(event: Event, frame: Frame, paint: Paint): string {
  const seconds = Number(event.monoNs - frame.startMonoNs) / 1e9;
  const who =
    event.pid === 0 ? "" : event.name ? `${event.name}[${event.pid}]` : `pid ${event.pid}`;
  const where = event.gpu === null ? "" : event.gpu.slice(0, "GPU-12345678".length);
  const words = [who, where, event.api ?? "", describe(event)].filter(Boolean).join(" ");
  const kind = paint(COLOURS[event.kind] ?? "cyan", event.kind.padEnd("compute.throttled".length));
  return `${paint("dim", `vgpu ${seconds.toFixed(3).padStart(8)} s`)}  ${kind}  ${words}`;
}

function describe({ kind, values }: Event): string {
  const bytes = (name: string) => formatBytes(Number(values[name] ?? 0));
  const ns = (name: string) => drawDuration(Number(values[name] ?? 0));
  switch (kind) {
    case "memory.denied": {
      const context = values["context_bytes"] ? ` for a context of ${bytes("context_bytes")}` : "";
      return `asked ${bytes("asked_bytes")}${context}, used ${bytes("used_bytes")} of ${bytes("limit_bytes")}`;
    }
    case "memory.pressure": {
      const level = values["level"] ? `above ${values["level"]} %` : "below 65 %";
      const soft = values["above_soft"] ? `, above the soft limit of ${bytes("soft_bytes")}` : "";
      return `${level}${soft}: used ${bytes("used_bytes")} of ${bytes("limit_bytes")}`;
    }
    case "memory.drift":
      return `ledger ${bytes("ledger_bytes")}, NVML ${bytes("nvml_bytes")}`;
    case "compute.throttled": {
      const burst = values["burst"] == null ? "" : `, burst ${values["burst"]} %`;
      const limit = values["share"] === null ? "" : `, limit ${values["share"]} %${burst}`;
      const share = `${drawPercent(Number(values["realised_share"] ?? 0))} of the GPU${limit}`;
      const inCompany = values["turn_waited_ns"] || values["turns_stolen"];
      const turns = inCompany ? `, ${values["turns"]} turns` : "";
      return `${share}; held ${ns("waited_ns")} in ${values["waits"]} waits${turns}`;
    }
    case "compute.scaled": {
      const sum = `${values["sessions"]} sessions' shares come to ${values["share_sum"]} %`;
      return `${sum}; while all are busy ${values["share"]} % is ${values["scaled_share"]} %`;
    }
    case "compute.outsider":
      return `in no session, holds ${bytes("nvml_bytes")} and takes GPU time without turns`;
    case "compute.partition": {
      const less =
        Number(values["sms"]) < Number(values["sms_wanted"])
          ? `, less than ${values["sms_wanted"]}: the rest is taken`
          : "";
      return `${values["sms"]} of ${values["sms_total"]} SMs, groups ${values["groups"]}${less}`;
    }
    default:
      return Object.entries(values)
        .filter(([, value]) => value !== null)
        .map(([name, value]) => drawValue(name, value!))
        .join(", ");
  }
}

function drawValue(name: string, value: number | string): string {
  const label = name.replace(/_(bytes|ns)$/, "").replaceAll("_", " ");
  if (name.endsWith("_bytes")) return `${label} ${formatBytes(Number(value))}`;
  return `${label} ${name.endsWith("_ns") ? drawDuration(Number(value)) : value}`;
}

/** `context_bytes` is there only when a context was refused. */
function withoutZeroContext(values: Event["values"]): Event["values"] {
  const { context_bytes, ...rest } = values;
  return context_bytes ? values : rest;
}
