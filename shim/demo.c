/* vgpu-demo: a small program against the driver API for `vgpu demo`. It takes memory until it is
 * refused, then keeps the GPU busy for a while, and writes what it got as one line of JSON.
 *
 *     vgpu-demo check                        exit 0 if there is a usable GPU; prints its name
 *     vgpu-demo REPORT SECONDS MOST_BYTES ITERATIONS
 *
 * MOST_BYTES 0: no memory phase. ITERATIONS 0: as many as make a launch of half a millisecond. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_abi.h"

#define BLOCK_BYTES ((size_t)512 << 20)
#define MAX_BLOCKS 64
#define UNIT_NS 500000.0 /* one launch, after calibration */
#define BATCH 8          /* launches between waits */

/* Every thread multiplies and adds `count` times; the store keeps the loop alive. */
static const char IMAGE[] = ".version 6.0\n.target sm_50\n.address_size 64\n"
                            ".visible .entry vgpu_demo_spin(.param .u32 count, .param .u64 out) {\n"
                            "  .reg .pred %p; .reg .b32 %n, %i; .reg .f32 %f; .reg .b64 %o;\n"
                            "  ld.param.u32 %n, [count]; ld.param.u64 %o, [out];\n"
                            "  mov.u32 %i, 0; mov.f32 %f, 0f3F800000;\n"
                            "again: fma.rn.f32 %f, %f, 0f3F800000, 0f3F000000;\n"
                            "  add.u32 %i, %i, 1; setp.lt.u32 %p, %i, %n; @%p bra again;\n"
                            "  setp.eq.u32 %p, %n, 0; @%p st.global.f32 [%o], %f;\n"
                            "  ret;\n}\n";

static void *cuda;

static void *symbol(const char *name) {
    void *found = dlsym(cuda, name);
    if (found) return found;
    fprintf(stderr, "vgpu-demo: the driver has no %s\n", name);
    exit(1);
}

#define CUDA(name) ((typeof(&name))symbol(#name))

static void must(CUresult result, const char *what) {
    if (result == CUDA_SUCCESS) return;
    fprintf(stderr, "vgpu-demo: %s failed with code %d\n", what, (int)result);
    exit(1);
}

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int check(void) {
    int count = 0;
    char name[128] = "";
    CUdevice device;
    if (CUDA(cuInit)(0) != CUDA_SUCCESS || CUDA(cuDeviceGetCount)(&count) != CUDA_SUCCESS ||
        count == 0)
        return 1;
    must(CUDA(cuDeviceGet)(&device, 0), "cuDeviceGet");
    must(CUDA(cuDeviceGetName)(name, sizeof name, device), "cuDeviceGetName");
    puts(name);
    return 0;
}

/* Returns what was had when the driver said no, or `most`. */
static size_t fill_memory(size_t most, int *refusal) {
    CUdeviceptr blocks[MAX_BLOCKS];
    int count = 0;
    *refusal = 0;
    while (count < MAX_BLOCKS && (size_t)count * BLOCK_BYTES < most) {
        *refusal = (int)CUDA(cuMemAlloc_v2)(&blocks[count], BLOCK_BYTES);
        if (*refusal) break;
        count++;
    }
    for (int i = 0; i < count; i++) must(CUDA(cuMemFree_v2)(blocks[i]), "cuMemFree");
    return (size_t)count * BLOCK_BYTES;
}

struct work {
    CUfunction function;
    unsigned int blocks, iterations;
    CUdeviceptr out;
};

static void launch(struct work *work) {
    void *parameters[] = {&work->iterations, &work->out};
    must(CUDA(cuLaunchKernel)(work->function, work->blocks, 1, 1, 256, 1, 1, 0, NULL, parameters,
                              NULL),
         "cuLaunchKernel");
}

static void wait_all(void) { must(CUDA(cuCtxSynchronize)(), "cuCtxSynchronize"); }

static struct work prepare(CUdevice device) {
    struct work work = {.iterations = 20000};
    int processors = 1;
    CUmodule module;
    must(CUDA(cuDeviceGetAttribute)(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device),
         "cuDeviceGetAttribute");
    must(CUDA(cuModuleLoadData)(&module, IMAGE), "cuModuleLoadData");
    must(CUDA(cuModuleGetFunction)(&work.function, module, "vgpu_demo_spin"),
         "cuModuleGetFunction");
    must(CUDA(cuMemAlloc_v2)(&work.out, 256), "cuMemAlloc");
    work.blocks = (unsigned int)processors;
    return work;
}

/* Launches for the given time, one batch ahead of the wait, so that the queue never runs dry. The
 * rate is of finished launches. */
static double units_per_second(struct work *work, double seconds) {
    CUevent done[2];
    for (int i = 0; i < 2; i++)
        must(CUDA(cuEventCreate)(&done[i], CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    double start = now_ns();
    long batches = 0;
    while (now_ns() - start < seconds * 1e9) {
        for (int i = 0; i < BATCH; i++) launch(work);
        must(CUDA(cuEventRecord)(done[batches % 2], NULL), "cuEventRecord");
        if (batches > 0)
            must(CUDA(cuEventSynchronize)(done[(batches + 1) % 2]), "cuEventSynchronize");
        batches++;
    }
    wait_all();
    return (double)(batches * BATCH) / ((now_ns() - start) / 1e9);
}

int main(int argc, char **argv) {
    cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!cuda) return 1;
    if (argc == 2 && strcmp(argv[1], "check") == 0) return check();
    if (argc < 5) return 2;
    double seconds = atof(argv[2]);
    size_t most = strtoull(argv[3], NULL, 10);

    CUdevice device;
    CUcontext context;
    must(CUDA(cuInit)(0), "cuInit");
    must(CUDA(cuDeviceGet)(&device, 0), "cuDeviceGet");
    must(CUDA(cuDevicePrimaryCtxRetain)(&context, device), "cuDevicePrimaryCtxRetain");
    must(CUDA(cuCtxSetCurrent)(context), "cuCtxSetCurrent");
    int refusal = 0;
    size_t had = most ? fill_memory(most, &refusal) : 0;
    struct work work = prepare(device);
    work.iterations = (unsigned int)strtoul(argv[4], NULL, 10);
    if (work.iterations == 0) { /* measure one launch, aim at UNIT_NS */
        work.iterations = 20000;
        launch(&work);
        wait_all();
        double start = now_ns();
        launch(&work);
        wait_all();
        work.iterations = (unsigned int)(20000 * UNIT_NS / (now_ns() - start)) + 1;
    }
    double rate = units_per_second(&work, seconds);
    FILE *report = fopen(argv[1], "w");
    if (!report) return 1;
    fprintf(report,
            "{\"had_bytes\":%zu,\"refusal\":%d,\"iterations\":%u,\"units_per_second\":%.3f}\n", had,
            refusal, work.iterations, rate);
    return fclose(report) == 0 ? 0 : 1;
}
