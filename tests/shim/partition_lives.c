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
    equal(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT,
          "what green contexts hold cannot be released");
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

/* --- a primary context that ends and comes back --- */

static CUcontext primary;
static unsigned int lives;

/* Odd and even threads take to the new primary context in two ways. */
static void *has_it_current(void *number) {
    CUdeviceptr p;
    CUcontext context = primary;
    CUstream stream;
    MUST(cuCtxSetCurrent(primary));
    MUST(cuMemAlloc_v2(&p, MiB));
    pthread_barrier_wait(&barrier);
    for (unsigned int life = 0; life < lives; life++) pthread_barrier_wait(&barrier);
    bool asks = number != NULL;
    if (asks) MUST(cuCtxGetCurrent(&context));
    check(context == primary, "who has a primary context current sees it after its end too", 0, 0);
    if (asks) MUST(cuCtxSynchronize());
    MUST(cuMemAlloc_v2(&p, MiB));
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    runs_inside(stream, "and works in it once it has come back: inside");
    MUST(cuStreamDestroy_v2(stream));
    return NULL;
}

/* So often, with a view of its own each time. */
static void comes_back(unsigned int times) {
    pthread_t thread[2];
    CUdeviceptr p;
    lives = times;
    pthread_barrier_init(&barrier, NULL, 3);
    MUST(cuDevicePrimaryCtxRetain(&primary, 0));
    for (uintptr_t i = 0; i < 2; i++)
        if (pthread_create(&thread[i], NULL, has_it_current, (void *)i)) abort();
    pthread_barrier_wait(&barrier);
    for (unsigned int life = 0; life < lives; life++) {
        MUST(cuDevicePrimaryCtxReset_v2(0));
        MUST(cuDevicePrimaryCtxRetain(&primary, 0));
        MUST(cuCtxSetCurrent(primary));
        MUST(cuMemAlloc_v2(&p, MiB));
        pthread_barrier_wait(&barrier);
    }
    for (int i = 0; i < 2; i++) pthread_join(thread[i], NULL);
    end_primary();
}

/* --- contexts of the program's own outlive it --- */

static void release_too_many(void) {
    CUcontext room, context;
    CUdeviceptr p;
    MUST(cuCtxCreate_v2(&room, 0, 0));
    MUST(cuMemAlloc_v2(&p, MiB));
    equal(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT,
          "a primary context that nobody has retained cannot be released");
    equal(cuMemsetD8_v2(p, 1, 16), CUDA_SUCCESS, "and created contexts live on");
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    equal(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT, "nor once more than that");
    MUST(cuCtxDestroy_v2(room));
    check(!is_active(), "the last created context ends it", 0, 0);
    equal(charged(region), 0, "with all that was charged");
    equal(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT, "nor without them");
}

static void reset_beside_room(void) {
    CUcontext context, room;
    CUdeviceptr p, q;
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuMemAlloc_v2(&p, 32 * MiB));
    MUST(cuCtxCreate_v2(&room, 0, 0));
    MUST(cuMemAlloc_v2(&q, 64 * MiB));
    MUST(cuDevicePrimaryCtxReset_v2(0));
    equal(cuMemsetD8_v2(q, 1, 16), CUDA_SUCCESS, "a reset leaves created contexts alone");
    runs_inside(NULL, "which run inside");
    equal(charged(region), (518 + 64) * MiB, "the primary one's memory goes");
    equal(cuMemFree_v2(p), CUDA_ERROR_INVALID_VALUE, "and is free");
    MUST(cuCtxPopCurrent_v2(NULL));
    CUstream stream;
    check(cuStreamCreate(&stream, 0) != CUDA_SUCCESS && cuMemsetD8_v2(q, 1, 16) != CUDA_SUCCESS,
          "who has the primary one current has a dead one", 0, 0);
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxGetCurrent(&primary));
    check(primary == context, "retained again it is current as it was", 0, 0);
    MUST(cuMemsetD8_v2(q, 1, 16));
    runs_inside(NULL, "inside");
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuCtxDestroy_v2(room));
    check(!is_active(), "nothing else holds it", 0, 0);
    equal(charged(region), 0, "and nothing stays charged");
}

int main(void) {
    region = session_region();
    give_partition();
    threads();
    held_by_green();
    waits_for_green();
    comes_back(1);
    comes_back(5);
    release_too_many();
    reset_beside_room();
    return failures != 0;
}
