/* Spatial mode on the simulated GPU: every way in which a program gets a context leads into the
 * partition, and the program sees what it knows. */
#include <pthread.h>

#include "../../shim/overhead.h"
#include "partition_driver.h"

static CUcontext primary; /* as cudart gets it: past the shim */
static typeof(&cuDevicePrimaryCtxRetain) real_retain;
static typeof(&cuCtxGetCurrent) real_current;

static CUcontext current(void) {
    CUcontext context = NULL;
    MUST(cuCtxGetCurrent(&context));
    return context;
}

/* --- what a program that uses the driver sees --- */

static void retained(void) {
    CUcontext context, popped;
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    check(current() == context, "the program sees the handle that it set", 0, 0);
    CUcontext truly;
    MUST(real_current(&truly));
    check(truly != context, "and the driver another", 0, 0);
    runs_inside(NULL, "retained and set: inside");
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuCtxPushCurrent_v2(context));
    runs_inside(NULL, "pushed: inside");
    MUST(cuCtxPopCurrent_v2(&popped));
    check(popped == context, "what is popped is what was pushed", 0, 0);
    check(current() == NULL, "and nothing is left", 0, 0);
    unsigned long long by_handle, by_current;
    MUST(cuCtxSetCurrent(context));
    MUST(cuCtxGetId(context, &by_handle));
    MUST(cuCtxGetId(NULL, &by_current));
    equal(by_current, by_handle, "one id");
    unsigned int flags = 99;
    MUST(cuCtxSetFlags(CU_CTX_SCHED_YIELD));
    MUST(cuCtxGetFlags(&flags));
    equal(flags, CU_CTX_SCHED_YIELD, "flags that the program sets are the ones that it sees");
    MUST(cuCtxSetFlags(0));
    equal(charged(region), 518 * MiB, "one context is charged");
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    check(!is_active(), "the last release ends it", 0, 0);
    equal(charged(region), 0, "and nothing stays charged");
    check(cuMemAlloc_v2(&(CUdeviceptr){0}, 8) != CUDA_SUCCESS, "who has it current has a dead one",
          0, 0);
    MUST(cuCtxSetCurrent(NULL));
}

static void streams(void) {
    CUstream low, high;
    CUcontext context, got;
    CUgreenCtx green = (CUgreenCtx)1;
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuStreamCreateWithPriority(&low, CU_STREAM_NON_BLOCKING, 0));
    MUST(cuStreamCreateWithPriority(&high, CU_STREAM_NON_BLOCKING, -5));
    runs_inside(low, "a stream of low priority: inside");
    runs_inside(high, "a stream of high priority: inside");
    unsigned int bits[8];
    smids(NULL, true, bits);
    check(memcmp(bits, OWN_SMS, 32) == 0, "the per-thread stream: inside", bits[0], OWN_SMS[0]);
    MUST(cuStreamGetCtx(low, &got));
    check(got == context, "a stream's context is the one that the program knows", 0, 0);
    MUST(cuStreamGetCtx_v2(high, &got, &green));
    check(got == context && !green, "and no green one", 0, 0);
    green = (CUgreenCtx)1;
    MUST(cuStreamGetGreenCtx(high, &green));
    check(!green, "asked for it alone neither", 0, 0);
    CUdeviceptr p;
    MUST(cuMemAlloc_v2(&p, 8 * MiB));
    MUST(cuPointerGetAttribute(&got, CU_POINTER_ATTRIBUTE_CONTEXT, p));
    check(got == context, "a pointer's context", 0, 0);
    MUST(cuMemFree_v2(p));
    MUST(cuStreamDestroy_v2(low));
    MUST(cuStreamDestroy_v2(high));
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    MUST(cuCtxSetCurrent(NULL));
}

/* --- per-thread default streams, which the driver does not have in a green context --- */

/* The stream's number in the driver, by each of the two names that it has. */
static unsigned long long own_stream(void) {
    unsigned long long by_handle = 0, by_null = 0;
    MUST(cuStreamGetId(CU_STREAM_PER_THREAD, &by_handle));
    MUST(cuStreamGetId_ptsz(NULL, &by_null));
    check(by_handle == by_null, "one stream under both its names", by_handle, by_null);
    return by_handle;
}

static void *other_own_stream(void *result) {
    MUST(cuCtxSetCurrent(primary));
    *(unsigned long long *)result = own_stream();
    return NULL;
}

