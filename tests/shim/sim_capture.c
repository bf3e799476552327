/* Stream capture: what it survives and what ends it (facts/cuda.md section 8). */
#include <pthread.h>

#include "sim_check.h"

static CUfunction kernel;
static CUstream stream, other, blocking;
static CUevent event, outside;

/* Begins a capture, makes one call in it, ends it. Gives the call's code and the code of the end.
 */
struct outcome {
    int call, end;
};
#define IN_CAPTURE(on, mode, code)                                                                 \
    ({                                                                                             \
        struct outcome o_;                                                                         \
        CUgraph g_ = NULL;                                                                         \
        MUST(cuStreamBeginCapture_v2(on, mode));                                                   \
        o_.call = (int)(code);                                                                     \
        o_.end = (int)cuStreamEndCapture(on, &g_);                                                 \
        if (g_) MUST(cuGraphDestroy(g_));                                                          \
        o_;                                                                                        \
    })
#define SURVIVES(name, code)                                                                       \
    for (int m_ = 0; m_ < 3; m_++) {                                                               \
        struct outcome o = IN_CAPTURE(stream, (CUstreamCaptureMode)m_, code);                      \
        if (o.call || o.end)                                                                       \
            printf("FAIL %s in mode %d: %d, end %d\n", name, m_, o.call, o.end), check_failed = 1; \
        else if (m_ == 2) printf("ok %s is fine in every mode\n", name);                           \
    }
#define BREAKS(name, mode, expected, code)                                                         \
    do {                                                                                           \
        struct outcome o = IN_CAPTURE(stream, mode, code);                                         \
        if (o.call != (expected) || o.end != 901)                                                  \
            printf("FAIL %s: %d, end %d\n", name, o.call, o.end), check_failed = 1;                \
        else printf("ok %s gives %d and ends the capture\n", name, o.call);                        \
    } while (0)

static void survivors(void) {
    CUevent e;
    CUstream s;
    CUdeviceptr p, q;
    size_t a, b;
    unsigned int word = 1;
    MUST(cuMemAlloc_v2(&q, 4096));
    CUstreamCaptureStatus status;
    SURVIVES("EventRecord elsewhere", cuEventRecord(event, other));
    SURVIVES("EventCreate and Destroy", cuEventCreate(&e, 0) || cuEventDestroy_v2(e));
    SURVIVES("StreamCreate and Destroy", cuStreamCreate(&s, 1) || cuStreamDestroy_v2(s));
    SURVIVES("launch elsewhere", check_launch(kernel, other, NULL));
    SURVIVES("launch on the capturing stream", check_launch(kernel, stream, NULL));
    SURVIVES("MemAllocAsync on it", cuMemAllocAsync(&p, 1000, stream) || cuMemFreeAsync(p, stream));
    SURVIVES("MemGetInfo", cuMemGetInfo_v2(&a, &b));
    SURVIVES("copy and set on the NULL stream",
             cuMemcpyHtoD_v2(q, &word, 4) || cuMemsetD8_v2(q, 0, 4));
    SURVIVES("ModuleLoad", check_kernel("x") == NULL);
    SURVIVES("IsCapturing",
             cuStreamIsCapturing(stream, &status) || status != CU_STREAM_CAPTURE_STATUS_ACTIVE);
}

static void breakers(void) {
    CUdeviceptr p, q;
    void *host;
    MUST(cuMemAlloc_v2(&q, 4096));
    BREAKS("StreamQuery of it", CU_STREAM_CAPTURE_MODE_RELAXED, 900, cuStreamQuery(stream));
    BREAKS("StreamSynchronize of it", CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, 900,
           cuStreamSynchronize(stream));
    BREAKS("CtxSynchronize", CU_STREAM_CAPTURE_MODE_RELAXED, 900, cuCtxSynchronize());
    BREAKS("EventQuery", CU_STREAM_CAPTURE_MODE_GLOBAL, 900, cuEventQuery(outside));
    BREAKS("StreamQuery elsewhere", CU_STREAM_CAPTURE_MODE_GLOBAL, 900, cuStreamQuery(other));
    BREAKS("MemAlloc", CU_STREAM_CAPTURE_MODE_GLOBAL, 900, cuMemAlloc_v2(&p, 100));
    BREAKS("MemFree", CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, 900, cuMemFree_v2(q));
    BREAKS("AllocAsync elsewhere", CU_STREAM_CAPTURE_MODE_GLOBAL, 900,
           cuMemAllocAsync(&p, 100, other));
    BREAKS("MemHostAlloc", CU_STREAM_CAPTURE_MODE_GLOBAL, 900, cuMemHostAlloc(&host, 100, 0));
    BREAKS("CtxSetLimit", CU_STREAM_CAPTURE_MODE_GLOBAL, 900,
           cuCtxSetLimit(CU_LIMIT_PRINTF_FIFO_SIZE, 1 << 20));
    BREAKS("WaitEvent of an outside event", CU_STREAM_CAPTURE_MODE_GLOBAL, 905,
           cuStreamWaitEvent(stream, outside, 0));
    BREAKS("EventQuery of a captured event", CU_STREAM_CAPTURE_MODE_RELAXED, 907,
           (cuEventRecord(event, stream), cuEventQuery(event)));
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    MUST(cuThreadExchangeStreamCaptureMode(&mode));
    struct outcome o =
        IN_CAPTURE(stream, CU_STREAM_CAPTURE_MODE_GLOBAL,
                   cuEventQuery(outside) || cuMemAlloc_v2(&p, 100) || cuMemFree_v2(p));
    CHECK("a RELAXED thread may do all that", !o.call && !o.end);
    MUST(cuThreadExchangeStreamCaptureMode(&mode));
    CHECK("the exchange gives the old mode back", mode == CU_STREAM_CAPTURE_MODE_RELAXED);
}

