import { type Bench, type Ran, signalOne } from "./bench.ts";
import type { Cell } from "./cell.ts";
import { measure } from "./shares.ts";
import { ms, type Report } from "./report.ts";
import { together } from "./sessions.ts";
import { covered, overlap, type Piece, piecesOf, stallAfter } from "./spans.ts";

const GROUP = "the others go on";
const KERNELS = { us: 50 };
/** Far more than any round takes: the survivor is told when to end. */
const LONG_S = 75;
/** A stall that begins within this after the round's moment is its doing: the next round comes later. */
const REACH_NS = 250e6;

/** Rounds on the card, 50 in all; and those of the native run beside them. */
const ROUNDS = { kill: 25, stop: 15, endless: 10, native: 10 };

const count = (bench: Bench, rounds: number): number =>
  Math.max(2, Math.round(rounds * bench.scale));

/**
 * Runs a survivor, lets `round` do its worst beside it as often as asked, and returns for each round how
 * long the survivor then went without a kernel, ns.
 */
async function besideSurvivor(
  bench: Bench,
  flags: string[] | null,
  rounds: number,
  round: () => Promise<bigint>,
): Promise<{ stalls: number[]; ran: Ran }> {
  const survivor = bench.start(flags, KERNELS, { seconds: LONG_S / bench.scale });
  const { pid } = await survivor.ready;
  await Bun.sleep(500);
  const moments: bigint[] = [];
  for (let i = 0; i < rounds; i++) moments.push(await round());
  signalOne(pid, "SIGTERM");
  const ran = await survivor.done;
  const stalls = moments.map((moment) => stallAfter(ran.spans, ran.toGpu(moment), REACH_NS));
  return { stalls, ran };
}

const now = async (): Promise<bigint> => (await import("../../../src/libc.ts")).monotonicNs();

/** A neighbour of the survivor: a process that saturates the card. */
const victim = (bench: Bench, flags: string[] | null, extra: string[] = []) =>
  bench.start(flags, KERNELS, { seconds: LONG_S / bench.scale, extra });

/** A moment somewhere in the turns of both. */
const somewhere = (): Promise<void> => Bun.sleep(150 + Math.random() * 60);

/** `live`: where each victim's spans are left, which outlive it. */
const killRound =
  (bench: Bench, flags: string[] | null, live: string[]) => async (): Promise<bigint> => {
    live.push(bench.shared("live"));
    const running = victim(bench, flags, ["--live", live.at(-1)!]);
    const { pid } = await running.ready;
    await somewhere();
    const at = await now();
    signalOne(pid, "SIGKILL");
    await running.kill();
    await Bun.sleep(REACH_NS / 1e6);
    return at;
  };

function reportStalls(
  report: Report,
  what: string,
  stalls: number[],
  barNs: number,
  note = "",
): void {
  const worst = Math.max(...stalls);
  const median = stalls.toSorted((a, b) => a - b)[stalls.length >> 1] ?? NaN;
  report.row({
    group: GROUP,
    what: `${what}: longest wait of the other, ${stalls.length} rounds`,
    asked: "goes on",
    got: `${ms(worst)} (median ${ms(median)}${note})`,
    bar: `≤ ${ms(barNs)}`,
    ok: worst <= barNs,
  });
}

const kills: Cell = {
  group: GROUP,
  what: "kill -9 of the neighbour",
  seconds: 58,
  async run(bench, report) {
    const half = ["--sm", "50"];
    const { native: nativeRounds, kill } = ROUNDS;
    const native = await besideSurvivor(
      bench,
      null,
      count(bench, nativeRounds),
      killRound(bench, null, []),
    );
    const base = Math.max(...native.stalls);
    const live: string[] = [];
    const { stalls, ran } = await besideSurvivor(
      bench,
      [...half, "--burst", "100"], // held back by its neighbour, and not by its own share
      count(bench, kill),
      killRound(bench, half, live),
    );
    const note = `; a native kill stalls for ${ms(base)} at most`;
    reportStalls(report, this.what, stalls, base + 20e6, note);
    const victims = live.map((path) => piecesOf(bench.readSpans(path), 0));
    const all: Piece = [-Infinity, Infinity];
    const used = victims.reduce((sum, pieces) => sum + covered(pieces, all), 0);
    const both = victims.reduce(
      (sum, pieces) => sum + overlap(pieces, piecesOf(ran.spans, 0), all),
      0,
    );
    const share = (100 * both) / used;
    report.row({
      group: GROUP,
      what: `${this.what}: kernels of both at once, of the victims' GPU time`,
      asked: "0",
      got: `${share.toFixed(2)} % of ${ms(used)}`,
      bar: "≤ 0.5 %",
      ok: share <= 0.5 || (bench.sim && used === 0),
    });
  },
};

const stops: Cell = {
  group: GROUP,
  what: "SIGSTOP of the neighbour",
  seconds: 12,
  async run(bench, report) {
    const half = ["--sm", "50"];
    const running = victim(bench, half);
    const { pid } = await running.ready;
    const round = async () => {
      await somewhere();
      const at = await now();
      signalOne(pid, "SIGSTOP");
      await Bun.sleep(250);
      signalOne(pid, "SIGCONT");
      await Bun.sleep(100);
      return at;
    };
    try {
      const { stalls } = await besideSurvivor(bench, half, count(bench, ROUNDS.stop), round);
      reportStalls(report, this.what, stalls, 100e6);
    } finally {
      await running.kill();
    }
  },
};

const endless: Cell = {
  group: GROUP,
  what: "an endless kernel of the neighbour",
  seconds: 24,
  async run(bench, report) {
    const half = ["--sm", "50"];
    const round = async () => {
      const running = victim(bench, half, ["--endless", "4", "--warm", "0.2"]);
      const at = await running.endless;
      await Bun.sleep(600);
      await running.kill();
      await Bun.sleep(200);
      return at;
    };
    const { stalls } = await besideSurvivor(bench, half, count(bench, ROUNDS.endless), round);
    reportStalls(report, this.what, stalls, 300e6);
  },
};

const longKernels: Cell = {
  group: GROUP,
  what: "kernels of 50 ms beside kernels of 50 µs",
  seconds: 10,
  async run(bench, report) {
    const tenants = [
      { flags: ["--sm", "50"], workload: { us: 50_000 } },
      { flags: ["--sm", "50"], workload: KERNELS },
    ];
    const { runs } = await together(bench, tenants, 5);
    const stolen = runs.flatMap(({ events }) =>
      events.filter(({ kind }) => kind === "compute.stolen"),
    );
    const turns = piecesOf(runs[0]!.spans).length;
    report.row({
      group: GROUP,
      what: `${this.what}: turns robbed`,
      asked: "0",
      got: `${stolen.length} of ${turns} (the long ones occupy ${measure(runs[0]!, 1).occupancy.toFixed(1)} %)`,
      bar: "0",
      ok: stolen.length === 0 && turns > 0,
    });
  },
};

export const survivalCells: Cell[] = [kills, stops, endless, longKernels];
