/* What a hooked call costs: in one process, blocks of 1,000 calls through the hook and through the
 * driver's own function in turn; the difference of the block means, its median and 95 % interval.
 * Run it under `vgpu run` (it says so if the two pointers are the same).
 *     cost launch|rested|cold|drained|opening|alloc|async|create [blocks]      one JSON line
 * launch: empty kernels back to back into a drained stream; rested: each block after 100 ms idle,
 * too (see design: limited launches). cold: the same, and before each launch as much other code and
 * data is used as the real driver uses in one, so that what the shim costs there shows against the
 * simulated driver too; each launch is timed by itself, a block is the mean of all but the slowest
 * hundredth (which is other programs'). drained: launches into a drained stream, within a slice;
 * opening: launches 300 us apart, each of which opens a slice; the program is busy in between:
 * after a sleep its own code and the driver's would be cold as well. Of these two a block is the
 * median of its calls: some wait for their share.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../shim/cuda_abi.h"
#include "../../shim/elf.h"

#define CALLS 1000
#define MAX_BLOCKS 1000
/* The last calls of a block are timed apart: they would be slow if the queue (1,024 deep) were
 * full. */
#define TAIL 200

static const char ptx[] = ".version 7.0\n.target sm_50\n.address_size 64\n"
                          ".visible .entry nop() { ret; }\n";

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void *hooked(const char *name) { return dlsym(dlopen("libcuda.so.1", RTLD_NOW), name); }

struct wanted {
    const char *name;
    void *found;
};

static bool in_driver(const struct vgpu_elf *elf, void *argument) {
    struct wanted *wanted = argument;
    if (strcmp(elf->soname, "libcuda.so.1") == 0)
        wanted->found = vgpu_elf_symbol(elf, wanted->name);
    return wanted->found != NULL;
}

/* Past the shim, which swaps what dlsym answers: read from the driver's own symbol table. */
static void *driver_own(const char *name) {
    struct wanted wanted = {.name = name};
    vgpu_elf_each(in_driver, &wanted);
    return wanted.found;
}

static void must(CUresult result, const char *what) {
    if (result == CUDA_SUCCESS) return;
    fprintf(stderr, "cost: %s: error %d\n", what, (int)result);
    exit(3);
}

static CUfunction nop;
static CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                   .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};

struct calls {
    typeof(&cuLaunchKernel) launch;
    typeof(&cuMemAlloc_v2) alloc;
    typeof(&cuMemFree_v2) release;
    typeof(&cuMemAllocAsync) alloc_async;
    typeof(&cuMemFreeAsync) free_async;
    typeof(&cuMemCreate) create;
    typeof(&cuMemRelease) drop;
};

static void find(struct calls *calls, void *(*symbol)(const char *)) {
    *(void **)&calls->launch = symbol("cuLaunchKernel");
    *(void **)&calls->alloc = symbol("cuMemAlloc_v2");
    *(void **)&calls->release = symbol("cuMemFree_v2");
    *(void **)&calls->alloc_async = symbol("cuMemAllocAsync");
    *(void **)&calls->free_async = symbol("cuMemFreeAsync");
    *(void **)&calls->create = symbol("cuMemCreate");
    *(void **)&calls->drop = symbol("cuMemRelease");
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* --- what a driver leaves of the caches ---------------------------------------------------------
 */

/* 512 functions of two cache lines, with branches that depend on what they are given. */
#define CODE(n)                                                                                    \
    static __attribute__((noinline, aligned(64))) unsigned code_##n(unsigned x) {                  \
        if (x & 4) x = x * (n * 2U + 3) ^ x >> 5;                                                  \
        else x += n * 7U;                                                                          \
        if (x & 64) x ^= x << 7;                                                                   \
        return x % 3 ? x + 1 : (x >> 3) + n;                                                       \
    }
