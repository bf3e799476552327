/* Every way to take device memory, alone and mixed. Needs a driver (a real one, or the simulated):
 *     cc -std=gnu11 -O2 -pthread memory_paths.c -o memory_paths -l:libcuda.so.1 -ldl
 *     vgpu run --mem 4g -- memory_paths fill PATH           fills the card until a refusal, frees,
 * fills again vgpu run --mem 4g -- memory_paths mix SECONDS THREADS SEED [FOREVER] memory_paths
 * list                                     the names of the paths One JSON object on stdout;
 * "wrong" lists what did not hold, and the exit status is 1 if it is not empty. NVML is asked
 * through whatever the process sees: inside a session its own true figure. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/cuda_abi.h"
#include "../../shim/nvml_abi.h"

#define MiB (UINT64_C(1) << 20)
#define MOST 400000

static CUcontext primary;
static CUstream stream;
static CUmemoryPool pool;
static CUmemAllocationProp pinned = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                     .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
static CUmemPoolProps pool_properties = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                         .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
static const CUmemAccessDesc access_all = {{CU_MEM_LOCATION_TYPE_DEVICE, 0},
                                           CU_MEM_ACCESS_FLAGS_PROT_READWRITE};

static void must(CUresult rc, const char *what) {
    if (rc == CUDA_SUCCESS) return;
    fprintf(stderr, "memory_paths: %s: code %d\n", what, (int)rc);
    exit(3);
}
#define MUST(call) must(call, #call)

/* --- what NVML lists for this process --- */

static nvmlDevice_t card;
static typeof(&nvmlDeviceGetComputeRunningProcesses_v3) list_processes;

static void nvml_start(void) {
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!library) must(CUDA_ERROR_UNKNOWN, dlerror());
    typeof(&nvmlInit_v2) init = (typeof(&nvmlInit_v2))dlsym(library, "nvmlInit_v2");
    typeof(&nvmlDeviceGetHandleByIndex_v2) by_index =
        (typeof(&nvmlDeviceGetHandleByIndex_v2))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    list_processes = (typeof(&nvmlDeviceGetComputeRunningProcesses_v3))dlsym(
        library, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (!init || !by_index || !list_processes || init() || by_index(0, &card))
        must(CUDA_ERROR_UNKNOWN, "NVML");
}

static uint64_t listed(void) {
    nvmlProcessInfo_t list[256];
    unsigned count = 256;
    uint64_t sum = 0;
    if (list_processes(card, &count, list)) return 0;
    for (unsigned i = 0; i < count; i++)
        if (list[i].pid == (unsigned)getpid()) sum += list[i].usedGpuMemory;
    return sum;
}

/* --- the paths: take one more piece into a slot (untouched if refused), give one back --- */

union slot {
    CUdeviceptr pointer;
    CUarray array;
    CUmipmappedArray mipmap;
    CUgraphExec exec;
    CUmodule module;
    CUlibrary library;
    CUcontext context;
    CUstream stream;
    uint64_t word;
};

struct path {
    const char *name;
    uint64_t step;  /* bytes that one piece takes; 0: measured */
    uint64_t slack; /* a refusal may come this early */
    CUresult (*take)(union slot *slot);
    void (*give)(union slot *slot);
    bool sticky; /* keeps bytes when all is given back */
    bool mixed;  /* takes part in mixes */
};

static CUresult take_plain(union slot *s) { return cuMemAlloc_v2(&s->pointer, 2 * MiB); }
static CUresult take_small(union slot *s) { return cuMemAlloc_v2(&s->pointer, 65536); }
static void give_plain(union slot *s) { cuMemFree_v2(s->pointer); }
static CUresult take_pitch(union slot *s) {
    size_t pitch;
    return cuMemAllocPitch_v2(&s->pointer, &pitch, 1000, 2048, 4);
}
static CUresult take_managed(union slot *s) {
    return cuMemAllocManaged(&s->pointer, 2 * MiB, CU_MEM_ATTACH_GLOBAL);
}
static CUresult take_async(union slot *s) { return cuMemAllocAsync(&s->pointer, 32 * MiB, stream); }
static CUresult take_pool(union slot *s) {
    return cuMemAllocFromPoolAsync(&s->pointer, 32 * MiB, pool, stream);
}
static void give_async(union slot *s) { cuMemFreeAsync(s->pointer, stream); }

