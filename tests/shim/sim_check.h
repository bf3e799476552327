/* What the tests of the simulated GPU share: a directory of its own for each run, one line a check.
 */
#ifndef VGPU_SIM_CHECK_H
#define VGPU_SIM_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/cuda_abi.h"
#include "../../shim/nvml_abi.h"

#define MIB ((size_t)1 << 20)

static char check_directory[] = "/tmp/vgpu-sim-test.XXXXXX";
static int check_failed;

#define CHECK(name, condition)                                                                     \
    do {                                                                                           \
        if (condition) printf("ok %s\n", name);                                                    \
        else {                                                                                     \
            printf("FAIL %s (%s:%d: %s)\n", name, __FILE__, __LINE__, #condition);                 \
            check_failed = 1;                                                                      \
        }                                                                                          \
        fflush(stdout);                                                                            \
    } while (0)

/* A call that must succeed for the test to make sense. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        int rc_ = (int)(call);                                                                     \
        if (rc_) {                                                                                 \
            printf("FAIL %s gave %d (%s:%d)\n", #call, rc_, __FILE__, __LINE__);                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline void check_clean(void) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", check_directory);
    if (system(command)) fprintf(stderr, "left %s behind\n", check_directory);
}

/* A fresh machine, unless a parent test has made one. */
static inline void check_start(void) {
    if (getenv("VGPU_SIM_DIR")) return;
    if (!mkdtemp(check_directory)) exit(1);
    setenv("VGPU_SIM_DIR", check_directory, 1);
    atexit(check_clean);
}

static inline double check_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6; /* ms */
}

static inline CUcontext check_context(void) {
    CUcontext context;
    MUST(cuInit(0));
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    return context;
}

static inline size_t check_free(void) {
    size_t available, total;
    MUST(cuMemGetInfo_v2(&available, &total));
    return available;
}

static inline CUfunction check_kernel(const char *name) {
    CUmodule module;
    CUfunction function;
    MUST(cuModuleLoadData(&module, "any image will do"));
    MUST(cuModuleGetFunction(&function, module, name));
    return function;
}

static inline CUresult check_launch(CUfunction function, CUstream stream, void **params) {
    return cuLaunchKernel(function, 132, 1, 1, 256, 1, 1, 0, stream, params, NULL);
}

/* Bytes that NVML lists for a process, 0 if it is not listed. */
static inline unsigned long long check_listed(unsigned int pid) {
    nvmlDevice_t device;
    nvmlProcessInfo_t list[64];
    unsigned int count = 64;
    MUST(nvmlDeviceGetHandleByIndex_v2(0, &device));
    MUST(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, list));
    for (unsigned int i = 0; i < count; i++)
        if (list[i].pid == pid) return list[i].usedGpuMemory;
    return 0;
}

#endif
