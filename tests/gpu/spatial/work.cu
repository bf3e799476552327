// Work for tests/gpu/spatial.ts on the CUDA runtime (static cudart, so the primary context comes through
// its private table). One JSON line each:
//   smids                         by route, the SMs that kernels ran on, and what queries say
//   rate SECONDS [--at EPOCH_S]   compute-bound launches a second in a common window, p50 and p99 step
//   short SECONDS [--at EPOCH_S]  the same with kernels of about 0.3 ms
//   hog SECONDS [--at EPOCH_S]    the same with a copy kernel that takes all memory bandwidth
//   small SECONDS [--at EPOCH_S]  open loop, 1 ms of work due every 10 ms: how late it is done
//   facts                         what the driver itself does in green contexts; run it without vgpu
//   setup                         ms of the first runtime call, of the first kernel
//   hold                          launches until it is killed
//   fault                         an illegal address
#include <algorithm>
#include <cooperative_groups.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda.h>
#include <ctime>
#include <dlfcn.h>
#include <unistd.h>
#include <string>
#include <thread>
#include <vector>

#define CHECK(call)                                                                          \
    do {                                                                                     \
        cudaError_t code = (call);                                                           \
        if (code != cudaSuccess) {                                                           \
            printf("{\"error\":\"%s: %s\"}\n", #call, cudaGetErrorString(code));             \
            exit(3);                                                                         \
        }                                                                                    \
    } while (0)

static const int MAX_SMS = 256;

__global__ void mark(unsigned *seen) {
    unsigned smid;
    asm volatile("mov.u32 %0, %smid;" : "=r"(smid));
    long long start = clock64();
    while (clock64() - start < 20000) { }
    if (threadIdx.x == 0) seen[smid] = 1;
}

__global__ void mark_together(unsigned *seen) {
    unsigned smid;
    asm volatile("mov.u32 %0, %smid;" : "=r"(smid));
    cooperative_groups::this_grid().sync();
    if (threadIdx.x == 0) seen[smid] = 1;
}

// About 20 us a block whatever the SM has to do beside it: 256 threads, dependent FMAs.
__global__ void compute(float *out, int rounds) {
    float a = threadIdx.x, b = 1.0001f;
    for (int i = 0; i < rounds; i++) a = fmaf(a, b, 0.5f);
    if (a == 12345.0f) *out = a;
}

__global__ void spin(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) { }
}

__global__ void write_late(unsigned *out, unsigned value, long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) { }
    *out = value;
}

__global__ void copy(float4 *to, const float4 *from, size_t count) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
        to[i] = from[i];
}

static double now_s(clockid_t clock = CLOCK_MONOTONIC) {
    timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static std::string ranges(const std::vector<unsigned> &seen, int *count) {
    std::string text;
    *count = 0;
    for (int sm = 0, first = -1; sm <= MAX_SMS; sm++) {
        bool on = sm < MAX_SMS && seen[sm];
        *count += on;
        if (on && first < 0) first = sm;
        if (on || first < 0) continue;
        text += (text.empty() ? "" : " ") + std::to_string(first) + "-" + std::to_string(sm - 1);
        first = -1;
    }
    return text;
}

static unsigned *board;
static bool first_route = true;

// stream: if not null, what cudaDeviceSynchronize has left running there is told, and waited for.
template <class Launch> static void route(const char *name, Launch launch, cudaStream_t stream = nullptr) {
    std::vector<unsigned> seen(MAX_SMS);
    int count;
    CHECK(cudaMemset(board, 0, MAX_SMS * sizeof *board));
    CHECK(cudaDeviceSynchronize());
    launch();
    cudaError_t code = cudaGetLastError();
    if (code == cudaSuccess) code = cudaDeviceSynchronize();
    bool left = code == cudaSuccess && stream && cudaStreamQuery(stream) == cudaErrorNotReady;
    cudaGetLastError();
    if (left) CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaMemcpy(seen.data(), board, MAX_SMS * sizeof *board, cudaMemcpyDeviceToHost));
    std::string set = ranges(seen, &count);
    printf("%s\"%s\":{\"sms\":%d,\"set\":\"%s\",\"code\":%d,\"left_running\":%s}", first_route ? "" : ",", name, count,
           set.c_str(), (int)code, left ? "true" : "false");
    first_route = false;
}