static CUresult take_vmm(union slot *s) { return cuMemCreate(&s->pointer, 2 * MiB, &pinned, 0); }
static void give_vmm(union slot *s) { cuMemRelease(s->pointer); }
static CUresult take_mapped(union slot *s) { /* as llama.cpp: the handle goes, the mapping stays */
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at;
    CUresult rc = cuMemCreate(&handle, 2 * MiB, &pinned, 0);
    if (rc) return rc;
    MUST(cuMemAddressReserve(&at, 2 * MiB, 0, 0, 0));
    MUST(cuMemMap(at, 2 * MiB, 0, handle, 0));
    MUST(cuMemSetAccess(at, 2 * MiB, &access_all, 1));
    MUST(cuMemRelease(handle));
    s->pointer = at;
    return CUDA_SUCCESS;
}
static void give_mapped(union slot *s) {
    cuMemUnmap(s->pointer, 2 * MiB);
    cuMemAddressFree(s->pointer, 2 * MiB);
}

static CUresult take_array(union slot *s) {
    CUDA_ARRAY_DESCRIPTOR shape = {500, 700, CU_AD_FORMAT_FLOAT, 1};
    return cuArrayCreate_v2(&s->array, &shape);
}
static CUresult take_array3d(union slot *s) {
    CUDA_ARRAY3D_DESCRIPTOR shape = {100, 120, 30, CU_AD_FORMAT_FLOAT, 1, 0};
    return cuArray3DCreate_v2(&s->array, &shape);
}
static CUresult take_array_small(union slot *s) {
    CUDA_ARRAY_DESCRIPTOR shape = {100, 100, CU_AD_FORMAT_UNSIGNED_INT8, 1};
    return cuArrayCreate_v2(&s->array, &shape);
}
static void give_array(union slot *s) { cuArrayDestroy(s->array); }
static CUresult take_mipmap(union slot *s) {
    CUDA_ARRAY3D_DESCRIPTOR shape = {256, 256, 0, CU_AD_FORMAT_FLOAT, 4, 0};
    return cuMipmappedArrayCreate(&s->mipmap, &shape, 8);
}
static void give_mipmap(union slot *s) { cuMipmappedArrayDestroy(s->mipmap); }

