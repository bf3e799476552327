import { Census } from "./census.ts";
import { EventFeed } from "./events.ts";
import type { Ending, Target } from "./launch.ts";
import { header } from "./layout.gen.ts";
import { monotonicNs } from "./libc.ts";
import { Lister, type Source } from "./lister.ts";
import type { Region, RegionContent } from "./region.ts";
import type { Summary } from "./report/summary.ts";
import type { Event } from "./ring.ts";
import type { Sink } from "./sink.ts";
import type { CardPartition } from "./spatial.ts";
import { formatGroups } from "./partition.ts";
import { nameSignal } from "./signals.ts";
import { Watch } from "./watch.ts";

/** A started session, as far as watching it goes. */
export interface Started {
  region: Region;
  /** What the region was made with. */
  content: RegionContent;
  session: string;
  target: Target;
  startNs: bigint;
  /** Where NVML is; null: there is none. */
  nvml: Source | null;
  sinks: Sink[];
  /** Takes a warning for the user. */
  note: (text: string) => void;
  /** Its SMs on each card in spatial mode. */
  partitions: CardPartition[];
}

/** Stays with the session until its target has ended: hands on events, frees the slots of the dead, audits. */
export async function supervise({
  region,
  content,
  session,
  target,
  startNs,
  nvml,
  sinks,
  note,
  partitions,
}: Started): Promise<Summary> {
  const census = new Census(region);
  const feed = new EventFeed(region);
  using lister = new Lister(nvml);
  const watch = new Watch(region, content, census, feed, lister, target.pid, note);
  feed.onBell = () => watch.answerBell();
  const publish = (kind: string, values: Event["values"], pid = target.pid, name = "") =>
    feed.publish({ pid, gpu: null, kind, api: null, name, values });
  feed.publish({
    monoNs: startNs,
    pid: target.pid,
    gpu: null,
    kind: "session.start",
    api: null,
    name: "",
    values: {},
  });

  for (const { uuid, sms, wantedSms, groups, split } of partitions) {
    feed.publish({
      monoNs: startNs,
      pid: target.pid,
      gpu: uuid,
      kind: "compute.partition",
      api: null,
      name: "",
      values: {
        sms,
        sms_wanted: wantedSms,
        sms_total: split.sms,
        group_sms: split.groupSms,
        groups: formatGroups(groups),
      },
    });
  }

  const frame = {
    session,
    startMonoNs: region.load64(header.start_mono_ns),
    startWallNs: region.load64(header.start_wall_ns),
  };
  let seq = 0;
  let firstAttachNs: bigint | null = null;
  const pump = async () => {
    for await (const event of feed) {
      if (event.kind === "process.attach") {
        firstAttachNs ??= event.monoNs;
        lister.prepare();
        watch.nudge();
      }
      // A process's own goodbye is told when its slot is free and the cause is known.
      if (event.kind === "process.exit" && !("cause" in event.values)) {
        watch.goodbyes.set(event.pid, event.name);
        watch.nudge();
      } else {
        seq++;
        for (const sink of sinks) sink(event, seq, frame);
      }
    }
  };
  const pumping = pump();
  const watching = watch.run();

  const ending = await target.ended;
  const endNs = monotonicNs();
  watch.stop();
  for (const [{ pid, name }, cause] of await watch.finish())
    publish("process.exit", pid === target.pid ? describe(ending) : cause, pid, name);
  const durationNs = Number(endNs - startNs);
  publish("session.end", { ...describe(ending), duration_ns: durationNs, lost: feed.lost });
  feed.close();
  await Promise.all([pumping, watching]);

  const activeNs = Math.max(1, Number(endNs - (firstAttachNs ?? startNs)));
  const gpus = census.devices().map((device) => {
    const { uuid, memLimit, peakBytes, denials, sharePercent, chargedNs: gpuNs, copies } = device;
    const { partition, burstPercent } = device;
    const named = content.devices.find((one) => one.uuid === uuid);
    const seenBytes = watch.mostSeen(device.index);
    const realisedPercent = (gpuNs / activeNs) * 100;
    return {
      uuid,
      memLimit,
      peakBytes: Math.max(peakBytes, seenBytes),
      hasContexts: seenBytes > 0 || (named ?? content).contextBytes > 0,
      denials,
      sharePercent,
      burstPercent,
      partition,
      gpuNs,
      realisedPercent,
      copies,
      turns: watch.turnsOf(device.index),
      velocity: watch.peakVelocity(device.index),
      softBytes: device.softBytes,
      ...census.totals(device.index),
    };
  });
  const denials = gpus.reduce((sum, gpu) => sum + gpu.denials, 0);
  return {
    session,
    durationNs,
    ending,
    processes: census.joined,
    denials,
    lostEvents: feed.lost,
    gpus,
    uses: watch.records.map(({ device, ...record }) => ({
      ...record,
      uuid: gpus[device]?.uuid ?? "",
    })),
  };
}

function describe(ending: Ending): Event["values"] {
  if ("status" in ending) return { cause: "exit", status: ending.status };
  return { cause: "killed", signal: nameSignal(ending.signal) };
}