// The legacy stream and blocking ones wait for each other, and a free for a graph. How often of 20 they did not: a
// copy for a kernel, for a graph; a kernel, a graph for a fill; a free.
static const int WAYS = 5;
static void orders(unsigned passed[WAYS], cudaStream_t blocking, cudaStream_t other) {
    const long long LONG = 1000000, NONE = 0; // 0.5 ms
    cudaGraph_t graph;
    cudaGraphExec_t exec[2];
    for (int i = 0; i < 2; i++) {
        CHECK(cudaStreamBeginCapture(other, cudaStreamCaptureModeGlobal));
        write_late<<<1, 1, 0, other>>>(board, 1, i ? NONE : LONG);
        CHECK(cudaStreamEndCapture(other, &graph));
        CHECK(cudaGraphInstantiate(&exec[i], graph, 0));
    }
    for (int way = 0; way < 4; way++) {
        passed[way] = 0;
        for (int i = 0; i < 20; i++) {
            unsigned value = 0;
            bool is_graph = way % 2, writes_first = way < 2;
            CHECK(cudaMemset(board, 0, sizeof *board));
            CHECK(cudaDeviceSynchronize());
            if (!writes_first) {
                spin<<<1, 1>>>(LONG);
                CHECK(cudaMemsetAsync(board, 0, sizeof *board, cudaStreamLegacy));
            }
            if (is_graph) CHECK(cudaGraphLaunch(exec[!writes_first], blocking));
            else write_late<<<1, 1, 0, blocking>>>(board, 1, writes_first ? LONG : NONE);
            if (!writes_first) {
                CHECK(cudaStreamSynchronize(blocking));
                CHECK(cudaDeviceSynchronize());
            }
            CHECK(cudaMemcpy(&value, board, sizeof value, cudaMemcpyDeviceToHost));
            passed[way] += value != 1;
            CHECK(cudaStreamSynchronize(blocking));
        }
    }
    unsigned *seen, *written;
    CHECK(cudaHostAlloc(&seen, sizeof *seen, cudaHostAllocMapped));
    CHECK(cudaHostGetDevicePointer(&written, seen, 0));
    CHECK(cudaStreamBeginCapture(other, cudaStreamCaptureModeGlobal));
    write_late<<<1, 1, 0, other>>>(written, 1, LONG);
    CHECK(cudaStreamEndCapture(other, &graph));
    CHECK(cudaGraphInstantiate(&exec[0], graph, 0));
    passed[4] = 0;
    for (int i = 0; i < 20; i++) {
        void *memory;
        CHECK(cudaMalloc(&memory, 1 << 20));
        *seen = 0;
        CHECK(cudaGraphLaunch(exec[0], blocking));
        CHECK(cudaFree(memory));
        passed[4] += *(volatile unsigned *)seen != 1;
        CHECK(cudaStreamSynchronize(blocking));
    }
}