static CUcontext context;
static void *poll_default(void *rc) {
    MUST(cuCtxSetCurrent(context));
    *(int *)rc = (int)cuEventQuery(outside);
    return NULL;
}
static void *poll_relaxed(void *rc) {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    MUST(cuCtxSetCurrent(context));
    MUST(cuThreadExchangeStreamCaptureMode(&mode));
    *(int *)rc = (int)cuEventQuery(outside);
    return NULL;
}
static int in_thread(void *(*run)(void *)) {
    pthread_t thread;
    int rc = -1;
    pthread_create(&thread, NULL, run, &rc);
    pthread_join(thread, NULL);
    return rc;
}

static void null_stream(void) {
    CUstreamCaptureStatus status;
    CUgraph graph;
    MUST(cuStreamBeginCapture_v2(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK("IsCapturing(NULL) beside a blocking capture is 906",
          cuStreamIsCapturing(NULL, &status) == 906);
    CHECK("and does no harm", cuStreamEndCapture(blocking, &graph) == 0);
    MUST(cuStreamBeginCapture_v2(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK("a launch there is 906", check_launch(kernel, NULL, NULL) == 906);
    CHECK("and ends the capture", cuStreamEndCapture(blocking, &graph) == 901 && !graph);
    CHECK("afterwards all is well",
          check_launch(kernel, NULL, NULL) == 0 && cuCtxSynchronize() == 0);
}

static void forks(void) {
    CUgraph graph;
    CUgraphExec exec;
    CUevent fork_event, join;
    size_t nodes = 0;
    MUST(cuEventCreate(&fork_event, CU_EVENT_DISABLE_TIMING));
    MUST(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    MUST(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    MUST(check_launch(kernel, stream, NULL));
    MUST(cuEventRecord(fork_event, stream));
    MUST(cuStreamWaitEvent(other, fork_event, 0));
    MUST(check_launch(kernel, other, NULL));
    MUST(check_launch(kernel, stream, NULL));
    MUST(cuEventRecord(join, other));
    MUST(cuStreamWaitEvent(stream, join, 0));
    MUST(check_launch(kernel, stream, NULL));
    MUST(cuStreamEndCapture(stream, &graph));
    MUST(cuGraphGetNodes(graph, NULL, &nodes));
    CHECK("a fork and a join: four nodes", nodes == 4);
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    double start = check_now();
    MUST(cuGraphLaunch(exec, stream));
    MUST(cuStreamSynchronize(stream));
    double took = check_now() - start;
    CHECK("which take 4 ms", took > 3.9 && took < 200);
    MUST(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    MUST(cuEventRecord(fork_event, stream));
    MUST(cuStreamWaitEvent(other, fork_event, 0));
    MUST(check_launch(kernel, other, NULL));
    CHECK("without a join the end is 904", cuStreamEndCapture(stream, &graph) == 904);
    CHECK("and both streams are free", cuStreamQuery(other) == 0 && cuStreamQuery(stream) == 0);
}

int main(void) {
    check_start();
    setenv("VGPU_SIM_KERNEL_US", "1000", 1);
    context = check_context();
    kernel = check_kernel("k");
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    MUST(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    MUST(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    MUST(cuEventCreate(&outside, CU_EVENT_DISABLE_TIMING));
    MUST(cuEventRecord(outside, other));
    survivors();
    MUST(cuCtxSynchronize());
    breakers();
    BREAKS("a thread that polls", CU_STREAM_CAPTURE_MODE_GLOBAL, 900, in_thread(poll_default));
    struct outcome o = IN_CAPTURE(stream, CU_STREAM_CAPTURE_MODE_GLOBAL, in_thread(poll_relaxed));
    CHECK("a RELAXED thread that polls does not", !o.call && !o.end);
    o = IN_CAPTURE(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, in_thread(poll_default));
    CHECK("nor one beside a THREAD_LOCAL capture", !o.call && !o.end);
    null_stream();
    forks();
    return check_failed;
}
