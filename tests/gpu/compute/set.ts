// Changes the share of a running session: writes it into the region and raises limits_version.
//   bun tests/gpu/compute/set.ts REGION PERCENT        prints the moment, CLOCK_MONOTONIC ns
import * as layout from "../../../src/layout.gen.ts";
import { monotonicNs } from "../../../src/libc.ts";
import { deviceOffset, Region } from "../../../src/region.ts";

/** In force with the next slice. Returns when it was written, CLOCK_MONOTONIC ns. */
export function setShare(path: string, percent: number): bigint {
  const region = new Region(path);
  if (!region.isCurrent) throw new Error(`${path} is no region of this version`);
  const { header, device, WHOLE_GPU } = layout;
  const ppm = Math.round((percent / 100) * WHOLE_GPU);
  for (let i = 0; i < layout.MAX_DEVICES; i++)
    if (region.load32(deviceOffset(i) + device.state) === layout.DEVICE.READY)
      region.store32(deviceOffset(i) + device.share_ppm, ppm);
  region.store32(header.default_share_ppm, ppm);
  region.store32(header.limits_version, region.load32(header.limits_version) + 1);
  return monotonicNs();
}

if (import.meta.main) {
  const [path, percent] = Bun.argv.slice(2);
  if (path === undefined || !(Number(percent) > 0 && Number(percent) <= 100)) {
    console.error("usage: set.ts REGION PERCENT");
    process.exit(2);
  }
  console.log(String(setShare(path, Number(percent))));
}