/* A graph whose allocation stays until it is freed by hand: word = the pointer. */
static CUresult launch_alloc(CUgraph graph, CUdeviceptr pointer, union slot *s) {
    CUgraphExec exec;
    CUresult rc = cuGraphInstantiateWithFlags(&exec, graph, 0);
    cuGraphDestroy(graph);
    if (rc) return rc;
    rc = cuGraphLaunch(exec, stream);
    cuStreamSynchronize(stream);
    cuGraphExecDestroy(exec);
    if (!rc) s->pointer = pointer;
    return rc;
}
static CUresult take_graph(union slot *s) {
    CUgraph graph;
    CUgraphNode node;
    CUDA_MEM_ALLOC_NODE_PARAMS params = {.poolProps = pool_properties, .bytesize = 2 * MiB};
    MUST(cuGraphCreate(&graph, 0));
    MUST(cuGraphAddMemAllocNode(&node, graph, NULL, 0, &params));
    return launch_alloc(graph, params.dptr, s);
}
static CUresult take_capture(union slot *s) {
    CUgraph graph;
    CUdeviceptr pointer;
    MUST(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    MUST(cuMemAllocAsync(&pointer, 2 * MiB, stream));
    MUST(cuStreamEndCapture(stream, &graph));
    return launch_alloc(graph, pointer, s);
}
static void give_graph(union slot *s) {
    cuMemFree_v2(s->pointer);
    cuDeviceGraphMemTrim(0);
}

static const char variables[] = ".version 6.0\n.target sm_50\n.address_size 64\n"
                                ".visible .global .align 4 .b8 filling[2097152];\n";
static CUresult take_module(union slot *s) { return cuModuleLoadData(&s->module, variables); }
static void give_module(union slot *s) { cuModuleUnload(s->module); }
static CUresult take_library(union slot *s) {
    CUlibrary library;
    CUdeviceptr address;
    size_t bytes;
    MUST(cuLibraryLoadData(&library, variables, NULL, NULL, 0, NULL, NULL, 0));
    CUresult rc = cuLibraryGetGlobal(&address, &bytes, library, "filling");
    if (rc) cuLibraryUnload(library);
    else s->library = library;
    return rc;
}
static void give_library(union slot *s) { cuLibraryUnload(s->library); }

static CUresult take_context(union slot *s) {
    CUcontext made, popped;
    CUresult rc = cuCtxCreate_v2(&made, 0, 0);
    if (rc) return rc;
    cuCtxPopCurrent_v2(&popped);
    s->context = made;
    return rc;
}
static void give_context(union slot *s) { cuCtxDestroy_v2(s->context); }
static CUresult take_stream(union slot *s) {
    return cuStreamCreate(&s->stream, CU_STREAM_NON_BLOCKING);
}
static void give_stream(union slot *s) { cuStreamDestroy_v2(s->stream); }

/* 16 bytes a thread more; word = the limit before. */
static CUresult take_stack(union slot *s) {
    size_t now;
    MUST(cuCtxGetLimit(&now, CU_LIMIT_STACK_SIZE));
    CUresult rc = cuCtxSetLimit(CU_LIMIT_STACK_SIZE, now + 16);
    if (!rc) s->word = now;
    return rc;
}
static void give_stack(union slot *s) { cuCtxSetLimit(CU_LIMIT_STACK_SIZE, (size_t)s->word); }

/* A kernel with 256 bytes of local memory a thread more than the last one. */
static uint64_t local_bytes = 1024;
static CUresult take_local(union slot *s) {
    static const char text[] =
        ".version 6.0\n.target sm_50\n.address_size 64\n"
        ".visible .entry vgpu_sim_local_%llu(.param .u64 p, .param .u64 q) {\n"
        ".local .align 16 .b8 room[%llu];\n.reg .b64 %%a, %%b, %%c;\n.reg .b32 %%x;\n.reg .pred "
        "%%q;\n"
        "ld.param.u64 %%a, [p];\nmov.u64 %%b, room;\nadd.u64 %%b, %%b, %%a;\n"
        "st.local.u32 [%%b], 1;\nld.param.u64 %%b, [q];\nmov.u64 %%c, room;\nadd.u64 %%b, %%b, "
        "%%c;\n"
        "ld.local.u32 %%x, [%%b];\n"
        "setp.eq.u32 %%q, %%x, 12345;\n@%%q st.global.u32 [%%a], %%x;\nret;\n}\n";
    char image[1024], name[64];
    unsigned long long bytes = local_bytes + 256;
    CUmodule module;
    CUfunction function;
    uint64_t offset = 0;
    void *params[] = {&offset, &offset};
    snprintf(image, sizeof image, text, bytes, bytes);
    snprintf(name, sizeof name, "vgpu_sim_local_%llu", bytes);
    CUresult rc = cuModuleLoadData(&module, image);
    if (rc) return rc;
    MUST(cuModuleGetFunction(&function, module, name));
    rc = cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
    if (!rc) rc = cuStreamSynchronize(stream);
    cuModuleUnload(module);
    if (rc) return rc;
    local_bytes = bytes;
    s->word = 0;
    return rc;
}
static void give_local(union slot *s) { (void)s; }

static const struct path paths[] = {
    {"plain", 2 * MiB, 0, take_plain, give_plain, false, true},
    {"small", 65536, 0, take_small, give_plain, false, true},
    {"pitch", 2 * MiB, 0, take_pitch, give_plain, false, true},
    {"managed", 2 * MiB, 0, take_managed, give_plain, false, false},
    {"async", 32 * MiB, 60 * MiB, take_async, give_async, true, true},
    {"pool", 32 * MiB, 60 * MiB, take_pool, give_async, false, true},
    {"vmm", 2 * MiB, 0, take_vmm, give_vmm, false, true},
    {"mapped", 2 * MiB, 0, take_mapped, give_mapped, false, true},
    {"array", 2 * MiB, 0, take_array, give_array, false, true},
    {"array3d", 2 * MiB, 0, take_array3d, give_array, false, true},
    {"array_small", 2 * MiB, 0, take_array_small, give_array, false, true},
    {"mipmap", 2 * MiB, 0, take_mipmap, give_mipmap, false, true},
    {"graph", 32 * MiB, 0, take_graph, give_graph, true, false},
    {"capture", 32 * MiB, 0, take_capture, give_graph, true, false},
    {"module", 2 * MiB, 0, take_module, give_module, true, true},
    {"library", 2 * MiB, 0, take_library, give_library, true, true},
    {"context", 518 * MiB, 0, take_context, give_context, false, false},
    {"stream", 0, 0, take_stream, give_stream, true, false},
    {"stack", 5 * MiB, 0, take_stack, give_stack, false, false},
    {"local", 70 * MiB, 0, take_local, give_local, true, false},
};
#define PATHS (sizeof paths / sizeof *paths)

static void start(void) {
    MUST(cuInit(0));
    MUST(cuDevicePrimaryCtxRetain(&primary, 0));
    MUST(cuCtxSetCurrent(primary));
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuMemPoolCreate(&pool, &pool_properties));
    nvml_start();
}

