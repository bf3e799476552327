/* Spatial mode on the simulated GPU, where streams in a green context do not wait for each other
 * (nor do they on a real one): the legacy stream and blocking streams keep their order all the
 * same.
 */
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "partition_driver.h"

static CUcontext context;
static CUstream blocking, other, apart;
static CUdeviceptr memory;
static CUevent event;
static uint32_t asked, *given; /* work in a stream lasts until as much is given as was asked for */

static bool runs(void) { return cuEventQuery(event) == CUDA_ERROR_NOT_READY; }
static void finish(void) { vgpu_store_release(given, vgpu_load_acquire(&asked)); }

/* Ends whatever works, a while after it began. */
static void *finish_soon(void *forever) {
    (void)forever;
    for (;;) {
        uint32_t seen = vgpu_load_acquire(&asked);
        usleep(10000);
        vgpu_store_release(given, seen);
    }
    return NULL;
}

static void hold(CUstream stream) {
    MUST(cuStreamWaitValue32_v2(stream, (CUdeviceptr)(uintptr_t)given,
                                vgpu_add_relaxed(&asked, 1U) + 1, 0 /* or more */));
}

/* Work there, and the event behind it. */
static void work_in(CUstream stream) {
    hold(stream);
    MUST(cuEventRecord(event, stream));
}

static void fill(CUstream stream) { MUST(cuMemsetD8Async(memory, 1, 4, stream)); }

static void flags_are(CUstream stream, unsigned int expected, const char *what) {
    unsigned int flags = 9;
    MUST(cuStreamGetFlags(stream, &flags));
    equal(flags, expected, what);
}

static void copy(void) {
    unsigned int word;
    MUST(cuMemcpyDtoH_v2(&word, memory, 4));
}

/* With nothing that ends the work: who waits would wait for ever. */
static void nobody_waits(void) {
    work_in(apart);
    copy();
    check(runs(), "a copy does not wait for work in a non-blocking stream", 0, 1);
    finish();
    work_in(CU_STREAM_LEGACY);
    fill(apart);
    MUST(cuStreamSynchronize(apart));
    check(runs(), "nor does its work for the legacy stream's", 0, 1);
    MUST(cuStreamSynchronize(blocking));
    check(runs(), "nor who waits for a blocking stream without work", 0, 1);
    finish();
    work_in(blocking);
    fill(other);
    MUST(cuStreamSynchronize(other));
    check(runs(), "two blocking streams do not wait for each other", 0, 1);
    finish();
    MUST(cuCtxSynchronize());
}

static void legacy_waits(void) {
    work_in(blocking);
    check(runs(), "work takes its time", 0, 1);
    copy();
    check(!runs(), "a copy waits for work in a blocking stream", 0, 1);
    work_in(blocking);
    MUST(cuStreamSynchronize(NULL));
    check(!runs(), "so does who waits for the legacy stream", 0, 1);
    hold(other);
    work_in(blocking);
    fill(CU_STREAM_LEGACY);
    MUST(cuStreamSynchronize(CU_STREAM_LEGACY));
    check(!runs() && cuStreamQuery(other) == CUDA_SUCCESS,
          "and a fill by the legacy stream's other name, for all of them", 0, 1);
    MUST(cuMemsetD8Async_ptsz(memory, 1, 4, NULL));
    hold(CU_STREAM_PER_THREAD);
    MUST(cuEventRecord_ptsz(event, NULL));
    copy();
    check(!runs(), "the thread's own stream is a blocking one", 0, 1);
}

static void blocking_waits(void) {
    work_in(NULL);
    fill(blocking);
    MUST(cuStreamSynchronize(blocking));
    check(!runs(), "a blocking stream's work waits for the legacy stream's", 0, 1);
    CUstream late;
    work_in(NULL);
    MUST(cuStreamCreateWithPriority(&late, CU_STREAM_DEFAULT, -1));
    fill(late);
    MUST(cuStreamSynchronize(late));
    check(!runs(), "a new one's for what the legacy stream had before", 0, 1);
    MUST(cuStreamDestroy_v2(late));
}

