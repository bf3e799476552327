/* Spatial mode on the simulated GPU: contexts end when they would without a partition, and not
 * sooner. */
#include <pthread.h>

#include "partition_driver.h"

static bool is_active(void) {
    unsigned int flags;
    int active;
    MUST(cuDevicePrimaryCtxGetState(0, &flags, &active));
    return active;
}

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

int main(void) {
    region = session_region();
    give_partition();
    threads();
    return failures != 0;
}