static void thread_streams(void) {
    CUevent event;
    CUdeviceptr p, q;
    pthread_t thread;
    unsigned int bits[8], word = 0;
    unsigned long long other, id;
    MUST(cuDevicePrimaryCtxRetain(&primary, 0));
    MUST(cuCtxSetCurrent(primary));
    runs_inside(CU_STREAM_PER_THREAD, "the per-thread stream by its handle: inside");
    smids(NULL, true, bits);
    check(memcmp(bits, OWN_SMS, 32) == 0, "and as NULL of a _ptsz call", bits[0], OWN_SMS[0]);
    id = own_stream();
    if (pthread_create(&thread, NULL, other_own_stream, &other)) abort();
    pthread_join(thread, NULL);
    check(other != id, "another thread has another", other, id);
    MUST(cuStreamGetId(NULL, &other));
    check(other != id, "the legacy stream is another", other, id);

    MUST(cuMemAllocAsync_ptsz(&p, MiB, NULL));
    MUST(cuMemAlloc_v2(&q, MiB));
    MUST(cuMemsetD32Async(p, 5, MiB / 4, CU_STREAM_PER_THREAD));
    MUST(cuMemcpyDtoDAsync_v2_ptsz(q, p, MiB, NULL));
    MUST(cuMemcpyDtoH_v2_ptds(&word, q, 4));
    equal(word, 5, "a synchronous copy of it comes after the asynchronous ones");
    MUST(cuMemFreeAsync(p, CU_STREAM_PER_THREAD));
    MUST(cuEventCreate(&event, 0));
    MUST(cuEventRecord_ptsz(event, NULL));
    MUST(cuStreamWaitEvent(CU_STREAM_PER_THREAD, event, 0));
    MUST(cuStreamSynchronize_ptsz(NULL));
    MUST(cuStreamQuery(CU_STREAM_PER_THREAD));
    MUST(cuEventDestroy_v2(event));

    CUgraph graph;
    CUgraphExec exec;
    MUST(cuStreamBeginCapture_v2_ptsz(NULL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    MUST(cuMemsetD32Async_ptsz(q, 9, 1, NULL));
    MUST(cuStreamEndCapture(CU_STREAM_PER_THREAD, &graph));
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cuGraphLaunch_ptsz(exec, NULL));
    MUST(cuCtxSynchronize());
    MUST(cuMemcpyDtoH_v2(&word, q, 4));
    equal(word, 9, "it captures, and runs graphs");
    MUST(cuGraphExecDestroy(exec));
    MUST(cuGraphDestroy(graph));
    MUST(cuMemFree_v2(q));

    MUST(cuDevicePrimaryCtxReset_v2(0));
    MUST(cuDevicePrimaryCtxRetain(&primary, 0));
    MUST(cuCtxSetCurrent(primary));
    runs_inside(CU_STREAM_PER_THREAD, "after a reset: a new one, inside");
    CUcontext room;
    MUST(cuCtxCreate_v2(&room, 0, 0));
    runs_inside(CU_STREAM_PER_THREAD, "in a context of the program's own: inside");
    MUST(cuCtxDestroy_v2(room));
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuDevicePrimaryCtxReset_v2(0));
    equal(charged(region), 0, "nothing stays charged after them");
}

