// A load with known kernels, on the CUDA runtime (static cudart): prints one JSON line.
//   load --us 50 --seconds 3 [--streams 4] [--sync] [--graph NODES] [--processes N] [--threads N]
// "rate" is work units a second (a unit is one kernel), measured over whole windows on the host;
// "busy" is the share of wall time in which the GPU worked for us, from %globaltimer at each kernel's
// start and end, pauses up to 100 us filled (what a share means: docs/limits.md).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>
#include <algorithm>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call)                                                                          \
    do {                                                                                     \
        cudaError_t code = (call);                                                           \
        if (code != cudaSuccess) {                                                           \
            fprintf(stderr, "load: %s: %s\n", #call, cudaGetErrorString(code));              \
            exit(3);                                                                         \
        }                                                                                    \
    } while (0)

struct Span { unsigned long long start, end; };

__device__ unsigned long long now_ns() {
    unsigned long long t;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
    return t;
}

// Spins for `cycles` SM clocks on every SM; block 0 notes when it ran.
__global__ void spin(long long cycles, Span *spans, unsigned long long *count, unsigned capacity) {
    unsigned long long begin = now_ns();
    long long start = clock64();
    while (clock64() - start < cycles) {
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        unsigned long long slot = atomicAdd(count, 1ULL);
        if (slot < capacity) spans[slot] = {begin, now_ns()};
    }
}

static double host_now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct Options { double us = 50, seconds = 3, warm = 0.7; int streams = 1, graph = 0, threads = 1, processes = 1; bool sync = false; };

static void work(const Options &options, double *rate, double *busy, double *kernel_us) {
    const unsigned capacity = 4u << 20;
    int sms, khz;
    CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    CHECK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
    Span *spans;
    unsigned long long *count;
    CHECK(cudaMalloc(&spans, sizeof(Span) * capacity));
    CHECK(cudaMalloc(&count, sizeof *count));
    CHECK(cudaMemset(count, 0, sizeof *count));
    long long cycles = (long long)(options.us * khz / 1000.0);
    std::vector<cudaStream_t> streams((size_t)options.streams);
    for (auto &stream : streams) CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    cudaGraphExec_t graph = nullptr;
    if (options.graph) {
        cudaGraph_t captured;
        CHECK(cudaStreamBeginCapture(streams[0], cudaStreamCaptureModeGlobal));
        for (int i = 0; i < options.graph; i++) spin<<<sms, 64, 0, streams[0]>>>(cycles, spans, count, capacity);
        CHECK(cudaStreamEndCapture(streams[0], &captured));
        CHECK(cudaGraphInstantiate(&graph, captured, 0));
    }
    unsigned long long done = 0;
    // A window ends when its last work has drained, so that nothing counts that did not run.
    auto window = [&](double seconds) {
        double begin = host_now();
        unsigned long long units = 0;
        // Keep about 8 ms queued, like a training loop: sync on an event a few launches back.
        const int depth = std::max(2, (int)std::min(512.0, 8000.0 / std::max(1.0, options.us * std::max(1, options.graph))));
        std::vector<cudaEvent_t> events((size_t)depth);
        for (auto &event : events) CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        for (size_t i = 0; host_now() - begin < seconds; i++) {
            cudaStream_t stream = streams[i % streams.size()];
            if (graph) CHECK(cudaGraphLaunch(graph, stream));
            else spin<<<sms, 64, 0, stream>>>(cycles, spans, count, capacity);
            units += (unsigned long long)std::max(1, options.graph);
            if (options.sync) CHECK(cudaStreamSynchronize(stream));
            else if (options.graph || i % 16 == 0 || options.us >= 400) {
                size_t k = (options.graph || options.us >= 400 ? i : i / 16) % (size_t)std::max(2, options.graph || options.us >= 400 ? depth : depth / 16 + 1);
                if (i >= (size_t)depth) CHECK(cudaEventSynchronize(events[k]));
                CHECK(cudaEventRecord(events[k], stream));
            }
        }
        CHECK(cudaDeviceSynchronize());
        CHECK(cudaGetLastError());
        done = units;
        for (auto &event : events) CHECK(cudaEventDestroy(event));
        return host_now() - begin;
    };
    window(options.warm);
    CHECK(cudaMemset(count, 0, sizeof *count));
    CHECK(cudaDeviceSynchronize());
    double took = window(options.seconds);
    unsigned long long ran;
    CHECK(cudaMemcpy(&ran, count, sizeof ran, cudaMemcpyDeviceToHost));
    if (ran != done) {
        fprintf(stderr, "load: launched %llu kernels, %llu ran\n", done, ran);
        exit(4);
    }
    size_t kept = (size_t)std::min<unsigned long long>(ran, capacity);
    std::vector<Span> host(kept);
    CHECK(cudaMemcpy(host.data(), spans, kept * sizeof(Span), cudaMemcpyDeviceToHost));
    std::sort(host.begin(), host.end(), [](const Span &a, const Span &b) { return a.start < b.start; });
    double total = 0, length = 0;
    unsigned long long open = host[0].start, close = host[0].end;
    for (auto &span : host) {
        length += (double)(span.end - span.start);
        if (span.start > close + 100000) {
            total += (double)(close - open);
            open = span.start;
        }
        close = std::max(close, span.end);
    }
    total += (double)(close - open);
    *rate = (double)done / took;
    *busy = 100.0 * total * 1e-9 / took * (double)ran / (double)kept;
    *kernel_us = length / (double)kept / 1000.0;
}

int main(int argc, char **argv) {
    Options options;
    for (int i = 1; i < argc; i++) {
        auto value = [&] { return i + 1 < argc ? argv[++i] : (fprintf(stderr, "load: %s needs a value\n", argv[i]), exit(2), ""); };
        if (!strcmp(argv[i], "--us")) options.us = atof(value());
        else if (!strcmp(argv[i], "--seconds")) options.seconds = atof(value());
        else if (!strcmp(argv[i], "--streams")) options.streams = atoi(value());
        else if (!strcmp(argv[i], "--graph")) options.graph = atoi(value());
        else if (!strcmp(argv[i], "--threads")) options.threads = atoi(value());
        else if (!strcmp(argv[i], "--processes")) options.processes = atoi(value());
        else if (!strcmp(argv[i], "--sync")) options.sync = true;
        else { fprintf(stderr, "load: unknown option %s\n", argv[i]); return 2; }
    }
    int pipes[2];
    if (pipe(pipes)) return 2;
    for (int p = 0; p < options.processes; p++)
        if (options.processes == 1 || fork() == 0) {
            std::vector<double> rate((size_t)options.threads), busy((size_t)options.threads), us((size_t)options.threads);
            std::vector<std::thread> threads;
            for (int t = 0; t < options.threads; t++)
                threads.emplace_back([&, t] { work(options, &rate[(size_t)t], &busy[(size_t)t], &us[(size_t)t]); });
            for (auto &thread : threads) thread.join();
            double answer[3] = {0, 0, us[0]};
            for (int t = 0; t < options.threads; t++) answer[0] += rate[(size_t)t], answer[1] = std::max(answer[1], busy[(size_t)t]);
            if (write(pipes[1], answer, sizeof answer) != (ssize_t)sizeof answer) _exit(5);
            if (options.processes > 1) _exit(0);
        }
    double rate = 0, busy = 0, us = 0;
    for (int p = 0; p < options.processes; p++) {
        double answer[3];
        int status = 0;
        if (options.processes > 1 && (wait(&status) < 0 || status != 0)) return 6;
        if (read(pipes[0], answer, sizeof answer) != (ssize_t)sizeof answer) return 6;
        rate += answer[0], busy = std::max(busy, answer[1]), us = answer[2];
    }
    printf("{\"rate\": %.3f, \"busy\": %.3f, \"kernel_us\": %.3f}\n", rate, busy, us);
}
