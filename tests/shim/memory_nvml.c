/* NVML through the shim agrees with the driver; only the session's processes are listed. Run by
 * memory_run.sh with a limit of 4 GiB, beside a process outside the session ("outsider"). */
#include "memory_driver.h"

#include <signal.h>
#include <sys/wait.h>

static void works(int rc, const char *name) { equal((uint64_t)rc, 0, name); }

/* argv[1] "hold": takes a context and 64 MiB and waits for its end; with or without a session. */
static int hold(void) {
    CUcontext context;
    CUdeviceptr p;
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context) ||
        cuMemAlloc_v2(&p, 64 * MiB))
        return 1;
    if (write(1, "", 1) != 1) return 1;
    for (;;) pause();
}

static pid_t start(char *self, bool inside) {
    int ready[2];
    char byte;
    if (pipe(ready)) abort();
    pid_t child = fork();
    if (child == 0) {
        dup2(ready[1], 1);
        if (!inside) {
            unsetenv("VGPU_REGION");
            unsetenv("LD_PRELOAD");
        }
        execl(self, self, "hold", (char *)NULL);
        _exit(127);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) fprintf(stderr, "holder failed\n");
    return child;
}

int main(int argc, char **argv) {
    if (argc > 1) return hold();
    struct vgpu_region *region = session_region();
    const uint64_t limit = 4 * GiB;
    pid_t inside = start(argv[0], true), outside = start(argv[0], false);
    CUcontext context;
    works((int)cuInit(0), "cuInit");
    works((int)cuDevicePrimaryCtxRetain(&context, 0), "retain");
    works((int)cuCtxSetCurrent(context), "set current");

    nvmlDevice_t device;
    works(nvmlInit_v2(), "nvmlInit_v2");
    works(nvmlDeviceGetHandleByIndex_v2(0, &device), "handle");
    size_t left, total;
    works((int)cuMemGetInfo_v2(&left, &total), "cuMemGetInfo_v2");
    equal(total - left, 2 * 518 * MiB + 64 * MiB, "the session's two processes are counted");

    nvmlMemory_t v1;
    works(nvmlDeviceGetMemoryInfo(device, &v1), "memory v1");
    equal(v1.total, limit, "v1 total is the limit");
    equal(v1.free, left, "v1 free agrees with the driver");
    equal(v1.used + v1.free, v1.total, "v1 adds up");
    nvmlMemory_v2_t v2 = {.version = NVML_MEMORY_V2};
    works(nvmlDeviceGetMemoryInfo_v2(device, &v2), "memory v2");
    equal(v2.total, limit, "v2 total is the limit");
    equal(v2.free, left, "v2 free agrees");
    equal(v2.used, charged(region), "v2 used is the session's");
    equal(v2.used + v2.free + v2.reserved, v2.total, "v2 adds up");
    v2.version = 1;
    check(nvmlDeviceGetMemoryInfo_v2(device, &v2) != NVML_SUCCESS, "v2: the driver checks versions",
          0, 0);

    nvmlProcessInfo_v1_t one[8];
    nvmlProcessInfo_t list[8];
    unsigned count = 8;
    works(nvmlDeviceGetComputeRunningProcesses(device, &count, one), "processes v1");
    equal(count, 2, "v1: two of three");
    count = 8;
    works(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, list), "processes v3");
    equal(count, 2, "v3: two of three");
    uint64_t found = 0, figures = 0;
    for (unsigned i = 0; i < count && i < 8; i++) {
        found += list[i].pid == (unsigned)inside ? 1U : list[i].pid == (unsigned)getpid() ? 2U : 8U;
        figures += list[i].usedGpuMemory;
    }
    equal(found, 3, "the session's own");
    equal(figures, charged(region), "with the driver's figures");
    count = 1;
    equal((uint64_t)nvmlDeviceGetComputeRunningProcesses_v3(device, &count, list),
          NVML_ERROR_INSUFFICIENT_SIZE, "too small a list");
    equal(count, 2, "says how many");
    count = 0;
    equal((uint64_t)nvmlDeviceGetComputeRunningProcesses_v3(device, &count, NULL),
          NVML_ERROR_INSUFFICIENT_SIZE, "asking for the count");
    equal(count, 2, "gives it");

    region->devices[0].mem_limit = 100 * MiB;
    works(nvmlDeviceGetMemoryInfo(device, &v1), "limit lowered below use");
    equal(v1.free, 0, "free 0, no underflow");
    equal(v1.used, 100 * MiB, "used is all");
    works(nvmlDeviceGetMemoryInfo_v2(device, (v2.version = NVML_MEMORY_V2, &v2)), "v2 too");
    equal(v2.used + v2.free + v2.reserved, v2.total, "adds up");
    region->devices[0].mem_limit = VGPU_NO_LIMIT;
    works(nvmlDeviceGetMemoryInfo(device, &v1), "no limit");
    check(v1.total > 8 * GiB, "the card's own figures", v1.total, 0);
    count = 8;
    works(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, list), "processes");
    equal(count, 3, "all of them");
    region->devices[0].mem_limit = limit;

    kill(inside, SIGKILL);
    kill(outside, SIGKILL);
    while (wait(NULL) > 0) {
    }
    CUdeviceptr p[16];
    int n = 0;
    while (n < 16 && cuMemAlloc_v2(&p[n], 256 * MiB) == CUDA_SUCCESS) n++;
    equal((uint64_t)n, (limit - 518 * MiB) / (256 * MiB),
          "a killed process's bytes are free before anything is refused");
    return failures != 0;
}