static void smids() {
    int sms, blocks, grid, block, clusters = -1;
    CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    CHECK(cudaMalloc(&board, MAX_SMS * sizeof *board));
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, mark_together, 128, 0));
    CHECK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, mark, 0, 0));
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {2, 1, 1};
    config.gridDim = 264;
    config.blockDim = 128;
    config.attrs = &attribute;
    config.numAttrs = 1;
    cudaOccupancyMaxActiveClusters(&clusters, mark, &config);
    cudaGetLastError();
    const int many = 4096;
    printf("{\"attribute\":%d,\"potential_grid\":%d,\"potential_block\":%d,\"clusters_of_2\":%d,\"routes\":{", sms, grid, block, clusters);
    route("null stream", [&] { mark<<<many, 128>>>(board); });
    route("per-thread stream", [&] { mark<<<many, 128, 0, cudaStreamPerThread>>>(board); });
    cudaStream_t blocking;
    CHECK(cudaStreamCreate(&blocking));
    route("blocking stream", [&] { mark<<<many, 128, 0, blocking>>>(board); }, blocking);
    int low, high;
    CHECK(cudaDeviceGetStreamPriorityRange(&low, &high));
    for (int priority : {low, high}) {
        cudaStream_t stream;
        CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority));
        route(priority == low ? "stream of low priority" : "stream of high priority", [&] { mark<<<many, 128, 0, stream>>>(board); });
    }
    route("other thread", [&] { std::thread([&] { mark<<<many, 128>>>(board); cudaDeviceSynchronize(); }).join(); });
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    mark<<<many, 128, 0, stream>>>(board);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    route("captured graph", [&] { cudaGraphLaunch(exec, stream); }, stream);
    route("graph in a blocking stream", [&] { cudaGraphLaunch(exec, blocking); }, blocking);
    route("graph in the per-thread stream", [&] { cudaGraphLaunch(exec, cudaStreamPerThread); }, cudaStreamPerThread);
    unsigned passed[WAYS];
    orders(passed, blocking, stream);
    cudaGraph_t built;
    cudaGraphNode_t node;
    cudaGraphExec_t built_exec;
    void *arguments[] = {&board};
    cudaKernelNodeParams params = {};
    params.func = (void *)mark;
    params.gridDim = dim3(many);
    params.blockDim = dim3(128);
    params.kernelParams = arguments;
    CHECK(cudaGraphCreate(&built, 0));
    CHECK(cudaGraphAddKernelNode(&node, built, nullptr, 0, &params));
    CHECK(cudaGraphInstantiate(&built_exec, built, 0));
    route("built graph", [&] { cudaGraphLaunch(built_exec, stream); }, stream);
    route("cooperative, as large as queries allow", [&] {
        cudaLaunchCooperativeKernel((void *)mark_together, dim3(blocks * sms), dim3(128), arguments, 0, stream);
    });
    // Last: a refused launch leaves its code behind.
    cudaError_t more = cudaLaunchCooperativeKernel((void *)mark_together, dim3(blocks * sms + 1), dim3(128), arguments, 0, stream);
    cudaGetLastError();
    printf("},\"cooperative_one_more\":%d,\"passed\":[%u,%u,%u,%u,%u]}\n",
           (int)more, passed[0], passed[1], passed[2], passed[3], passed[4]);
}

static void wait_until(double at) {
    while (now_s(CLOCK_REALTIME) < at) usleep(200);
}

static void rate(double seconds, double at, bool hog, bool is_short = false) {
    const int blocks = 132 * (is_short ? 128 : 1024), rounds = 2000; // 16 or 128 waves of 18 us on the whole card
    const size_t bytes = hog ? (size_t)2 << 30 : 256;
    float *a, *b;
    CHECK(cudaMalloc(&a, bytes));
    CHECK(cudaMalloc(&b, bytes));
    auto step = [&] {
        if (hog) copy<<<132 * 16, 512>>>((float4 *)b, (float4 *)a, bytes / sizeof(float4));
        else compute<<<blocks, 256>>>(a, rounds);
    };
    for (int i = 0; i < 3; i++) step();
    CHECK(cudaDeviceSynchronize());
    wait_until(at);
    std::vector<double> steps;
    double start = now_s(), last = start;
    // Two in flight, so that the card never waits for the host.
    cudaEvent_t done[2];
    for (auto &event : done) CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    for (long i = 0; last - start < seconds; i++) {
        step();
        CHECK(cudaEventRecord(done[i % 2]));
        if (i == 0) continue;
        CHECK(cudaEventSynchronize(done[(i + 1) % 2]));
        double time = now_s();
        steps.push_back(time - last);
        last = time;
    }
    CHECK(cudaDeviceSynchronize());
    double elapsed = last - start;
    size_t count = steps.size();
    std::sort(steps.begin(), steps.end());
    printf("{\"rate\":%.3f,\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"steps\":%zu}\n", count / elapsed, 1e3 * steps[count / 2],
           1e3 * steps[count * 99 / 100], count);
}

static void small(double seconds, double at) {
    int khz;
    CHECK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
    spin<<<1, 32>>>(1);
    CHECK(cudaDeviceSynchronize());
    wait_until(at);
    std::vector<double> late;
    double start = now_s();
    long due = (long)(seconds * 100);
    for (long i = 0; i < due; i++) {
        double when = start + 0.01 * i;
        while (now_s() < when) usleep(50);
        for (int k = 0; k < 20; k++) spin<<<132, 32>>>(50LL * khz / 1000);
        CHECK(cudaDeviceSynchronize());
        late.push_back(now_s() - when);
    }
    double elapsed = now_s() - start;
    std::sort(late.begin(), late.end());
    printf("{\"rate\":%.3f,\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"steps\":%ld}\n", due / elapsed, 1e3 * late[due / 2],
           1e3 * late[due * 99 / 100], due);
}

// --- the driver itself ---