/* What the legacy stream gets while there is no blocking stream is not counted. */
static void comes_and_goes(void) {
    CUstream first, second;
    MUST(cuCtxSynchronize());
    MUST(cuStreamDestroy_v2(blocking));
    MUST(cuStreamDestroy_v2(other));
    MUST(cuStreamSynchronize(NULL));
    MUST(cuStreamCreate(&first, CU_STREAM_DEFAULT));
    fill(NULL);
    fill(first);
    MUST(cuStreamSynchronize(NULL));
    MUST(cuStreamDestroy_v2(first));
    work_in(NULL);
    MUST(cuStreamCreate(&second, CU_STREAM_DEFAULT));
    fill(second);
    MUST(cuStreamSynchronize(second));
    check(!runs(), "a blocking stream after a time without any waits for the legacy one", 0, 1);
    MUST(cuStreamDestroy_v2(second));
    MUST(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    MUST(cuStreamCreate(&other, CU_STREAM_DEFAULT));
}

static CUgraphExec graph_of_fill(void) {
    CUgraph graph;
    CUgraphExec exec;
    MUST(cuStreamBeginCapture_v2(apart, CU_STREAM_CAPTURE_MODE_RELAXED));
    fill(apart);
    MUST(cuStreamEndCapture(apart, &graph));
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cuGraphDestroy(graph));
    return exec;
}

static void graphs(void) {
    CUgraphExec exec = graph_of_fill();
    work_in(NULL);
    MUST(cuGraphLaunch(exec, blocking));
    MUST(cuStreamSynchronize(blocking));
    check(!runs(), "a graph in a blocking stream waits for the legacy one", 0, 1);
    hold(blocking);
    MUST(cuGraphLaunch(exec, blocking));
    MUST(cuEventRecord(event, blocking));
    copy();
    check(!runs(), "and a copy for the graph", 0, 1);
    MUST(cuGraphExecDestroy(exec));
}

