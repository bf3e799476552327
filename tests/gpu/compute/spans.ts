/** When kernels ran on the card: ns since `origin` of the reader, sorted by start. */
export interface Spans {
  starts: Float64Array;
  ends: Float64Array;
}

/** A stretch [from, to) of time, ns. */
export type Piece = readonly [from: number, to: number];

/** Pauses up to this are part of the occupancy: nobody else could have used them. */
export const PAUSE_NS = 100_000;

/** Two 64-bit words a kernel, as work.c writes them. Unwritten entries (of a killed process) are left out. */
export function parseSpans(bytes: ArrayBuffer, origin: bigint): Spans {
  const words = new Uint32Array(bytes, 0, bytes.byteLength >> 2);
  const high = Number(origin >> 32n);
  const low = Number(origin & 0xffff_ffffn);
  const word = (at: number) => (words[at + 1]! - high) * 2 ** 32 + (words[at]! - low);
  const starts = new Float64Array(words.length >> 2);
  const ends = new Float64Array(words.length >> 2);
  let kernels = 0;
  for (let at = 0; at + 3 < words.length; at += 4) {
    if (words[at + 2] === 0 && words[at + 3] === 0) continue;
    starts[kernels] = word(at);
    ends[kernels++] = word(at + 2);
  }
  return sorted(starts.subarray(0, kernels), ends.subarray(0, kernels));
}

/** Kernels of one stream come sorted: a million of them would take a second to sort. */
function sorted(starts: Float64Array, ends: Float64Array): Spans {
  if (starts.every((start, i) => i === 0 || starts[i - 1]! <= start)) return { starts, ends };
  const order = Uint32Array.from(starts.keys()).sort((a, b) => starts[a]! - starts[b]!);
  return {
    starts: Float64Array.from(order, (i) => starts[i]!),
    ends: Float64Array.from(order, (i) => ends[i]!),
  };
}

export function mergeSpans(all: Spans[]): Spans {
  const total = all.reduce((sum, { starts }) => sum + starts.length, 0);
  const [starts, ends] = [new Float64Array(total), new Float64Array(total)];
  let at = 0;
  for (const one of all) {
    starts.set(one.starts, at);
    ends.set(one.ends, at);
    at += one.starts.length;
  }
  return sorted(starts, ends);
}

/** Stretches in which kernels ran, with pauses up to `pauseNs` filled. */
export function piecesOf({ starts, ends }: Spans, pauseNs = PAUSE_NS): Piece[] {
  const pieces: [number, number][] = [];
  let last: [number, number] | undefined;
  for (let i = 0; i < starts.length; i++) {
    if (last !== undefined && starts[i]! <= last[1] + pauseNs)
      last[1] = Math.max(last[1], ends[i]!);
    else pieces.push((last = [starts[i]!, ends[i]!]));
  }
  return pieces;
}

/** ns of the window that the pieces cover. */
export function covered(pieces: Piece[], [from, to]: Piece): number {
  let sum = 0;
  for (const [start, end] of pieces) sum += Math.max(0, Math.min(end, to) - Math.max(start, from));
  return sum;
}

/** Kernels in the window; one that lies in it by half counts a half. */
export function kernelsIn({ starts, ends }: Spans, [from, to]: Piece): number {
  let sum = 0;
  for (let i = 0; i < starts.length; i++) {
    const length = ends[i]! - starts[i]!;
    const inside = Math.min(ends[i]!, to) - Math.max(starts[i]!, from);
    if (length > 0) sum += Math.max(0, inside) / length;
    else sum += starts[i]! >= from && starts[i]! < to ? 1 : 0; // shorter than the clock's tick
  }
  return sum;
}

/**
 * The part of the window that begins and ends with a slice, so that no half period counts. The window
 * itself where there are no slices (native), or so few that less than half would be left.
 */
export function wholePeriods(pieces: Piece[], window: Piece): Piece {
  const starts = pieces.map(([start]) => start).filter((s) => s >= window[0] && s <= window[1]);
  const [first, last] = [starts[0], starts.at(-1)];
  if (first === undefined || last === undefined) return window;
  return last - first >= 0.5 * (window[1] - window[0]) ? [first, last] : window;
}

/** ns of the window in which both have a kernel on the card: the driver switches between them. */
export function overlap(a: Piece[], b: Piece[], window: Piece): number {
  let sum = 0;
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    const from = Math.max(a[i]![0], b[j]![0], window[0]);
    const to = Math.min(a[i]![1], b[j]![1], window[1]);
    sum += Math.max(0, to - from);
    if (a[i]![1] < b[j]![1]) i++;
    else j++;
  }
  return sum;
}

/** ns from the end of one session's work to the start of another's, at each hand-over in the window. */
export function handOvers(sessions: Spans[], [from, to]: Piece): number[] {
  const pieces = sessions
    .flatMap((spans, owner) => piecesOf(spans, 20_000).map(([s, e]) => ({ s, e, owner })))
    .filter(({ s }) => s >= from && s <= to)
    .sort((a, b) => a.s - b.s);
  return pieces.flatMap((piece, i) => {
    const before = pieces[i - 1];
    return before === undefined || before.owner === piece.owner ? [] : [piece.s - before.e];
  });
}

/** The longest time, counted from `at`, that a session went without a kernel in the `reachNs` after it. */
export function stallAfter({ starts, ends }: Spans, at: number, reachNs: number): number {
  let longest = 0;
  let lastEnd = -Infinity;
  for (let i = 0; i < starts.length; i++) {
    if (starts[i]! > at && lastEnd < at + reachNs)
      longest = Math.max(longest, starts[i]! - Math.max(lastEnd, at));
    lastEnd = Math.max(lastEnd, ends[i]!);
    if (lastEnd > at + reachNs) return longest;
  }
  return Infinity; // it never went on until then
}

export function quantile(values: number[], q: number): number {
  const ordered = [...values].sort((a, b) => a - b);
  return ordered[Math.min(ordered.length - 1, Math.floor(q * ordered.length))] ?? NaN;
}