static void counts(void) {
    int sms;
    CUcontext context;
    CUdevResource whole, groups[4];
    unsigned int count = 4;
    MUST(cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    equal((uint64_t)sms, SMS, "the SM count is the partition's");
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    CUmodule module;
    CUfunction kernel;
    int grid, block, each;
    MUST(cuModuleLoadData(&module, ".version 8.0"));
    MUST(cuModuleGetFunction(&kernel, module, "any"));
    MUST(cuOccupancyMaxPotentialBlockSize(&grid, &block, kernel, NULL, 0, 0));
    MUST(cuOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, block, 0));
    equal((uint64_t)grid, (uint64_t)(each * SMS),
          "a grid that fills the device fills the partition");
    equal(cuLaunchCooperativeKernel(kernel, (unsigned)(each * SMS), 1, 1, (unsigned)block, 1, 1, 0,
                                    NULL, NULL),
          0, "a cooperative grid of that size runs");
    equal(cuLaunchCooperativeKernel(kernel, (unsigned)(each * SMS + 1), 1, 1, (unsigned)block, 1, 1,
                                    0, NULL, NULL),
          720, "one block more does not");
    MUST(cuCtxGetDevResource(context, &whole, CU_DEV_RESOURCE_TYPE_SM));
    equal(whole.sm.smCount, SMS, "the context's resource is the partition");
    MUST(cuDeviceGetDevResource(0, &whole, CU_DEV_RESOURCE_TYPE_SM));
    equal(whole.sm.smCount, SMS, "the device's too");
    MUST(cuDevSmResourceSplitByCount(groups, &count, &whole, NULL, 0, 8));
    CUdevResourceDesc desc;
    CUgreenCtx green;
    CUcontext view;
    MUST(cuDevResourceGenerateDesc(&desc, &groups[1], 1));
    MUST(cuGreenCtxCreate(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
    MUST(cuCtxFromGreenCtx(&view, green));
    MUST(cuCtxSetCurrent(view));
    check(current() == view, "a green context of the program's own is its own", 0, 0);
    unsigned int bits[8], sum = 0, outside = 0;
    smids(NULL, false, bits);
    for (int i = 0; i < 8; i++) {
        sum += (unsigned)__builtin_popcount(bits[i]);
        outside += (unsigned)__builtin_popcount(bits[i] & ~OWN_SMS[i]);
    }
    check(sum == 8 && outside == 0, "and lies inside the partition", outside, 0);
    MUST(cuGreenCtxDestroy(green));
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    check(!is_active(), "nothing keeps the primary context", 0, 0);
}

/* --- contexts of the program's own --- */

static void rooms(void) {
    CUcontext a, b, context;
    unsigned int flags;
    CUdeviceptr in_a, in_b;
    MUST(cuCtxCreate_v2(&a, CU_CTX_SCHED_BLOCKING_SYNC, 0));
    check(current() == a, "cuCtxCreate makes its context current", 0, 0);
    runs_inside(NULL, "cuCtxCreate: inside");
    MUST(cuMemAlloc_v2(&in_a, 64 * MiB));
    MUST(cuCtxCreate_v3(&b, NULL, 0, 0, 0));
    check(current() == b && a != b, "a second one is another", 0, 0);
    MUST(cuMemAlloc_v2(&in_b, 32 * MiB));
    equal(charged(region), (518 + 96) * MiB, "two cost what one costs");
    MUST(cuCtxGetFlags(&flags));
    equal(flags, 0, "its flags");
    MUST(cuCtxPopCurrent_v2(&context));
    check(context == b && current() == a, "they stack", 0, 0);
    MUST(cuCtxGetFlags(&flags));
    equal(flags, CU_CTX_SCHED_BLOCKING_SYNC, "the other's");
    MUST(cuCtxSetFlags(CU_CTX_SCHED_SPIN));
    MUST(cuCtxGetFlags(&flags));
    equal(flags, CU_CTX_SCHED_SPIN, "and those that are set later");
    MUST(cuCtxDestroy_v2(b));
    equal(charged(region), (518 + 64) * MiB, "what it had allocated goes with it");
    check(cuMemFree_v2(in_b) == CUDA_ERROR_INVALID_VALUE, "and is free", 0, 0);
    MUST(cuMemsetD8_v2(in_a, 1, 64 * MiB));
    MUST(cuCtxDestroy_v2(a));
    check(current() == NULL, "the current one is popped when it ends", 0, 0);
    check(!is_active(), "the last ends the primary context that carried it", 0, 0);
    equal(charged(region), 0, "nothing stays charged after two contexts");
    MUST(cuCtxCreate_v4(&a, NULL, 0, 0));
    runs_inside(NULL, "cuCtxCreate_v4: inside");
    CUexecAffinityParam affinity = {.type = CU_EXEC_AFFINITY_TYPE_SM_COUNT};
    equal(cuCtxCreate_v3(&b, &affinity, 1, 0, 0), CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY,
          "a context for an SM count is refused");
    MUST(cuCtxDestroy_v2(a));
}

/* --- cudart's way: the primary context comes from a private table --- */

static void *another_thread(void *result) {
    unsigned int bits[8];
    MUST(cuCtxSetCurrent(primary));
    CUstream stream;
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    smids(stream, false, bits);
    *(bool *)result = memcmp(bits, OWN_SMS, 32) == 0 && current() == primary;
    MUST(cuStreamDestroy_v2(stream));
    return NULL;
}

static void runtime(void) {
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    bool inside[THREADS] = {false}, all = true;
    const void *table;
    cuGetExportTable(&table, &(CUuuid){{0}});
    MUST(real_retain(&primary, 0));
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, another_thread, &inside[i])) abort();
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        all = all && inside[i];
    }
    check(all, "eight threads that set the runtime's handle at once: inside", 0, 0);
    uint64_t streams_most = THREADS * VGPU_STREAM_BYTES;
    check(charged(region) >= 518 * MiB && charged(region) <= 518 * MiB + streams_most,
          "charged once, with the streams that were alive at once", charged(region), 518 * MiB);
    MUST(cuCtxSetCurrent(primary));
    runs_inside(NULL, "the runtime's handle: inside");
    CUcontext context;
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    check(context == primary, "retained beside it: the same handle", 0, 0);
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    runs_inside(NULL, "released again: the runtime still has it, inside");
    typeof(&cuCtxSetCurrent) set = REAL_FUNCTION(cuCtxSetCurrent);
    MUST(set(primary));
    CUdeviceptr p;
    MUST(cuMemAlloc_v2(&p, MiB));
    MUST(cuMemFree_v2(p));
    runs_inside(NULL, "made current past the shim: inside from the next allocation on");
    MUST(cuDevicePrimaryCtxReset_v2(0));
    equal(charged(region), 0, "a reset ends all of it");
    check(current() == primary, "who had it current still sees it", 0, 0);
    MUST(real_retain(&primary, 0));
    MUST(cuCtxSetCurrent(primary));
    runs_inside(NULL, "after a reset: inside again");
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuDevicePrimaryCtxReset_v2(0));
}

