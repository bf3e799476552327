/* Time on the simulated card: events, streams, order, and the built-in kernels. */
#include <pthread.h>

#include "sim_check.h"

static float elapsed(CUevent from, CUevent to) {
    float ms = -1;
    MUST(cuEventElapsedTime_v2(&ms, from, to));
    return ms;
}

static void events(CUfunction kernel) {
    CUevent a, b, c, silent;
    CUstream stream;
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuEventCreate(&a, 0));
    MUST(cuEventCreate(&b, 0));
    MUST(cuEventCreate(&c, 0));
    MUST(cuEventCreate(&silent, CU_EVENT_DISABLE_TIMING));
    double start = check_now();
    MUST(cuEventRecord(a, stream));
    for (int i = 0; i < 10; i++) MUST(check_launch(kernel, stream, NULL));
    MUST(cuEventRecord(b, stream));
    double launched = check_now() - start;
    CHECK("launches do not wait", launched < 5 || cuEventQuery(b) == 600);
    MUST(cuEventSynchronize(b));
    double took = check_now() - start;
    CHECK("ten kernels of 1 ms take 10 ms", took > 9.9 && took < 200);
    float ms = elapsed(a, b);
    CHECK("events say so too", ms > 9.99f && ms < 60);
    CHECK("an event without timing cannot be asked", cuEventElapsedTime(&ms, a, silent) == 400);
    struct timespec pause = {0, 5000000};
    nanosleep(&pause, NULL);
    MUST(cuEventRecord(c, stream));
    CHECK("in an idle stream an event is stamped at once",
          cuEventQuery(c) == 0 && elapsed(b, c) > 4.9f && elapsed(b, c) < 200);
    /* an event that is waited for by another stream */
    CUstream other;
    MUST(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    MUST(check_launch(kernel, stream, NULL));
    MUST(cuEventRecord(silent, stream));
    MUST(cuStreamWaitEvent(other, silent, 0));
    CHECK("the other stream waits", cuStreamQuery(other) == 600);
    MUST(cuStreamSynchronize(other));
    CHECK("and ends with it", cuStreamQuery(stream) == 0);
    MUST(cuStreamDestroy_v2(stream));
    MUST(cuStreamDestroy_v2(other));
}

static void kernels(void) {
    enum { N = 1000 };
    CUfunction fill = check_kernel("vgpu_sim_fill"), add = check_kernel("vgpu_sim_add"),
               sum = check_kernel("vgpu_sim_checksum");
    CUdeviceptr a, b, c, out;
    unsigned int n = N, three = 3, four = 4;
    unsigned long long result = 0;
    MUST(cuMemAlloc_v2(&a, N * 4));
    MUST(cuMemAlloc_v2(&b, N * 4));
    MUST(cuMemAlloc_v2(&c, N * 4));
    MUST(cuMemAlloc_v2(&out, 8));
    MUST(check_launch(fill, NULL, (void *[]){&a, &three, &n}));
    MUST(check_launch(fill, NULL, (void *[]){&b, &four, &n}));
    MUST(check_launch(add, NULL, (void *[]){&c, &a, &b, &n}));
    MUST(check_launch(sum, NULL, (void *[]){&out, &c, &n}));
    MUST(cuMemcpyDtoH_v2(&result, out, 8));
    CHECK("fill, add, checksum", result == 7000);
    MUST(cuMemsetD32_v2(a, 5, N));
    MUST(check_launch(sum, NULL, (void *[]){&out, &a, &n}));
    MUST(cuMemcpyDtoH_v2(&result, out, 8));
    CHECK("memset", result == 5000);
    unsigned int square[64 * 4], part[16] = {0};
    for (unsigned int i = 0; i < 256; i++) square[i] = i;
    MUST(cuMemcpyHtoD_v2(a, square, sizeof square));
    CUDA_MEMCPY2D copy = {.srcXInBytes = 8,
                          .srcY = 1,
                          .srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = a,
                          .srcPitch = 64 * 4 / 4,
                          .dstMemoryType = CU_MEMORYTYPE_HOST,
                          .dstHost = part,
                          .dstPitch = 16,
                          .WidthInBytes = 16,
                          .Height = 4};
    MUST(cuMemcpy2D_v2(&copy));
    CHECK("a rectangle", part[0] == 18 && part[3] == 21 && part[4] == 34 && part[15] == 69);
}