static void settle(void) {
    cuCtxSynchronize();
    cuMemPoolTrimTo(pool, 0);
    CUmemoryPool usual;
    if (!cuDeviceGetDefaultMemPool(&usual, 0)) cuMemPoolTrimTo(usual, 0);
    cuDeviceGraphMemTrim(0);
}

/* --- one path alone --- */

static char wrong[4096];
static void note(bool good, const char *what) {
    if (good) return;
    if (*wrong) strncat(wrong, "; ", sizeof wrong - strlen(wrong) - 1);
    strncat(wrong, what, sizeof wrong - strlen(wrong) - 1);
}

static union slot slots[MOST];

static int fill(const struct path *path) {
    size_t left, limit;
    uint64_t most = 0, before = listed(), full = 0, counts[2] = {0}, asked = path->step;
    CUresult rc = CUDA_SUCCESS;
    MUST(cuMemGetInfo_v2(&left, &limit));
    for (int round = 0; round < 2; round++) {
        uint64_t n = 0;
        if (round == 1 && strcmp(path->name, "local") == 0) break;
        for (; n < MOST; n++) {
            slots[n].word = UINT64_C(0x7777);
            rc = path->take(&slots[n]);
            if (rc) break;
            if (n % 16 == 0 || path->step >= MiB) {
                uint64_t now = listed();
                if (now > most) most = now;
            }
        }
        note(rc == CUDA_ERROR_OUT_OF_MEMORY, "the refusal is not code 2");
        note(slots[n].word == UINT64_C(0x7777), "a refusal touched the output");
        if (round == 0) {
            full = listed();
            if (full > most) most = full;
            if (!asked) asked = 2 * MiB;
        }
        counts[round] = n;
        while (n) path->give(&slots[--n]);
        settle();
    }
    uint64_t after = listed();
    bool managed = strcmp(path->name, "managed") == 0;
    note(most <= limit, "NVML's figure went over the limit");
    if (managed) note(before + counts[0] * path->step + 8 * MiB > limit, "refused too early");
    else note(full + asked + path->slack + 4 * MiB >= limit, "refused too early");
    note(counts[0] <= counts[1] + counts[1] / 16 + 1 || path->take == take_local,
         "the second fill held less: something was lost");
    note(after <= before + 2 * MiB || path->sticky, "bytes left after everything was freed");
    size_t left_after;
    MUST(cuMemGetInfo_v2(&left_after, &limit));
    printf("{\"path\":\"%s\",\"limit_bytes\":%zu,\"held_bytes\":%llu,\"most_bytes\":%llu,\"asked\":"
           "%llu,"
           "\"code\":%d,\"pieces\":%llu,\"pieces_again\":%llu,\"before_bytes\":%llu,\"after_"
           "bytes\":%llu,"
           "\"ledger_after_bytes\":%zu,\"wrong\":\"%s\"}\n",
           path->name, limit, (unsigned long long)full, (unsigned long long)most,
           (unsigned long long)asked, (int)rc, (unsigned long long)counts[0],
           (unsigned long long)counts[1], (unsigned long long)before, (unsigned long long)after,
           limit - left_after, wrong);
    return *wrong != 0;
}