#define DRIVER(name) ((decltype(&name))dlsym(dlopen("libcuda.so.1", RTLD_NOW), #name))
#define MUST(call)                                                                           \
    do {                                                                                     \
        CUresult code = (call);                                                              \
        if (code != CUDA_SUCCESS) {                                                          \
            printf("{\"error\":\"%s: %d\"}\n", #call, (int)code);                            \
            exit(3);                                                                         \
        }                                                                                    \
    } while (0)

// How often of 20 a graph still ran when cudaDeviceSynchronize had returned.
static int left_running(cudaStream_t stream, cudaGraphExec_t exec, CUcontext other) {
    int left = 0;
    for (int i = 0; i < 20; i++) {
        CHECK(cudaGraphLaunch(exec, stream));
        if (other) {
            CUcontext popped;
            MUST(DRIVER(cuCtxPushCurrent_v2)(other));
            MUST(DRIVER(cuCtxSynchronize)());
            MUST(DRIVER(cuCtxPopCurrent_v2)(&popped));
        } else CHECK(cudaDeviceSynchronize());
        left += cudaStreamQuery(stream) == cudaErrorNotReady;
        cudaGetLastError();
        CHECK(cudaStreamSynchronize(stream));
    }
    return left;
}

static void facts() {
    CUcontext primary, views[2];
    CUdevResource card, groups[16];
    unsigned int count = 16;
    CHECK(cudaFree(0));
    CHECK(cudaMalloc(&board, MAX_SMS * sizeof *board));
    MUST(DRIVER(cuCtxGetCurrent)(&primary));
    MUST(DRIVER(cuDeviceGetDevResource)(0, &card, CU_DEV_RESOURCE_TYPE_SM));
    MUST(DRIVER(cuDevSmResourceSplitByCount)(groups, &count, &card, nullptr, 0, 8));
    for (int i = 0; i < 2; i++) {
        CUdevResourceDesc desc;
        CUgreenCtx green;
        MUST(DRIVER(cuDevResourceGenerateDesc)(&desc, &groups[5 * i], 5));
        MUST(DRIVER(cuGreenCtxCreate)(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
        MUST(DRIVER(cuCtxFromGreenCtx)(&views[i], green));
    }
    printf("{\"groups\":%u,\"routes\":{", count);
    for (int i = 0; i < 2; i++) {
        MUST(DRIVER(cuCtxSetCurrent)(views[i]));
        route(i ? "groups 5-9" : "groups 0-4", [&] { mark<<<4096, 128>>>(board); });
    }
    cudaStream_t stream, blocking;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    cudaError_t made = cudaStreamCreate(&blocking);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    mark<<<4096, 128, 0, stream>>>(board);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    int by_view = left_running(stream, exec, nullptr), by_primary = left_running(stream, exec, primary);
    mark<<<1, 32, 0, cudaStreamPerThread>>>(board);
    int per_thread = cudaGetLastError();
    printf("},\"graph_left_by_sync\":%d,\"graph_left_by_sync_of_primary\":%d,\"per_thread_code\":%d,\"blocking_code\":%d}\n",
           by_view, by_primary, per_thread, (int)made);
}

static void setup() {
    double start = now_s();
    CHECK(cudaFree(0));
    double ready = now_s();
    float *p;
    CHECK(cudaMalloc(&p, 256));
    compute<<<1, 32>>>(p, 1);
    CHECK(cudaDeviceSynchronize());
    printf("{\"first_call_ms\":%.3f,\"first_kernel_ms\":%.3f}\n", 1e3 * (ready - start), 1e3 * (now_s() - start));
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    double seconds = argc > 2 ? atof(argv[2]) : 1, at = 0;
    for (int i = 2; i + 1 < argc; i++)
        if (!strcmp(argv[i], "--at")) at = atof(argv[i + 1]);
    if (!strcmp(what, "smids")) smids();
    else if (!strcmp(what, "rate")) rate(seconds, at, false);
    else if (!strcmp(what, "short")) rate(seconds, at, false, true);
    else if (!strcmp(what, "hog")) rate(seconds, at, true);
    else if (!strcmp(what, "small")) small(seconds, at);
    else if (!strcmp(what, "facts")) facts();
    else if (!strcmp(what, "setup")) setup();
    else if (!strcmp(what, "hold")) rate(3600, 0, false);
    else if (!strcmp(what, "fault")) {
        mark<<<1, 1>>>((unsigned *)16);
        printf("{\"code\":%d}\n", (int)cudaDeviceSynchronize());
    } else return 2;
    return 0;
}
