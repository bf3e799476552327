import { setForLibraries } from "./environment.ts";
import { Nvml } from "./nvml.ts";
import type { Answer, Source } from "./lister.ts";

declare const self: Worker;

let nvml: Nvml | null | undefined;

/** The first message says where NVML is; each later one names the cards to look at, by UUID. */
self.onmessage = ({ data }: MessageEvent<Source | string[]>) => {
  if (!Array.isArray(data)) {
    setForLibraries(data.environment);
    nvml = Nvml.open(data.library);
    postMessage(nvml !== null);
    return;
  }
  const answer: Answer = data.map((uuid) => nvml?.listUses(uuid) ?? null);
  postMessage(answer);
};