/* --- all of them at once --- */

struct worker {
    pthread_t thread;
    uint64_t random, calls, denials, failures;
    int last;
};
static double until;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static uint64_t below(uint64_t *state, uint64_t bound) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state % bound;
}

static void *mix_thread(void *argument) {
    struct worker *worker = argument;
    union slot held[64];
    const struct path *of[64] = {0};
    cuCtxSetCurrent(primary);
    while (now_s() < until) {
        uint64_t k = below(&worker->random, 64);
        if (of[k]) of[k]->give(&held[k]);
        of[k] = NULL;
        const struct path *path = &paths[below(&worker->random, PATHS)];
        if (!path->mixed || below(&worker->random, 4) == 0) continue;
        CUresult rc = path->take(&held[k]);
        worker->calls++;
        if (rc == CUDA_SUCCESS) of[k] = path;
        else if (rc == CUDA_ERROR_OUT_OF_MEMORY) worker->denials++;
        else worker->failures++, worker->last = (int)rc;
        if (below(&worker->random, 64) == 0) cuStreamSynchronize(stream);
    }
    for (int k = 0; k < 64; k++)
        if (of[k]) of[k]->give(&held[k]);
    return NULL;
}

static int mix(double seconds, int threads, uint64_t seed) {
    struct worker workers[256] = {0};
    uint64_t calls = 0, denials = 0, failures = 0, before = listed();
    size_t left, limit;
    int last = 0;
    if (threads > 256) threads = 256;
    until = now_s() + seconds;
    for (int i = 0; i < threads; i++) {
        workers[i].random = (seed + (uint64_t)i + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        pthread_create(&workers[i].thread, NULL, mix_thread, &workers[i]);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        calls += workers[i].calls, denials += workers[i].denials;
        failures += workers[i].failures;
        if (workers[i].last) last = workers[i].last;
    }
    settle();
    uint64_t after = listed();
    MUST(cuMemGetInfo_v2(&left, &limit));
    note(failures == 0, "a code other than 0 and 2");
    printf(
        "{\"mix\":%d,\"calls\":%llu,\"denials\":%llu,\"failures\":%llu,\"last_code\":%d,\"before_"
        "bytes\":%llu,"
        "\"after_bytes\":%llu,\"limit_bytes\":%zu,\"ledger_after_bytes\":%zu,\"wrong\":\"%s\"}\n",
        threads, (unsigned long long)calls, (unsigned long long)denials,
        (unsigned long long)failures, last, (unsigned long long)before, (unsigned long long)after,
        limit, limit - left, wrong);
    return *wrong != 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < PATHS; i++) printf("%s\n", paths[i].name);
        return 0;
    }
    if (argc > 2 && strcmp(argv[1], "fill") == 0)
        for (size_t i = 0; i < PATHS; i++)
            if (strcmp(argv[2], paths[i].name) == 0) return start(), fill(&paths[i]);
    if (argc > 4 && strcmp(argv[1], "mix") == 0)
        return start(), mix(atof(argv[2]), atoi(argv[3]), strtoull(argv[4], NULL, 0));
    fprintf(stderr, "memory_paths fill PATH | mix SECONDS THREADS SEED | list\n");
    return 2;
}
