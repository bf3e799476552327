import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Lister } from "../src/lister.ts";
import { folder } from "./vgpu.ts";

const UUID = "GPU-00000000-0000-0000-0000-000000000001";
const work = folder({
  "slow.c": `
#include <stdint.h>
#include <string.h>
#include <unistd.h>
int nvmlInit_v2(void) { usleep(400000); return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *t, unsigned n) { (void)n; strcpy(t, "1"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, uint64_t *h) { *h = i + 16; return 0; }
int nvmlDeviceGetUUID(void *d, char *t, unsigned n) { (void)d, (void)n; strcpy(t, "${UUID}"); return 0; }
int nvmlDeviceGetName(void *d, char *t, unsigned n) { (void)d, (void)n; strcpy(t, "slow"); return 0; }
int nvmlDeviceGetMemoryInfo_v2(void *d, uint64_t *m) { (void)d; m[1] = 1000; m[2] = 0; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, unsigned char *room) {
    (void)d, *n = 1;
    memset(room, 0, 24);
    room[0] = 42, room[8] = 100;
    return 0;
}
`,
});
const library = join(work.path, "slow.so");
const source = { library, environment: {} };
afterAll(() => work[Symbol.dispose]());

beforeAll(() => {
  const words = ["cc", "-shared", "-fPIC", join(work.path, "slow.c"), "-o", library];
  expect(Bun.spawnSync(words).stderr.toString()).toBe("");
});

test("while NVML starts, this thread goes on; the answers come in the order of the questions", async () => {
  using lister = new Lister(source);
  lister.prepare();
  expect(lister.state).toBe("asleep");
  const start = performance.now();
  const answers = Promise.all([lister.ask([UUID]), lister.ask([UUID, "GPU-other"])]);
  let longest = 0;
  for (let last = performance.now(); performance.now() - start < 300; last = performance.now()) {
    await Bun.sleep(5);
    longest = Math.max(longest, performance.now() - last);
  }
  expect(lister.state).toBe("starting");
  expect(longest).toBeLessThan(200);
  const uses = [{ pid: 42, bytes: 100 }];
  expect(await answers).toEqual([[uses], [uses, null]]);
  expect(lister.state).toBe("up");
});

test("ended while NVML starts: no answer, and no wait", async () => {
  const lister = new Lister(source);
  const answer = lister.ask([UUID]);
  await Bun.sleep(20);
  const start = performance.now();
  lister[Symbol.dispose]();
  expect(await answer).toBeNull();
  expect(performance.now() - start).toBeLessThan(100);
  expect(await lister.ask([UUID])).toBeNull();
});

test.each([null, { library: "/nonexistent.so", environment: {} }])(
  "without NVML: %p",
  async (nothing) => {
    using lister = new Lister(nothing);
    expect(await lister.ask([UUID])).toBeNull();
    expect(lister.state).toBe("absent");
  },
);