#define NAME(n) code_##n,
#define EACH_4(each, n) each(n##0) each(n##1) each(n##2) each(n##3)
#define EACH_16(each, n) EACH_4(each, n##0) EACH_4(each, n##1) EACH_4(each, n##2) EACH_4(each, n##3)
#define EACH_64(each, n)                                                                           \
    EACH_16(each, n##0) EACH_16(each, n##1) EACH_16(each, n##2) EACH_16(each, n##3)
#define EACH(each)                                                                                 \
    EACH_64(each, 0x0)                                                                             \
    EACH_64(each, 0x1)                                                                             \
    EACH_64(each, 0x2)                                                                             \
    EACH_64(each, 0x3) EACH_64(each, 0x4) EACH_64(each, 0x5) EACH_64(each, 0x6) EACH_64(each, 0x7)
EACH(CODE)

/* About 10 us: a pass over 64 KiB of code and 384 KiB of data. */
static void use_caches(void) {
    static unsigned (*const code[])(unsigned) = {EACH(NAME)};
    static struct line { unsigned word[16]; } data[6144];
    static unsigned x = 1;
    for (unsigned i = 0; i < sizeof code / sizeof *code; i++) {
        x = code[i](x);
        for (unsigned j = 0; j < 12; j++) data[12 * i + j].word[x % 16] += x;
    }
}

static double cold_launches(const struct calls *calls, CUstream stream) {
    static double took[CALLS];
    for (int i = 0; i < CALLS; i++) {
        use_caches();
        double begin = now_ns();
        must(calls->launch(nop, 1, 1, 1, 32, 1, 1, 0, stream, NULL, NULL), "launch");
        took[i] = now_ns() - begin;
    }
    qsort(took, CALLS, sizeof *took, by_value);
    double sum = 0;
    for (int i = 0; i < CALLS - CALLS / 100; i++) sum += took[i];
    return sum / (CALLS - CALLS / 100);
}

/* --- blocks -------------------------------------------------------------------------------------
 */

static double launches_apart(const struct calls *calls, CUstream stream, int count, long pause_ns) {
    static double took[CALLS];
    for (int i = 0; i < count; i++) {
        must(cuStreamSynchronize(stream), "sync");
        double begin = now_ns(), until = begin + (double)pause_ns;
        while (pause_ns && now_ns() < until) {
        }
        begin = now_ns();
        must(calls->launch(nop, 1, 1, 1, 32, 1, 1, 0, stream, NULL, NULL), "launch");
        took[i] = now_ns() - begin;
    }
    must(cuStreamSynchronize(stream), "sync");
    qsort(took, (size_t)count, sizeof *took, by_value);
    return took[count / 2];
}

static double block(const char *what, const struct calls *calls, CUstream stream, double *tail) {
    CUdeviceptr p;
    CUmemGenericAllocationHandle handle;
    if (!strcmp(what, "drained")) return launches_apart(calls, stream, CALLS, 0);
    if (!strcmp(what, "opening")) return launches_apart(calls, stream, 99, 300000);
    bool is_cold = !strcmp(what, "cold"), is_rested = is_cold || !strcmp(what, "rested");
    bool is_launch = is_rested || !strcmp(what, "launch");
    must(cuStreamSynchronize(stream), "sync");
    if (is_rested) nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    if (is_cold) return cold_launches(calls, stream);
    double begin = now_ns(), tail_begin = begin;
    for (int i = 0; i < CALLS; i++) {
        if (i == CALLS - TAIL) tail_begin = now_ns();
        if (is_launch) must(calls->launch(nop, 1, 1, 1, 32, 1, 1, 0, stream, NULL, NULL), what);
        else if (!strcmp(what, "alloc"))
            must(calls->alloc(&p, 65536), what), must(calls->release(p), what);
        else if (!strcmp(what, "async"))
            must(calls->alloc_async(&p, 1 << 20, stream), what),
                must(calls->free_async(p, stream), what);
        else must(calls->create(&handle, 2 << 20, &prop, 0), what), must(calls->drop(handle), what);
    }
    double end = now_ns();
    *tail = (end - tail_begin) / TAIL;
    return (end - begin) / CALLS;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "launch";
    int blocks = argc > 2 ? atoi(argv[2]) : 30;
    if (blocks > MAX_BLOCKS) blocks = MAX_BLOCKS;
    struct calls ours, theirs;
    find(&ours, hooked);
    must(((typeof(&cuInit))hooked("cuInit"))(0), "cuInit");
    find(&theirs, driver_own);
    if (!theirs.launch)
        return fprintf(stderr, "cost: the driver's own functions were not found\n"), 3;
    CUcontext context;
    CUmodule module;
    CUstream stream;
    CUdeviceptr beside;
    must(((typeof(&cuDevicePrimaryCtxRetain))hooked("cuDevicePrimaryCtxRetain"))(&context, 0),
         "retain");
    must(cuCtxSetCurrent(context), "set current");
    must(cuModuleLoadData(&module, ptx), "module");
    must(cuModuleGetFunction(&nop, module, "nop"), "function");
    must(cuStreamCreate(&stream, 1), "stream");
    must(ours.alloc(&beside, 65536), "alloc"); /* a live block of the same 2 MiB */
    static double added[MAX_BLOCKS], native[MAX_BLOCKS], tails[MAX_BLOCKS];
    double tail[2] = {0, 0};
    block(what, &ours, stream, tail);
    block(what, &theirs, stream, tail);
    for (int i = 0; i < blocks; i++) {
        double first = block(what, i % 2 ? &ours : &theirs, stream, &tail[0]);
        double second = block(what, i % 2 ? &theirs : &ours, stream, &tail[1]);
        added[i] = i % 2 ? first - second : second - first;
        native[i] = i % 2 ? second : first;
        tails[i] = tail[i % 2];
    }
    qsort(added, (size_t)blocks, sizeof *added, by_value);
    qsort(native, (size_t)blocks, sizeof *native, by_value);
    qsort(tails, (size_t)blocks, sizeof *tails, by_value);
    /* 95 % interval of the median by order statistics. */
    int half = (int)(0.98 * sqrt(blocks) + 0.5), low = blocks / 2 - half, high = blocks / 2 + half;
    printf("{\"what\": \"%s\", \"hooked\": %s, \"native_ns\": %.1f, \"added_ns\": %.1f, \"low\": "
           "%.1f, \"high\": %.1f, \"tail_ns\": %.1f, \"blocks\": %d}\n",
           what, ours.launch != theirs.launch ? "true" : "false", native[blocks / 2],
           added[blocks / 2], added[low < 0 ? 0 : low], added[high >= blocks ? blocks - 1 : high],
           tails[blocks / 2], blocks);
    return 0;
}