static int called;
static void count_call(void *data) { __atomic_add_fetch((int *)data, 1, __ATOMIC_SEQ_CST); }

static void hosts(CUfunction kernel) {
    CUstream stream;
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(check_launch(kernel, stream, NULL));
    MUST(cuLaunchHostFunc(stream, count_call, &called));
    MUST(check_launch(kernel, stream, NULL));
    MUST(cuLaunchHostFunc(stream, count_call, &called));
    CHECK("host functions wait for their turn", __atomic_load_n(&called, __ATOMIC_SEQ_CST) == 0);
    MUST(cuStreamSynchronize(stream));
    CHECK("and are called", called == 2);
    /* a stream that waits for a word that the host writes, and work behind it */
    void *words;
    MUST(cuMemHostAlloc(&words, 4096, 0));
    unsigned int *word = words;
    MUST(cuStreamWaitValue32_v2(stream, (CUdeviceptr)(uintptr_t)&word[0], 1, 1));
    MUST(cuStreamWriteValue32_v2(stream, (CUdeviceptr)(uintptr_t)&word[1], 9, 0));
    struct timespec pause = {0, 5000000};
    nanosleep(&pause, NULL);
    CHECK("the stream waits for the word",
          __atomic_load_n(&word[1], __ATOMIC_SEQ_CST) == 0 && cuStreamQuery(stream) == 600);
    __atomic_store_n(&word[0], 1, __ATOMIC_SEQ_CST);
    double until = check_now() + 2000;
    while (!__atomic_load_n(&word[1], __ATOMIC_SEQ_CST) && check_now() < until)
        nanosleep(&(struct timespec){0, 100000}, NULL);
    CHECK("and goes on without a call", __atomic_load_n(&word[1], __ATOMIC_SEQ_CST) == 9);
    MUST(cuStreamSynchronize(stream));
}

static void depth(CUfunction kernel) {
    CUstream stream;
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    double start = check_now(), slowest = 0;
    for (int i = 0; i < 1022; i++) MUST(check_launch(kernel, stream, NULL));
    double before = check_now() - start;
    double at = check_now();
    MUST(check_launch(kernel, stream, NULL));
    slowest = check_now() - at;
    CHECK("1022 launches are taken at once", before < 500);
    CHECK("the next one waits for the queue", before + slowest > 0.9);
    MUST(cuStreamDestroy_v2(stream));
    MUST(cuCtxSynchronize());
}

static void *worker(void *context) {
    CUfunction kernel;
    CUstream stream;
    CUmodule module;
    MUST(cuCtxSetCurrent(context));
    MUST(cuModuleLoadData(&module, "x"));
    MUST(cuModuleGetFunction(&kernel, module, "short"));
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 300; i++) {
        CUdeviceptr p, q;
        MUST(cuMemAllocAsync(&p, 100000, stream));
        MUST(check_launch(kernel, stream, NULL));
        MUST(cuMemsetD8Async(p, 1, 100000, stream));
        MUST(cuMemFreeAsync(p, stream));
        if (i % 20 == 0) {
            MUST(cuMemAlloc_v2(&q, 5000));
            MUST(cuStreamSynchronize(stream));
            MUST(cuMemFree_v2(q));
        }
    }
    MUST(cuStreamSynchronize(stream));
    return NULL;
}

int main(void) {
    check_start();
    setenv("VGPU_SIM_KERNELS", "ms=1000,short=5,vgpu_sim_fill=10", 1);
    CUcontext context = check_context();
    CUfunction ms = check_kernel("ms");
    events(ms);
    kernels();
    hosts(ms);
    depth(ms);
    pthread_t thread[8];
    for (int i = 0; i < 8; i++) pthread_create(&thread[i], NULL, worker, context);
    for (int i = 0; i < 8; i++) pthread_join(thread[i], NULL);
    CHECK("eight threads", 1);
    CUfunction fast = check_kernel("short");
    CUstream stream;
    MUST(cuStreamCreate(&stream, 1));
    double best = 1e9;
    for (int round = 0; round < 20; round++) {
        double start = check_now();
        for (int i = 0; i < 1000; i++) check_launch(fast, stream, NULL);
        double each = check_now() - start;
        if (each < best) best = each;
        MUST(cuStreamSynchronize(stream));
    }
    printf("# a launch takes %.2f us\n", best);
    CHECK("a launch takes little (20 us: sanitizers, shared hosts)", best < 20);
    return check_failed;
}
