/**
 * The choice closest to what was typed, or undefined when none is close: at most a third of the
 * letters differ, or the word is the beginning of exactly one choice.
 */
export function nearest(word: string, choices: readonly string[]): string | undefined {
  const typed = word.toLowerCase();
  const begun = choices.filter((choice) => typed.length > 1 && choice.startsWith(typed));
  if (begun.length === 1) return begun[0];
  const ranked = choices
    .map((choice) => ({ choice, steps: distance(typed, choice.toLowerCase()) }))
    .sort((a, b) => a.steps - b.steps);
  const best = ranked[0];
  if (best === undefined) return undefined;
  const allowed = Math.max(1, Math.floor(Math.max(word.length, best.choice.length) / 3));
  return best.steps <= allowed && best.steps < word.length ? best.choice : undefined;
}

/** " (did you mean run?)" for an error message, or nothing when no choice is close. */
export function didYouMean(word: string, choices: readonly string[], prefix = ""): string {
  const choice = nearest(word, choices);
  return choice === undefined ? "" : ` (did you mean ${prefix}${choice}?)`;
}

/** Optimal string alignment: insert, delete, replace and swapping two neighbours each cost one. */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let above = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      row[j] = Math.min(
        (above[j] ?? 0) + 1,
        (row[j - 1] ?? 0) + 1,
        (above[j - 1] ?? 0) + (same ? 0 : 1),
        swapped ? (before[j - 2] ?? 0) + 1 : Infinity,
      );
    }
    before = above;
    above = row;
  }
  return above[b.length] ?? 0;
}
