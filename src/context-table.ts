import { cacheRoot } from "./cache.ts";
import type { ContextCosts } from "./devices.ts";
import { listDirectory, readText } from "./libc.ts";
import type { Split } from "./partition.ts";

/** What was learnt of a card with its driver. `groups` is 0 where the driver has no green contexts. */
export interface CardFigures extends Split {
  contextBytes: number;
}

/** How to find out what a context costs where the table does not say. */
export interface Probe {
  command: string[];
  env: Record<string, string | undefined>;
  /** Set for the simulated GPU: keeps its figures apart from real cards'. */
  domain: string;
}

/** What a bare context costs on each GPU. Empty if nothing can be learnt; the shim then corrects after the fact. */
export async function learnContextCosts(probe: Probe): Promise<ContextCosts> {
  const cards = await learnCards(probe);
  return new Map([...cards].map(([uuid, { contextBytes }]) => [uuid, contextBytes]));
}

/**
 * The figures of each GPU, by UUID: read from the cache, learnt with one run of vgpu-probe where a GPU
 * with this driver, or one that is `needed` (its UUID), is not in it. Empty if nothing can be learnt.
 */
export async function learnCards(
  probe: Probe,
  needed: string[] = [],
): Promise<Map<string, CardFigures>> {
  const file = `${cacheRoot()}/contexts.json`;
  const table = readTable(file);
  const wanted = probe.domain === "" ? listKeys(table) : simulatedKeys(table, probe.domain);
  if (wanted.length > 0 && wanted.every((key) => key in table)) {
    const known = pick(table, wanted);
    if (needed.every((uuid) => known.has(uuid))) return known;
  }

  const child = Bun.spawn(probe.command, {
    env: probe.env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
    timeout: 60_000,
  });
  const text = await new Response(child.stdout).text();
  const learnt = parseProbe(text, probe.domain);
  if (Object.keys(learnt).length === 0) return new Map();
  try {
    const { writeWhole } = await import("./build.ts");
    writeWhole(file, `${JSON.stringify({ ...readTable(file), ...learnt }, null, 2)}\n`);
  } catch {} // learnt again next time
  return pick(learnt, Object.keys(learnt));
}

/** Context bytes, SMs, SMs a group, groups. */
type Figures = [number, number, number, number];
type Table = Record<string, Figures>;

/** Key: `domain uuid driver`, the domain left out for real cards. */
const makeKey = (domain: string, uuid: string, driver: string) =>
  [domain, uuid, driver].filter(Boolean).join(" ");

/** Lines of `UUID DRIVER BYTES SMS GROUP_SMS GROUPS`. */
export function parseProbe(text: string, domain: string): Table {
  const table: Table = {};
  for (const line of text.split("\n")) {
    const [uuid, driver, ...words] = line.split(" ");
    const figures = words.map(Number);
    if (uuid?.startsWith("GPU-") && driver && figures.length === 4 && figures[0]! > 0)
      table[makeKey(domain, uuid, driver)] = figures as Figures;
  }
  return table;
}

function pick(table: Table, keys: string[]): Map<string, CardFigures> {
  const uuidOf = (key: string) => key.match(/GPU-[0-9a-f-]+/)?.[0] ?? key;
  return new Map(
    keys.map((key) => {
      const [contextBytes, sms, groupSms, groups] = table[key]!;
      return [uuidOf(key), { contextBytes, sms, groupSms, groups }];
    }),
  );
}

function readTable(file: string): Table {
  try {
    const table = JSON.parse(readText(file) ?? "{}") as Record<string, unknown>;
    // An entry of an earlier version says less: it is learnt anew.
    const known = Object.entries(table).filter(([, figures]) => Array.isArray(figures));
    return Object.fromEntries(known) as Table;
  } catch {
    return {};
  }
}

const simulatedKeys = (table: Table, domain: string) =>
  Object.keys(table).filter((key) => key.startsWith(`${domain} `));

/**
 * The keys of this machine's real GPUs; no library is loaded. Containers may show the driver's version
 * but not the cards: then all that were learnt with this driver. Empty where not even that can be seen.
 */
function listKeys(table: Table): string[] {
  const version = readText("/sys/module/nvidia/version") ?? readText("/proc/driver/nvidia/version");
  const driver = version?.match(/\b\d{3}\.\d+(?:\.\d+)*\b/)?.[0];
  if (driver === undefined) return [];
  const keys = (listDirectory("/proc/driver/nvidia/gpus") ?? []).flatMap((gpu) => {
    const information = readText(`/proc/driver/nvidia/gpus/${gpu}/information`);
    const uuid = information?.match(/GPU-[0-9a-f-]{36}/)?.[0];
    return uuid === undefined ? [] : [makeKey("", uuid, driver)];
  });
  if (keys.length > 0) return keys;
  return Object.keys(table).filter((key) => key.startsWith("GPU-") && key.endsWith(` ${driver}`));
}
