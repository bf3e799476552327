/** How a card's SMs can be given out: in groups of one size, those left over in none. */
export interface Split {
  sms: number;
  groupSms: number;
  groups: number;
}

/** What a session asks for: a share of all SMs, a number of them, or whatever is free. */
export type Asked = { percent: number } | { sms: number } | "rest";

/** A session's groups on a card, a bit each, lowest first (shim/partition.h). */
export interface Partition {
  groups: bigint;
  sms: number;
  /** What it would have got on an empty card. */
  wantedSms: number;
}

/** Whole groups, rounded down, at least one and at most all. */
export function countGroups(asked: Asked, { sms, groupSms, groups }: Split): number {
  if (asked === "rest") return groups;
  const wanted = "percent" in asked ? (sms * asked.percent) / 100 : asked.sms;
  return Math.min(groups, Math.max(1, Math.floor(wanted / groupSms)));
}

/**
 * Takes groups that nobody has. A share for which one group is missing gets one less, so that four
 * quarters of 15 groups are 4, 4, 4 and 3; a number of SMs is met or refused. Null: there is no room.
 */
export function allocate(asked: Asked, split: Split, taken: bigint): Partition | null {
  const wanted = countGroups(asked, split);
  const free = split.groups - countBits(taken & mask(0, split.groups));
  const isShare = asked !== "rest" && "percent" in asked;
  let count = wanted;
  if (asked === "rest") count = free;
  else if (isShare && free === wanted - 1) count = free;
  if (count === 0 || count > free) return null;
  const groups = choose(count, split.groups, taken);
  return { groups, sms: count * split.groupSms, wantedSms: wanted * split.groupSms };
}

/** The free run that fits best, the lowest of equals; where no run is long enough, the lowest free groups. */
function choose(count: number, groups: number, taken: bigint): bigint {
  const isFree = (group: number) => ((taken >> BigInt(group)) & 1n) === 0n;
  const runs: { first: number; length: number }[] = [];
  for (let group = 0; group < groups; group++) {
    const last = runs.at(-1);
    if (!isFree(group)) continue;
    if (last !== undefined && last.first + last.length === group) last.length++;
    else runs.push({ first: group, length: 1 });
  }
  const fitting = runs.filter(({ length }) => length >= count);
  const best = fitting.toSorted((left, right) => left.length - right.length)[0];
  if (best !== undefined) return mask(best.first, count);
  const free = runs.flatMap(({ first, length }) =>
    Array.from({ length }, (_, index) => first + index),
  );
  return free.slice(0, count).reduce((bits, group) => bits | mask(group, 1), 0n);
}

const mask = (first: number, count: number) => ((1n << BigInt(count)) - 1n) << BigInt(first);

export const countBits = (bits: bigint) => bits.toString(2).replaceAll("0", "").length;

/** `0-3,8`: groups for a reader. */
export function formatGroups(bits: bigint): string {
  const ranges: [number, number][] = [];
  for (let group = 0; bits >> BigInt(group) > 0n; group++) {
    if (((bits >> BigInt(group)) & 1n) === 0n) continue;
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === group - 1) last[1] = group;
    else ranges.push([group, group]);
  }
  return ranges
    .map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`))
    .join(",");
}
