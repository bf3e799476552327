/* Samples NVML's figure for all compute processes of GPU 0 as fast as it can until its stdin
 * closes; prints one JSON line: the highest sum seen, samples, samples a second. Stands outside the
 * session. sampler [limit_bytes]    also counts samples above the limit */
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/nvml_abi.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    unsigned long long limit = argc > 1 ? strtoull(argv[1], NULL, 10) : ~0ULL;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!library) return fprintf(stderr, "sampler: %s\n", dlerror()), 2;
    typeof(&nvmlInit_v2) init = (typeof(&nvmlInit_v2))dlsym(library, "nvmlInit_v2");
    typeof(&nvmlDeviceGetHandleByIndex_v2) by_index =
        (typeof(&nvmlDeviceGetHandleByIndex_v2))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    typeof(&nvmlDeviceGetComputeRunningProcesses_v3) list =
        (typeof(&nvmlDeviceGetComputeRunningProcesses_v3))dlsym(
            library, "nvmlDeviceGetComputeRunningProcesses_v3");
    nvmlDevice_t device;
    if (!init || !by_index || !list || init() || by_index(0, &device))
        return fprintf(stderr, "sampler: no NVML\n"), 2;
    unsigned long long peak = 0, above = 0, samples = 0;
    double begin = now(), slowest = 0, last = begin;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    while (!poll(&input, 1, 0)) {
        static nvmlProcessInfo_v2_t processes[128];
        unsigned int count = 128;
        if (list(device, &count, processes))
            return fprintf(stderr, "sampler: process list failed\n"), 3;
        unsigned long long sum = 0;
        for (unsigned int i = 0; i < count; i++) sum += processes[i].usedGpuMemory;
        if (sum > peak) peak = sum;
        above += sum > limit;
        samples++;
        double t = now();
        if (t - last > slowest) slowest = t - last;
        last = t;
    }
    printf("{\"peak_bytes\": %llu, \"samples\": %llu, \"per_second\": %.0f, \"slowest_ms\": %.2f, "
           "\"above_limit\": %llu}\n",
           peak, samples, (double)samples / (now() - begin), slowest * 1e3, above);
    return 0;
}