static void captures(void) {
    CUgraph graph;
    work_in(other);
    MUST(cuStreamBeginCapture_v2(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
    fill(blocking);
    copy();
    check(!runs(), "a copy beside a capture waits for the others", 0, 1);
    equal(cuStreamEndCapture(blocking, &graph), CUDA_SUCCESS, "and the capture is whole");
    size_t nodes = 0;
    MUST(cuGraphGetNodes(graph, NULL, &nodes));
    equal(nodes, 1, "with nothing of ours in it");
    MUST(cuGraphDestroy(graph));
}

static void ended(void) {
    CUstream stream;
    MUST(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
    work_in(stream);
    MUST(cuStreamDestroy_v2(stream));
    check(runs(), "a destroyed stream's work goes on", 0, 1);
    copy();
    check(!runs(), "and is waited for", 0, 1);
    CUcontext room;
    MUST(cuCtxCreate_v2(&room, 0, 0));
    MUST(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
    MUST(cuCtxDestroy_v2(room));
    MUST(cuCtxSetCurrent(context));
    copy();
    check(true, "a context takes its streams with it", 0, 0);
}

/* Another thread's copies may be about to have the legacy stream wait for the same work. */
#define ROUNDS 60
static bool over;
static void *copies(void *unused) {
    CUdeviceptr mine;
    unsigned word;
    (void)unused;
    MUST(cuCtxSetCurrent(context));
    MUST(cuMemAlloc_v2(&mine, 4));
    while (!vgpu_load_acquire(&over)) MUST(cuMemcpyDtoH_v2(&word, mine, 4));
    MUST(cuMemFree_v2(mine));
    return NULL;
}

static void capture_nothing(CUstream stream) {
    CUgraph graph;
    MUST(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    MUST(cuStreamEndCapture(stream, &graph));
    MUST(cuGraphDestroy(graph));
}

static void *captures_on(void *unused) {
    CUstream own;
    (void)unused;
    MUST(cuCtxSetCurrent(context));
    MUST(cuStreamCreate(&own, CU_STREAM_NON_BLOCKING));
    while (!vgpu_load_acquire(&over)) {
        capture_nothing(own);
    }
    MUST(cuStreamDestroy_v2(own));
    return NULL;
}

static void threads(void) {
    pthread_t copier;
    uint64_t missed = 0;
    if (pthread_create(&copier, NULL, copies, NULL)) abort();
    for (int i = 0; i < ROUNDS; i++) {
        work_in(blocking);
        copy();
        missed += runs();
    }
    vgpu_store_release(&over, true);
    pthread_join(copier, NULL);
    equal(missed, 0, "a copy waits also where another thread's has just begun to");
    vgpu_store_release(&over, false);
    if (pthread_create(&copier, NULL, captures_on, NULL)) abort();
    for (int i = 0; i < ROUNDS; i++) {
        work_in(i % 2 ? blocking : NULL);
        if (i % 2) {
            copy();
        } else {
            fill(blocking);
            MUST(cuStreamSynchronize(blocking));
        }
        missed += runs();
    }
    vgpu_store_release(&over, true);
    pthread_join(copier, NULL);
    equal(missed, 0, "and beside a thread that captures again and again");
}

/* A graph is launched while another thread begins or ends a capture. */
static bool captures_now, captures_not = true;
static void *captures_at_times(void *unused) {
    CUstream own;
    (void)unused;
    MUST(cuCtxSetCurrent(context));
    MUST(cuStreamCreate(&own, CU_STREAM_NON_BLOCKING));
    while (!vgpu_load_acquire(&over)) {
        bool now = vgpu_load_acquire(&captures_now);
        vgpu_store_release(&captures_not, !now);
        if (!now) {
            sched_yield();
            continue;
        }
        capture_nothing(own);
    }
    MUST(cuStreamDestroy_v2(own));
    return NULL;
}

static CUgraphExec graph_of_work(void) {
    CUmodule module;
    CUfunction kernel;
    CUgraph graph;
    CUgraphExec exec;
    setenv("VGPU_SIM_KERNELS", "long=2000", 1); /* us on the whole card */
    MUST(cuModuleLoadData(&module, ".version 8.0"));
    MUST(cuModuleGetFunction(&kernel, module, "long"));
    MUST(cuStreamBeginCapture_v2(apart, CU_STREAM_CAPTURE_MODE_RELAXED));
    MUST(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, apart, NULL, NULL));
    MUST(cuStreamEndCapture(apart, &graph));
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cuGraphDestroy(graph));
    return exec;
}

static void graphs_beside_captures(void) {
    enum { GRAPHS = 150 };
    pthread_t capturer;
    uint64_t missed = 0;
    CUgraphExec exec = graph_of_work();
    vgpu_store_release(&over, false);
    if (pthread_create(&capturer, NULL, captures_at_times, NULL)) abort();
    for (int i = 0; i < GRAPHS; i++) {
        vgpu_store_release(&captures_now, true);
        while (vgpu_load_acquire(&captures_not)) sched_yield();
        MUST(cuGraphLaunch(exec, apart));
        vgpu_store_release(&captures_now, false);
        while (!vgpu_load_acquire(&captures_not)) sched_yield();
        MUST(cuCtxSynchronize());
        missed += cuStreamQuery(apart) == CUDA_ERROR_NOT_READY;
        MUST(cuStreamSynchronize(apart));
    }
    vgpu_store_release(&over, true);
    pthread_join(capturer, NULL);
    /* A busy machine may keep the capturing thread away for as long as we wait for it. */
    check(missed <= GRAPHS / 20, "cuCtxSynchronize waits for a graph launched beside a capture",
          missed, 0);
    MUST(cuGraphExecDestroy(exec));
}

int main(void) {
    pthread_t finisher;
    region = session_region();
    give_partition();
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuMemAlloc_v2(&memory, 4));
    MUST(cuMemHostAlloc((void **)&given, 4, 0));
    *given = 0;
    MUST(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    MUST(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    MUST(cuStreamCreateWithPriority(&other, CU_STREAM_DEFAULT, -2));
    MUST(cuStreamCreate(&apart, CU_STREAM_NON_BLOCKING));
    flags_are(blocking, CU_STREAM_DEFAULT, "a blocking stream looks like one");
    flags_are(other, CU_STREAM_DEFAULT, "also with a priority");
    flags_are(apart, CU_STREAM_NON_BLOCKING, "a non-blocking one like one");
    nobody_waits();
    if (pthread_create(&finisher, NULL, finish_soon, NULL)) abort();
    legacy_waits();
    blocking_waits();
    comes_and_goes();
    graphs();
    captures();
    ended();
    threads();
    graphs_beside_captures();
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuDevicePrimaryCtxReset_v2(0));
    equal(charged(region), 0, "nothing stays charged");
    return failures != 0;
}
