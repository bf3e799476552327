/* Spatial mode on the simulated GPU: contexts end when they would without a partition, and not
 * sooner. */
#include <pthread.h>

#include "partition_driver.h"

/* --- many threads retain and release --- */

enum { THREADS = 4, ROUNDS = 300, PAIRS = 300 };
static pthread_barrier_t barrier;

static void *retains_and_releases(void *unused) {
    CUcontext context;
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < PAIRS; i++) {
            MUST(cuDevicePrimaryCtxRetain(&context, 0));
            MUST(cuDevicePrimaryCtxRelease_v2(0));
        }
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void threads(void) {
    pthread_t thread[THREADS];
    CUcontext context;
    CUstream stream;
    uint64_t lost = 0, kept = 0;
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&thread[i], NULL, retains_and_releases, NULL)) abort();
    for (int round = 0; round < ROUNDS; round++) {
        MUST(cuDevicePrimaryCtxRetain(&context, 0));
        MUST(cuCtxSetCurrent(context));
        MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        lost += cuStreamQuery(stream) != CUDA_SUCCESS;
        MUST(cuCtxSetCurrent(NULL));
        MUST(cuDevicePrimaryCtxRelease_v2(0));
        kept += is_active();
        if (is_active()) MUST(cuDevicePrimaryCtxReset_v2(0));
    }
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    equal(lost, 0, "who holds the primary context has it, whatever other threads release");
    equal(kept, 0, "and the last release ends it");
    equal(charged(region), 0, "nothing stays charged after them");
}

/* --- green contexts of the program's own --- */

static CUgreenCtx make_green(void) {
    CUdevResource whole, group;
    CUdevResourceDesc desc;
    CUgreenCtx green;
    unsigned int count = 1;
    MUST(cuDeviceGetDevResource(0, &whole, CU_DEV_RESOURCE_TYPE_SM));
    MUST(cuDevSmResourceSplitByCount(&group, &count, &whole, NULL, 0, 8));
    MUST(cuDevResourceGenerateDesc(&desc, &group, 1));
    MUST(cuGreenCtxCreate(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
    return green;
}

/* The last release of it, by the one thread that has it current. */
static void end_primary(void) {
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    check(!is_active(), "and released it ends", 0, 0);
    MUST(cuCtxSetCurrent(NULL));
    equal(charged(region), 0, "with all that was charged");
}

static void held_by_green(void) {
    CUcontext context;
    CUstream stream;
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUgreenCtx first = make_green(), second = make_green();
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    MUST(cuGreenCtxDestroy(first));
    equal(cuStreamQuery(stream), CUDA_SUCCESS, "a green context holds the primary one's streams");
    runs_inside(stream, "whose work stays inside");
    runs_inside(NULL, "as does its default stream's");
    MUST(cuGreenCtxDestroy(second));
    check(!is_active(), "the last green context ends it", 0, 0);
    equal(charged(region), 0, "nothing stays charged after green contexts");
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuGreenCtxDestroy(make_green()));
    check(is_active(), "a retained one outlives them", 0, 0);
    make_green();
    MUST(cuDevicePrimaryCtxReset_v2(0));
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    runs_inside(NULL, "after a reset, which ends green contexts: inside");
    end_primary();
}

static void waits_for_green(void) {
    CUcontext context;
    CUmodule module;
    CUfunction kernel;
    CUstream stream;
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    setenv("VGPU_SIM_KERNELS", "long=20000", 1); /* us on the whole card */
    MUST(cuModuleLoadData(&module, ".version 8.0"));
    MUST(cuModuleGetFunction(&kernel, module, "long"));
    CUgreenCtx green = make_green();
    MUST(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
    MUST(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    equal(cuStreamQuery(stream), CUDA_ERROR_NOT_READY, "work in a green context takes its time");
    MUST(cuCtxSynchronize());
    equal(cuStreamQuery(stream), CUDA_SUCCESS, "cuCtxSynchronize of the primary one waits for it");
    MUST(cuGreenCtxDestroy(green));
    MUST(cuModuleUnload(module));
    end_primary();
}

int main(void) {
    region = session_region();
    give_partition();
    threads();
    held_by_green();
    waits_for_green();
    return failures != 0;
}