/* --- graphs --- */

/* A kernel node of a library's kernel runs in the context that it names. */
static void node_inside(CUcontext context, CUstream stream) {
    CUlibrary library;
    CUkernel kernel;
    CUdeviceptr out;
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode node;
    unsigned int words = 8, bits[8];
    void *arguments[] = {&out, &words};
    MUST(cuLibraryLoadData(&library, ".version 8.0", NULL, NULL, 0, NULL, NULL, 0));
    MUST(cuLibraryGetKernel(&kernel, library, "vgpu_sim_smids"));
    MUST(cuMemAlloc_v2(&out, 32));
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL,
                                .kernel = {.kern = kernel,
                                           .ctx = context,
                                           .gridDimX = 132,
                                           .gridDimY = 1,
                                           .gridDimZ = 1,
                                           .blockDimX = 32,
                                           .blockDimY = 1,
                                           .blockDimZ = 1,
                                           .kernelParams = arguments}};
    for (int i = 0; i < 2; i++) {
        MUST(cuGraphCreate(&graph, 0));
        if (i == 0) MUST(cuGraphAddNode(&node, graph, NULL, 0, &params));
        else MUST(cuGraphAddKernelNode_v2(&node, graph, NULL, 0, &params.kernel));
        check(params.kernel.ctx == context, "the caller's parameters stay as they are", 0, 0);
        MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
        MUST(cuMemsetD8_v2(out, 0, 32));
        MUST(cuGraphLaunch(exec, stream));
        MUST(cuStreamSynchronize(stream));
        MUST(cuMemcpyDtoH_v2(bits, out, 32));
        check(memcmp(bits, OWN_SMS, 32) == 0, "a kernel node: inside", bits[0], OWN_SMS[0]);
        MUST(cuGraphExecDestroy(exec));
        MUST(cuGraphDestroy(graph));
    }
    MUST(cuMemFree_v2(out));
    MUST(cuLibraryUnload(library));
}

/* The driver's own cuCtxSynchronize does not, in a green context. */
static void waits_for_graph(CUstream stream) {
    CUmodule module;
    CUfunction kernel;
    CUgraph graph;
    CUgraphExec exec;
    setenv("VGPU_SIM_KERNELS", "long=50000", 1); /* us on the whole card */
    MUST(cuModuleLoadData(&module, ".version 8.0"));
    MUST(cuModuleGetFunction(&kernel, module, "long"));
    MUST(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    MUST(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    MUST(cuStreamEndCapture(stream, &graph));
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cuGraphLaunch(exec, stream));
    equal(cuStreamQuery(stream), CUDA_ERROR_NOT_READY, "the graph takes its time");
    MUST(cuCtxSynchronize());
    equal(cuStreamQuery(stream), CUDA_SUCCESS, "cuCtxSynchronize waits for it");
    MUST(cuGraphExecDestroy(exec));
    MUST(cuGraphDestroy(graph));
    MUST(cuModuleUnload(module));
}

static void graphs(void) {
    CUcontext context;
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode node;
    CUdeviceptr p;
    CUstream stream;
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuMemAlloc_v2(&p, MiB));
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuGraphCreate(&graph, 0));
    CUDA_MEMSET_NODE_PARAMS fill = {
        .dst = p, .elementSize = 4, .width = MiB / 4, .height = 1, .value = 7};
    MUST(cuGraphAddMemsetNode(&node, graph, NULL, 0, &fill, context));
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cuGraphLaunch(exec, stream));
    MUST(cuStreamSynchronize(stream));
    unsigned int value = 0;
    MUST(cuMemcpyDtoH_v2(&value, p, 4));
    equal(value, 7, "a graph with a node that names the context runs");
    MUST(cuGraphExecDestroy(exec));
    MUST(cuGraphDestroy(graph));
    node_inside(context, stream);
    waits_for_graph(stream);
    MUST(cuStreamDestroy_v2(stream));
    MUST(cuMemFree_v2(p));
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    equal(charged(region), 0, "nothing stays charged after graphs");
}

int main(void) {
    region = session_region();
    real_retain = REAL_FUNCTION(cuDevicePrimaryCtxRetain);
    real_current = REAL_FUNCTION(cuCtxGetCurrent);
    give_partition();
    counts();
    retained();
    streams();
    thread_streams();
    graphs();
    rooms();
    runtime();
    return failures != 0;
}
