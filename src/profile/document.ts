import * as v from "valibot";
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  visit,
} from "yaml";
import { quote } from "../errors.ts";
import { didYouMean } from "../nearest.ts";
import { type ProfileFile, ProfileSchema } from "./schema.ts";

/** What a profile's text came to: its content, or every problem as `file:line:column: what, what was expected`. */
export type Reading =
  | { content: ProfileFile; problems: []; at(path: string[]): string }
  | { content: null; problems: [string, ...string[]] };

/** Parses and validates one profile. `file` is the path as errors show it. */
export function readProfileText(text: string, file: string): Reading {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const place = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  const broken = [...document.errors, ...document.warnings].map(({ code, message, pos }) =>
    code === "MULTIPLE_DOCS"
      ? `${place(pos[0])}: a second document, expected one document only`
      : `${place(pos[0])}: ${message.replace(/\s+/g, " ")}, expected YAML`,
  );
  if (broken.length > 0) return { content: null, problems: atLeastOne(broken) };
  let value: unknown;
  try {
    value = document.toJS();
  } catch {
    const { offset, text } = findBadAlias(document);
    return { content: null, problems: [`${place(offset)}: ${text}`] };
  }
  const result = v.safeParse(ProfileSchema, value ?? {});
  const at = (path: string[]): string => place(findOffset(document, { path, kind: "value" }));
  if (result.success) return { content: result.output, problems: [], at };
  const findings = result.issues.flatMap((issue) => flatten(issue));
  const problems = findings
    .map((finding) => ({ text: describe(finding), offset: findOffset(document, finding) }))
    .toSorted((a, b) => a.offset - b.offset)
    .map(({ text, offset }) => `${place(offset)}: ${text}`);
  return { content: null, problems: atLeastOne([...new Set(problems)]) };
}

/** The alias that cannot be followed: one without an anchor, else the first of too many. */
function findBadAlias(document: Document): { offset: number; text: string } {
  const all: { offset: number; text: string }[] = [];
  visit(document, {
    Alias(_, alias) {
      const offset = startOf(alias) ?? 0;
      if (alias.resolve(document) !== undefined)
        return void all.push({ offset, text: "aliases of aliases without end, expected fewer" });
      const text = `alias ${quote(alias.source)}, expected one whose anchor stands before it`;
      all.unshift({ offset, text });
      return visit.BREAK;
    },
  });
  return all[0] ?? { offset: 0, text: "expected YAML" };
}

/** What is wrong at one path; `kind` says whether the key or its value is meant. */
interface Finding {
  path: string[];
  kind: "unknown key" | "key" | "value";
  received: unknown;
  expected: string;
}

type Step = { key: unknown; input: unknown; origin: string; value: unknown };

/** The findings of an issue; of a union's, those inside the value rather than "none of these forms". */
function flatten(issue: v.GenericIssue, above: string[] = []): Finding[] {
  const steps = (issue.path ?? []) as unknown as Step[];
  const path = [...above, ...steps.map(({ key }) => String(key))];
  const inner = ((issue.issues ?? []) as v.GenericIssue[]).filter(
    ({ path: deep }) => deep !== undefined,
  );
  if (inner.length > 0 && !Array.isArray(issue.input))
    return inner.flatMap((deep) => flatten(deep, path));
  const expected = issue.message;
  const last = steps.at(-1);
  if (Array.isArray(last?.input)) {
    return [{ path: path.slice(0, -1), kind: "value", received: last.input, expected }];
  }
  const isUnknown = issue.type === "strict_object" && issue.expected === "never";
  const kind = isUnknown ? "unknown key" : last?.origin === "key" ? "key" : "value";
  // A check across keys is handed on to one of them: what stands there is meant.
  const received = kind === "value" && last !== undefined ? last.value : issue.input;
  return [{ path, kind, received, expected }];
}

/** `memory.limit: '24x', expected …`. */
function describe({ path, kind, received, expected }: Finding): string {
  const key = path.at(-1) ?? "";
  if (kind === "unknown key") {
    const guess = didYouMean(key, expected.split(/[ ,]+/).slice(1));
    return `unknown key ${quote(path.join("."))}${guess}, expected ${expected}`;
  }
  const what = kind === "key" ? `key ${quote(key)}` : draw(received);
  return `${path.length === 0 ? "" : `${path.join(".")}: `}${what}, expected ${expected}`;
}

/** Where a path's value (or its key) begins in the text; the nearest parent's place if it has none. */
function findOffset(document: Document, { path, kind }: Pick<Finding, "path" | "kind">): number {
  let node: unknown = document.contents;
  let offset = startOf(node) ?? 0;
  for (const [depth, name] of path.entries()) {
    if (isAlias(node)) node = node.resolve(document);
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => String(isScalar(key) ? key.value : key) === name);
      const key = startOf(pair?.key);
      node = pair?.value;
      const chosen = kind !== "value" && depth === path.length - 1 ? key : (startOf(node) ?? key);
      offset = chosen ?? offset;
    } else if (isSeq(node)) {
      node = node.items[Number(name)];
      offset = startOf(node) ?? offset;
    }
  }
  return offset;
}

function startOf(node: unknown): number | undefined {
  return (node as { range?: [number, number, number] | null } | null | undefined)?.range?.[0];
}

function draw(received: unknown): string {
  if (received === null || received === undefined) return "nothing";
  if (Array.isArray(received)) return "a list";
  if (typeof received === "object") return "a map";
  return typeof received === "string" ? quote(received) : String(received);
}

/** A failed check always has a problem to name; the fallback is for the type checker. */
function atLeastOne([first, ...rest]: string[]): [string, ...string[]] {
  return [first ?? "not a profile", ...rest];
}
