import { fstatSync, openSync, writeSync } from "node:fs";
import { VgpuError } from "./errors.ts";
import { isTerminal, readText } from "./libc.ts";
import { readLauncher } from "./launcher.ts";
import type { Plan } from "./limits.ts";
import { paintFor } from "./report/drawing.ts";
import { say } from "./report/words.ts";
import { formatJson, formatPretty, type Frame } from "./report/events.ts";
import type { Event } from "./ring.ts";

/** Takes one event; never throws. */
export type Sink = (event: Event, seq: number, frame: Frame) => void;

/** Where the plan wants events: a form on stderr, NDJSON in a file, both, or nothing. Throws VgpuError for a file that cannot be written. */
export function openSinks({ events, report }: Plan): Sink[] {
  const sinks: Sink[] = [];
  const usual = isTerminal(2) && !report.quiet ? "pretty" : "none";
  const format = events.format === "auto" ? usual : events.format;
  if (format === "json") sinks.push(jsonSink(2, () => {}));
  if (format === "pretty") {
    const paint = paintFor(2);
    sinks.push((event, _, frame) => {
      if (report.verbose > 0 || !isRoutine(event)) writeLine(2, formatPretty(event, frame, paint));
    });
  }
  const { file } = events;
  if (file !== null) {
    const name = `${events.fileLabel ?? "--events-file"} ${file}`;
    const complain = (code: string) =>
      say(`${name}: cannot be written (${code}); events are lost from here on`);
    sinks.push(jsonSink(openEventsFile(file, name), report.quiet ? () => {} : complain));
  }
  return sinks;
}

/** What happens in every session is no news to a person. */
export const isRoutine = ({ kind }: Event): boolean =>
  kind.startsWith("session.") || kind.startsWith("process.");

/** `complain` is called for the first line that could not be written. */
function jsonSink(fd: number, complain: (code: string) => void): Sink {
  let isFine = true;
  return (event, seq, frame) => {
    const code = writeLine(fd, formatJson(event, seq, frame));
    if (code !== null && isFine) complain(code);
    isFine &&= code === null;
  };
}

/** `fd:N` is the caller's descriptor N; a file is appended to. `name` is for the error. */
function openEventsFile(file: string, name: string): number {
  const number = file.match(/^fd:(\d+)$/)?.[1];
  try {
    if (number === undefined) return openSync(file, "a", 0o666);
    const fd = Number(number);
    fstatSync(fd);
    const launcher = readLauncher();
    if (launcher !== null && !launcher.descriptors.includes(fd)) throw { code: "EBADF" };
    if (isWritable(fd)) return fd;
    throw { code: "EACCES" };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const reasons: Record<string, string> = {
      EBADF: "this descriptor is not open",
      EACCES: "this descriptor is not open for writing",
    };
    const reason = number === undefined ? undefined : reasons[code ?? ""];
    throw new VgpuError(`${name}: ${reason ?? `cannot write it (${code})`}`, {
      hint: "good forms: events.ndjson, fd:3 with 3>events.ndjson",
    });
  }
}

const ACCESS_MODE = 0o3;
const O_PATH = 0o10000000;

/** Whether the descriptor was opened for writing. */
function isWritable(fd: number): boolean {
  const text = readText(`/proc/self/fdinfo/${fd}`)?.match(/^flags:\s*([0-7]+)$/m)?.[1];
  if (text === undefined) return true; // then the first line will tell
  const flags = Number.parseInt(text, 8);
  return (flags & ACCESS_MODE) !== 0 && (flags & O_PATH) === 0;
}

/** Events never stop the session: a reader that has gone or is full loses lines. Returns null, or the error's name. */
function writeLine(fd: number, line: string): string | null {
  try {
    writeSync(fd, `${line}\n`);
    return null;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? "no reason given";
  }
}
