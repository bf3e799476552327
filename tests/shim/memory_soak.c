/* Processes of many threads on random paths, killed at random moments: nothing is lost, the limit
 * holds throughout. Run by memory_run.sh with a limit of 4 GiB: memory_soak [kills] [threads]. */
#define _GNU_SOURCE
#include "memory_driver.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define PROCESSES 4
#define PATHS 10

static CUcontext primary;
static uint64_t favourite; /* half of a process's calls: each path meets the limit alone too */

static void *random_paths(void *unused) {
    CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    static const char image[] = ".version 6.0\n.global .align 4 .b8 x[3000000];\n";
    CUdeviceptr p[8] = {0}, at = 0;
    CUarray a[8] = {0};
    CUmodule m[8] = {0};
    CUmemGenericAllocationHandle h[8] = {0};
    CUstream stream;
    size_t pitch;
    (void)unused;
    CUresult made = cuCtxSetCurrent(primary);
    while (!made &&
           (made = cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING)) == CUDA_ERROR_OUT_OF_MEMORY) {
        made = CUDA_SUCCESS; /* may not fit at once */
        usleep(1000);
    }
    if (made) _exit(6);
    cuMemAddressReserve(&at, 64 * MiB, 0, 0, 0);
    for (;;) {
        uint64_t k = random_below(8), bytes = random_below(64 * MiB) + 1;
        if (p[k] && random_below(2)) cuMemFree_v2(p[k]);
        else if (p[k]) cuMemFreeAsync(p[k], stream);
        if (h[k]) cuMemRelease(h[k]);
        if (a[k]) cuArrayDestroy(a[k]);
        if (m[k]) cuModuleUnload(m[k]);
        p[k] = h[k] = 0;
        a[k] = NULL;
        m[k] = NULL;
        CUDA_ARRAY_DESCRIPTOR shape = {bytes % 2000 + 1, bytes / 2000 % 2000, CU_AD_FORMAT_FLOAT,
                                       1};
        CUresult rc = CUDA_SUCCESS;
        switch (random_below(2) ? favourite : random_below(PATHS)) {
        case 0:
            rc = cuMemAlloc_v2(&p[k], bytes);
            break;
        case 1:
            rc = cuMemAlloc_v2(&p[k], bytes % MiB + 1);
            break;
        case 2:
            rc = cuMemAllocAsync(&p[k], bytes, stream);
            break;
        case 3:
            rc = cuMemAllocPitch_v2(&p[k], &pitch, bytes % 5000 + 1, 1000, 4);
            break;
        case 4:
            rc = cuMemAllocManaged(&p[k], bytes, CU_MEM_ATTACH_GLOBAL);
            break;
        case 6:
            rc = cuArrayCreate_v2(&a[k], &shape);
            break;
        case 7:
            shape.Width = shape.Width % 100 + 1;
            rc = cuArrayCreate_v2(&a[k], &shape);
            break;
        case 8:
            rc = cuModuleLoadData(&m[k], image);
            break;
        case 5:
            rc = cuMemCreate(&h[k], (bytes / (2 * MiB) + 1) * 2 * MiB, &properties, 0);
            break;
        default: /* create, map, release, unmap: what llama.cpp does */
            if (cuMemCreate(&h[k], 2 * MiB, &properties, 0)) break;
            if (cuMemMap(at + k * 2 * MiB, 2 * MiB, 0, h[k], 0)) break;
            cuMemRelease(h[k]);
            cuMemUnmap(at + k * 2 * MiB, 2 * MiB);
            h[k] = 0;
        }
        if (rc != CUDA_SUCCESS) p[k] = h[k] = 0, a[k] = NULL, m[k] = NULL;
        if (rc != CUDA_SUCCESS && rc != CUDA_ERROR_OUT_OF_MEMORY) _exit(9);
        if (random_below(32) == 0) cuStreamSynchronize(stream);
    }
}

static int worker(int threads) {
    favourite = random_below(PATHS);
    if (cuInit(0)) return 8;
    while (cuDevicePrimaryCtxRetain(&primary, 0)) usleep(1000); /* may not fit at once */
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, random_paths, NULL);
    }
    random_paths(NULL);
    return 7;
}

/* A process outside the session: NVML's figure for all processes of the card, as often as it can,
 * until its stdin closes; prints the greatest. */
static int sampler(void) {
    nvmlDevice_t device;
    unsigned long long most = 0, samples = 0;
    if (nvmlInit_v2() || nvmlDeviceGetHandleByIndex_v2(0, &device)) return 1;
    fcntl(0, F_SETFL, O_NONBLOCK);
    for (char byte; read(0, &byte, 1) != 0; samples++) {
        nvmlProcessInfo_t list[64];
        unsigned count = 64;
        unsigned long long sum = 0;
        if (nvmlDeviceGetComputeRunningProcesses_v3(device, &count, list)) continue;
        for (unsigned i = 0; i < count; i++) sum += list[i].usedGpuMemory;
        if (sum > most) most = sum;
        usleep(500);
    }
    printf("%llu %llu\n", most, samples);
    return 0;
}

static FILE *sampler_start(char *self, int *stop) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) abort();
    if (fork() == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        unsetenv("LD_PRELOAD");
        unsetenv("VGPU_REGION");
        execl(self, self, "sampler", (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    *stop = in[1];
    return fdopen(out[0], "r");
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "sampler") == 0) return sampler();
    int stop;
    FILE *samples = argc > 3 ? NULL : sampler_start(argv[0], &stop);
    int kills = argc > 1 ? atoi(argv[1]) : 100, threads = argc > 2 ? atoi(argv[2]) : 16;
    if (argc > 3) return worker(threads);
    struct vgpu_region *region = session_region();
    pid_t child[PROCESSES] = {0};
    uint64_t died = 0;
    for (int i = 0; i < kills + PROCESSES; i++) {
        pid_t *one = &child[i % PROCESSES];
        int status = SIGKILL;
        if (*one) {
            kill(*one, SIGKILL);
            waitpid(*one, &status, 0);
        }
        died += status != SIGKILL;
        *one = 0;
        if (i < kills && (*one = fork()) == 0) {
            execl(argv[0], argv[0], "0", argc > 2 ? argv[2] : "16", "worker", (char *)NULL);
            _exit(127);
        }
        usleep((useconds_t)random_below(60000));
    }
    equal(died, 0, "none failed by itself");
    vgpu_slot_reap(region);
    equal(charged(region), 0, "killed at random moments: no byte is lost");
    check(region->header.ring_lost <= (uint64_t)kills,
          "events: at most the one that a killed process was writing", region->header.ring_lost,
          (uint64_t)kills);
    printf("# peak %llu of %llu MiB, %llu denials\n",
           (unsigned long long)(region->devices[0].peak_bytes / MiB),
           (unsigned long long)(region->devices[0].mem_limit / MiB),
           (unsigned long long)region->devices[0].denials);
    check(region->devices[0].peak_bytes <= region->devices[0].mem_limit, "never over the limit",
          region->devices[0].peak_bytes, region->devices[0].mem_limit);
    unsigned long long most = 0, taken = 0;
    close(stop);
    if (!samples || fscanf(samples, "%llu %llu", &most, &taken) != 2) most = UINT64_MAX;
    printf("# NVML saw %llu MiB at most in %llu samples\n", most / MiB, taken);
    check(most <= region->devices[0].mem_limit, "NVML's figure never over the limit", most,
          region->devices[0].mem_limit);
    return failures != 0;
}
