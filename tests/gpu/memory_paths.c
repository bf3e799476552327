/* Every way to take device memory, alone and mixed. Needs a driver (a real one, or the simulated):
 *     cc -std=gnu11 -O2 -pthread memory_paths.c -o memory_paths -l:libcuda.so.1 -ldl
 *     memory_paths fill PATH           until a refusal, coarse to fine; frees; fills again
 *     memory_paths mix SECONDS THREADS PROCESSES [all|sized|PATH,…]   all, or some, at once
 *     memory_paths list                             "NAME sized|unsized|managed" for each path
 * One JSON object on stdout; "wrong" lists what did not hold, and the exit status is 1 if it is not
 * empty. NVML is asked through whatever the process sees: inside a session its own true figure. The
 * ledger's figure is what the processes have charged, without what the audit adds (drift_bytes). */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/cuda_abi.h"
#include "../../shim/nvml_abi.h"
#include "../../shim/slot.h"

#define MiB (UINT64_C(1) << 20)
#define MOST 400000

static CUcontext primary;
static __thread CUstream stream; /* each thread's own: a capture must not meet another's calls */
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

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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

/* --- what this process has charged; audited: with what NVML's figure added --- */

static const struct vgpu_region *region; /* NULL outside a session */

static void region_open(void) {
    const char *path = getenv("VGPU_REGION");
    if (!path) return;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *region, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) must(CUDA_ERROR_UNKNOWN, path);
    close(fd);
    region = mapped;
}

static uint64_t charged(bool is_audited) {
    uint64_t sum = 0;
    for (int i = 0; region && i < VGPU_MAX_SLOTS; i++) {
        const struct vgpu_slot *slot = &region->slots[i];
        uint64_t owner = __atomic_load_n(&slot->owner, __ATOMIC_ACQUIRE);
        if (vgpu_slot_state(owner) != VGPU_SLOT_LIVE || vgpu_slot_pid(owner) != (uint32_t)getpid())
            continue;
        for (int d = 0; d < VGPU_MAX_DEVICES; d++)
            sum +=
                __atomic_load_n(&slot->use[d].charged_bytes, __ATOMIC_RELAXED) +
                (is_audited ? (uint64_t)__atomic_load_n(&slot->use[d].drift_bytes, __ATOMIC_RELAXED)
                            : 0);
    }
    return sum;
}

/* --- the paths: take one more piece into a slot (untouched if refused), give one back --- */

struct slot {
    union {
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
    uint64_t bytes; /* of the piece, set by the caller of take */
};

enum kind {
    SIZED,
    UNSIZED, /* takes memory that no call names: docs/limits.md */
    MANAGED, /* charged in full, though NVML need not list it */
};

struct path {
    const char *name;
    uint64_t step;  /* bytes that a unit takes */
    uint64_t slack; /* a refusal may come this early */
    CUresult (*take)(struct slot *slot);
    void (*give)(struct slot *slot);
    bool sticky;     /* keeps bytes when all is given back */
    unsigned rare;   /* in mixes, one in so many of its turns is taken */
    uint64_t grain;  /* units of the smallest piece */
    uint64_t coarse; /* and of the largest: thousands of objects would slow the whole card */
    uint64_t fine;   /* the last bytes of a fill, taken in smallest pieces */
    enum kind kind;
};

/* Units of the piece to take. */
static __thread uint64_t piece;

static CUresult take_plain(struct slot *s) { return cuMemAlloc_v2(&s->pointer, piece * 2 * MiB); }
static CUresult take_small(struct slot *s) { return cuMemAlloc_v2(&s->pointer, piece * 65536); }
static void give_plain(struct slot *s) { cuMemFree_v2(s->pointer); }
static CUresult take_pitch(struct slot *s) {
    size_t pitch;
    return cuMemAllocPitch_v2(&s->pointer, &pitch, 1000, 2048 * piece, 4);
}
static CUresult take_managed(struct slot *s) {
    return cuMemAllocManaged(&s->pointer, piece * 2 * MiB, CU_MEM_ATTACH_GLOBAL);
}
static CUresult take_async(struct slot *s) {
    return cuMemAllocAsync(&s->pointer, piece * 32 * MiB, stream);
}
static CUresult take_pool(struct slot *s) {
    return cuMemAllocFromPoolAsync(&s->pointer, piece * 32 * MiB, pool, stream);
}
static void give_async(struct slot *s) { cuMemFreeAsync(s->pointer, stream); }

static CUresult take_vmm(struct slot *s) {
    return cuMemCreate(&s->pointer, piece * 2 * MiB, &pinned, 0);
}
static void give_vmm(struct slot *s) { cuMemRelease(s->pointer); }
static CUresult take_mapped(struct slot *s) { /* as llama.cpp: the handle goes, the mapping stays */
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at;
    size_t bytes = piece * 2 * MiB;
    CUresult rc = cuMemCreate(&handle, bytes, &pinned, 0);
    if (rc) return rc;
    MUST(cuMemAddressReserve(&at, bytes, 0, 0, 0));
    MUST(cuMemMap(at, bytes, 0, handle, 0));
    MUST(cuMemSetAccess(at, bytes, &access_all, 1));
    MUST(cuMemRelease(handle));
    s->pointer = at;
    return CUDA_SUCCESS;
}
static void give_mapped(struct slot *s) {
    cuMemUnmap(s->pointer, s->bytes);
    cuMemAddressFree(s->pointer, s->bytes);
}

static CUresult take_array(struct slot *s) {
    CUDA_ARRAY_DESCRIPTOR shape = {500, 700 * piece, CU_AD_FORMAT_FLOAT, 1};
    return cuArrayCreate_v2(&s->array, &shape);
}
static CUresult take_array3d(struct slot *s) {
    CUDA_ARRAY3D_DESCRIPTOR shape = {100, 120, 30 * piece, CU_AD_FORMAT_FLOAT, 1, 0};
    return cuArray3DCreate_v2(&s->array, &shape);
}
static CUresult take_array_small(struct slot *s) {
    CUDA_ARRAY_DESCRIPTOR shape = {100 * piece, 100, CU_AD_FORMAT_UNSIGNED_INT8, 1};
    return cuArrayCreate_v2(&s->array, &shape);
}
static void give_array(struct slot *s) { cuArrayDestroy(s->array); }
static CUresult take_mipmap(struct slot *s) {
    CUDA_ARRAY3D_DESCRIPTOR shape = {256, 256 * piece, 0, CU_AD_FORMAT_FLOAT, 4, 0};
    return cuMipmappedArrayCreate(&s->mipmap, &shape, 8);
}
static void give_mipmap(struct slot *s) { cuMipmappedArrayDestroy(s->mipmap); }

/* A graph takes whole steps of 32 MiB. */
static uint64_t graph_bytes(void) { return piece == 1 ? 2 * MiB : piece * 32 * MiB; }

/* A graph whose allocation stays until it is freed by hand: word = the pointer. */
static CUresult launch_alloc(CUgraph graph, CUdeviceptr pointer, struct slot *s) {
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
static CUresult take_graph(struct slot *s) {
    CUgraph graph;
    CUgraphNode node;
    CUDA_MEM_ALLOC_NODE_PARAMS params = {.poolProps = pool_properties, .bytesize = graph_bytes()};
    CUresult rc = cuGraphCreate(&graph, 0);
    if (rc) return rc;
    rc = cuGraphAddMemAllocNode(&node, graph, NULL, 0, &params);
    if (rc) return cuGraphDestroy(graph), rc;
    return launch_alloc(graph, params.dptr, s);
}
static CUresult take_capture(struct slot *s) {
    CUgraph graph = NULL;
    CUdeviceptr pointer;
    CUresult rc = cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    if (rc) return rc;
    rc = cuMemAllocAsync(&pointer, graph_bytes(), stream);
    CUresult ended = cuStreamEndCapture(stream, &graph);
    if (rc || ended) return graph ? cuGraphDestroy(graph) : 0, rc ? rc : ended;
    return launch_alloc(graph, pointer, s);
}
static void give_graph(struct slot *s) {
    cuMemFree_v2(s->pointer);
    cuDeviceGraphMemTrim(0);
}

/* A variable of `piece` times 2 MiB. */
static const char *variable(void) {
    static __thread char text[160];
    snprintf(text, sizeof text,
             ".version 6.0\n.target sm_50\n.address_size 64\n"
             ".visible .global .align 4 .b8 filling[%llu];\n",
             (unsigned long long)(piece * 2 * MiB));
    return text;
}
static CUresult take_module(struct slot *s) { return cuModuleLoadData(&s->module, variable()); }
static void give_module(struct slot *s) { cuModuleUnload(s->module); }
static CUresult take_library(struct slot *s) {
    CUlibrary library;
    CUdeviceptr address;
    size_t bytes;
    CUresult rc = cuLibraryLoadData(&library, variable(), NULL, NULL, 0, NULL, NULL, 0);
    if (rc) return rc;
    rc = cuLibraryGetGlobal(&address, &bytes, library, "filling");
    if (rc) cuLibraryUnload(library);
    else s->library = library;
    return rc;
}
static void give_library(struct slot *s) { cuLibraryUnload(s->library); }

static CUresult take_context(struct slot *s) {
    CUcontext made, popped;
    CUresult rc = cuCtxCreate_v2(&made, 0, 0);
    if (rc) return rc;
    cuCtxPopCurrent_v2(&popped);
    s->context = made;
    return rc;
}
static void give_context(struct slot *s) { cuCtxDestroy_v2(s->context); }
static CUresult take_stream(struct slot *s) {
    return cuStreamCreate(&s->stream, CU_STREAM_NON_BLOCKING);
}
static void give_stream(struct slot *s) { cuStreamDestroy_v2(s->stream); }

/* `piece` bytes a thread more; word = the limit before. */
static CUresult take_stack(struct slot *s) {
    size_t now;
    CUresult rc = cuCtxGetLimit(&now, CU_LIMIT_STACK_SIZE);
    if (!rc) rc = cuCtxSetLimit(CU_LIMIT_STACK_SIZE, now + piece);
    if (!rc) s->word = now;
    return rc;
}
static void give_stack(struct slot *s) { cuCtxSetLimit(CU_LIMIT_STACK_SIZE, (size_t)s->word); }

/* A kernel with `piece` bytes of local memory a thread more than the last one. The context keeps
 * what it takes, so in a mix, where nothing would be left for the others, it ends at LOCAL_MOST. */
#define LOCAL_MOST 2048
static uint64_t local_bytes = 1024;
static bool is_mix;
static CUresult take_local(struct slot *s) {
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
    unsigned long long bytes = __atomic_load_n(&local_bytes, __ATOMIC_RELAXED) + piece;
    if (is_mix && bytes > LOCAL_MOST) bytes = LOCAL_MOST;
    CUmodule module;
    CUfunction function;
    uint64_t offset = 0;
    void *params[] = {&offset, &offset};
    snprintf(image, sizeof image, text, bytes, bytes);
    snprintf(name, sizeof name, "vgpu_sim_local_%llu", bytes);
    CUresult rc = cuModuleLoadData(&module, image);
    if (rc) return rc;
    rc = cuModuleGetFunction(&function, module, name);
    if (!rc) rc = cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
    if (!rc) rc = cuStreamSynchronize(stream);
    cuModuleUnload(module);
    if (rc) return rc;
    __atomic_store_n(&local_bytes, bytes, __ATOMIC_RELAXED);
    s->word = 0;
    return rc;
}
static void give_local(struct slot *s) { (void)s; }

static struct path paths[] = {
    {"plain", 2 * MiB, 0, take_plain, give_plain, false, 1, 1, 32, 256 * MiB, SIZED},
    {"small", 65536, 0, take_small, give_plain, false, 1, 1, 16, 64 * MiB, SIZED},
    {"pitch", 2 * MiB, 0, take_pitch, give_plain, false, 1, 1, 32, 256 * MiB, SIZED},
    {"managed", 2 * MiB, 0, take_managed, give_plain, false, 1, 1, 32, 256 * MiB, MANAGED},
    {"async", 32 * MiB, 60 * MiB, take_async, give_async, true, 1, 1, 2, 256 * MiB, SIZED},
    {"pool", 32 * MiB, 60 * MiB, take_pool, give_async, false, 1, 1, 2, 256 * MiB, SIZED},
    {"vmm", 2 * MiB, 0, take_vmm, give_vmm, false, 1, 1, 32, 256 * MiB, SIZED},
    {"mapped", 2 * MiB, 0, take_mapped, give_mapped, false, 1, 1, 32, 256 * MiB, SIZED},
    {"array", 2 * MiB, 0, take_array, give_array, false, 1, 1, 32, 256 * MiB, SIZED},
    {"array3d", 2 * MiB, 0, take_array3d, give_array, false, 1, 1, 32, 256 * MiB, SIZED},
    {"array_small", 16384, 0, take_array_small, give_array, false, 1, 4, 64, 64 * MiB, SIZED},
    {"mipmap", 2 * MiB, 0, take_mipmap, give_mipmap, false, 1, 1, 32, 256 * MiB, SIZED},
    {"graph", 32 * MiB, 0, take_graph, give_graph, true, 1, 1, 2, 256 * MiB, SIZED},
    {"capture", 32 * MiB, 0, take_capture, give_graph, true, 1, 1, 2, 256 * MiB, SIZED},
    {"module", 2 * MiB, 0, take_module, give_module, true, 1, 1, 64, 32 * MiB, SIZED},
    {"library", 2 * MiB, 0, take_library, give_library, true, 1, 1, 64, 32 * MiB, SIZED},
    {"context", 518 * MiB, 0, take_context, give_context, false, 16, 1, 1, 0, SIZED},
    {"stream", 2 * MiB, 0, take_stream, give_stream, true, 1, 1, 1, 0, UNSIZED},
    {"stack", 0, 0, take_stack, give_stack, false, 4, 16, 1024, 32 * MiB, SIZED},
    {"local", 0, 0, take_local, give_local, true, 16, 16, 1024, 32 * MiB, UNSIZED},
};
#define PATHS (sizeof paths / sizeof *paths)

/* A byte a thread more is a byte for each thread that the card can hold. */
static void measure_steps(void) {
    int threads, processors;
    MUST(cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 0));
    MUST(cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    for (size_t i = 0; i < PATHS; i++)
        if (!paths[i].step) paths[i].step = (uint64_t)threads * (uint64_t)processors;
}

static void start(void) {
    region_open();
    MUST(cuInit(0));
    measure_steps();
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

static struct slot slots[MOST];

/* A look at NVML holds up every driver call on the card: the sampler outside looks, not each of us.
 */
static void look_sometimes(uint64_t *most) {
    static double last;
    double now = now_s();
    if (now - last < 0.05) return;
    last = now;
    uint64_t bytes = listed();
    if (bytes > *most) *most = bytes;
}

/* The largest piece that leaves the bytes for fine steps. */
static uint64_t next_piece(const struct path *path) {
    size_t left = 0, limit;
    uint64_t units = path->coarse;
    if (units > path->grain) cuMemGetInfo_v2(&left, &limit);
    while (units > path->grain && units * path->step + path->fine > left) units /= 2;
    return units < path->grain ? path->grain : units;
}

/* Takes pieces, coarse to fine, until a smallest one is refused; *sum: their bytes. */
static uint64_t take_all(const struct path *path, CUresult *rc, uint64_t *most, uint64_t *sum) {
    uint64_t n = 0;
    *sum = 0;
    piece = path->coarse;
    for (; n < MOST; n++) {
        if (piece > path->grain) piece = next_piece(path);
        slots[n].word = UINT64_C(0x7777);
        slots[n].bytes = path->step * piece;
        *rc = path->take(&slots[n]);
        if (*rc == CUDA_ERROR_OUT_OF_MEMORY && piece > path->grain) {
            piece = path->grain;
            slots[n].bytes = path->step * piece;
            *rc = path->take(&slots[n]);
        }
        if (*rc) break;
        *sum += slots[n].bytes;
        look_sometimes(most);
    }
    return n;
}

#define BALLAST (256 * MiB)
static CUdeviceptr ballast[1024];

/* Paths that are slow, or whose pieces are never large, fill only the last bytes, of which plain
 * blocks leave so many; 0: all. While the driver moves a stack pool of 20 GiB it answers no NVML
 * call for 0.1 s. */
static uint64_t own_bytes(const struct path *path) {
    if (path->take == take_context) return 2560 * MiB;
    if (path->take == take_small || path->take == take_array_small) return 1024 * MiB;
    if (path->take == take_stack || path->take == take_local) return 4096 * MiB;
    return path->take == take_stream ? 512 * MiB : 0;
}

/* Plain blocks for all but the bytes that the path fills itself; returns how many blocks. */
static int take_ballast(uint64_t left, uint64_t own) {
    int n = 0;
    for (; own && left >= own + BALLAST && n < 1024; left -= BALLAST)
        MUST(cuMemAlloc_v2(&ballast[n++], BALLAST));
    return n;
}

static int fill(const struct path *path) {
    size_t left, limit;
    uint64_t most = 0, before = listed(), full = 0, ledger_full = 0, counts[2] = {0}, asked = 0;
    uint64_t sums[2] = {0};
    CUresult rc = CUDA_SUCCESS;
    MUST(cuMemGetInfo_v2(&left, &limit));
    int blocks = take_ballast(left, own_bytes(path));
    for (int round = 0; round < 2; round++) {
        if (round == 1 && path->take == take_local) break;
        uint64_t n = take_all(path, &rc, &most, &sums[round]);
        note(rc == CUDA_ERROR_OUT_OF_MEMORY, "the refusal is not code 2");
        note(slots[n].word == UINT64_C(0x7777), "a refusal touched the output");
        if (round == 0) {
            full = listed(), ledger_full = charged(false);
            usleep(10000); /* at rest for as long as a sampler outside needs to see it */
            if (full > most) most = full;
            asked = path->step * piece;
        }
        counts[round] = n;
        while (n) path->give(&slots[--n]);
        settle();
    }
    for (int i = 0; i < blocks; i++) cuMemFree_v2(ballast[i]);
    uint64_t after = listed(), ledger_after = charged(false);
    note(most <= limit || path->kind == UNSIZED, "NVML's figure went over the limit");
    if (path->kind == MANAGED) {
        note(before + sums[0] <= limit, "the sum of sizes is over the limit");
        note(before + sums[0] + 8 * MiB > limit, "refused too early");
    } else {
        note(full + asked + path->slack + 4 * MiB > limit, "refused too early");
    }
    note(sums[0] <= sums[1] + sums[1] / 16 + asked || path->take == take_local,
         "the second fill held less: something was lost");
    note(after <= before + 2 * MiB || path->sticky, "bytes left after everything was freed");
    printf("{\"path\":\"%s\",\"limit_bytes\":%zu,\"held_bytes\":%llu,\"most_bytes\":%llu,"
           "\"asked_bytes\":%llu,\"code\":%d,\"pieces\":%llu,\"pieces_again\":%llu,"
           "\"before_bytes\":%llu,\"ledger_full_bytes\":%llu,\"after_bytes\":%llu,"
           "\"ledger_after_bytes\":%llu,\"managed_bytes\":%llu,\"ballast_bytes\":%llu,\"wrong\":\"%"
           "s\"}\n",
           path->name, limit, (unsigned long long)full, (unsigned long long)most,
           (unsigned long long)asked, (int)rc, (unsigned long long)counts[0],
           (unsigned long long)counts[1], (unsigned long long)before,
           (unsigned long long)ledger_full, (unsigned long long)after,
           (unsigned long long)ledger_after,
           (unsigned long long)(path->kind == MANAGED ? sums[0] : 0),
           (unsigned long long)blocks * BALLAST, wrong);
    return *wrong != 0;
}

/* --- all of them at once --- */

struct worker {
    pthread_t thread;
    uint64_t random, calls, denials, failures;
    const char *failed; /* the path of the last failure */
    int last;
};
static double until;
static uint64_t managed_now, managed_most;

static uint64_t below(uint64_t *state, uint64_t bound) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state % bound;
}

static void give(const struct path *path, struct slot *slot) {
    path->give(slot);
    if (path->kind == MANAGED) __atomic_sub_fetch(&managed_now, slot->bytes, __ATOMIC_RELAXED);
}

static void count_managed(uint64_t bytes) {
    uint64_t now = __atomic_add_fetch(&managed_now, bytes, __ATOMIC_RELAXED);
    uint64_t most = __atomic_load_n(&managed_most, __ATOMIC_RELAXED);
    while (now > most && !__atomic_compare_exchange_n(&managed_most, &most, now, false,
                                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* A thread's: few, for the sake of the whole card; their size follows the limit. */
#define HELD 20
static uint64_t usual; /* units of 2 MiB; on average half of it is enough to pass the limit */
static bool is_chosen[PATHS];

/* One in four is a smallest one. */
static uint64_t mix_piece(const struct path *path, uint64_t *random) {
    uint64_t most = path->coarse / path->grain;
    bool is_scaled = path->step >= 2 * MiB && path->coarse > path->grain;
    if (is_scaled) most *= 2;
    if (is_scaled && most > usual) most = usual;
    if (path->take == take_stack || path->take == take_local) most = 1;
    return most < 2 || below(random, 4) == 0 ? path->grain
                                             : path->grain * (1 + below(random, most));
}

static void *mix_thread(void *argument) {
    struct worker *worker = argument;
    struct slot held[HELD];
    const struct path *of[HELD] = {0};
    cuCtxSetCurrent(primary);
    for (CUresult rc; (rc = cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));)
        if (rc != CUDA_ERROR_OUT_OF_MEMORY || now_s() > until) return NULL;
    while (now_s() < until) {
        uint64_t k = below(&worker->random, HELD);
        if (of[k]) give(of[k], &held[k]);
        of[k] = NULL;
        const struct path *path = &paths[below(&worker->random, PATHS)];
        if (below(&worker->random, 4) == 0 || below(&worker->random, path->rare)) continue;
        if (!is_chosen[path - paths]) continue;
        piece = mix_piece(path, &worker->random);
        held[k].bytes = path->step * piece;
        CUresult rc = path->take(&held[k]);
        worker->calls++;
        if (rc == CUDA_SUCCESS) of[k] = path;
        else if (rc == CUDA_ERROR_OUT_OF_MEMORY) worker->denials++;
        else worker->failures++, worker->last = (int)rc, worker->failed = path->name;
        if (!rc && path->kind == MANAGED) count_managed(held[k].bytes);
        if (below(&worker->random, 64) == 0) cuStreamSynchronize(stream);
    }
    for (int k = 0; k < HELD; k++)
        if (of[k]) give(of[k], &held[k]);
    cuStreamSynchronize(stream);
    cuStreamDestroy_v2(stream);
    return NULL;
}

/* Where the processes of a mix meet: all begin at once, each with its context, and all have given
 * everything back before any looks at what is left. */
static struct meeting { int processes, arrived[3]; } * meeting;

static void meet(int which) {
    __atomic_add_fetch(&meeting->arrived[which], 1, __ATOMIC_SEQ_CST);
    for (double end = now_s() + 60; now_s() < end; usleep(1000))
        if (__atomic_load_n(&meeting->arrived[which], __ATOMIC_SEQ_CST) == meeting->processes)
            return;
    must(CUDA_ERROR_UNKNOWN, "another process of the mix did not come");
}

/* What the driver itself says it still holds, for who looks for a difference. */
static void print_rest(void) {
    CUmemoryPool usual_pool;
    cuuint64_t pools[2] = {0, 0}, graphs = 0;
    size_t stack = 0;
    cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &pools[0]);
    if (!cuDeviceGetDefaultMemPool(&usual_pool, 0))
        cuMemPoolGetAttribute(usual_pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &pools[1]);
    cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &graphs);
    cuCtxGetLimit(&stack, CU_LIMIT_STACK_SIZE);
    printf("\"pool_bytes\":%llu,\"default_pool_bytes\":%llu,\"graph_bytes\":%llu,"
           "\"stack_bytes\":%zu,\"local_bytes\":%llu,",
           (unsigned long long)pools[0], (unsigned long long)pools[1], (unsigned long long)graphs,
           stack, (unsigned long long)local_bytes);
}

static int mix(double seconds, int threads, uint64_t seed) {
    start();
    struct worker workers[256] = {0};
    uint64_t calls = 0, denials = 0, failures = 0, before = listed();
    size_t left, limit;
    int last = 0;
    const char *failed = "";
    meet(0);
    if (threads > 256) threads = 256;
    MUST(cuMemGetInfo_v2(&left, &limit));
    usual = 6 * limit / ((uint64_t)threads * (uint64_t)meeting->processes * HELD * 2 * MiB);
    if (usual < 2) usual = 2;
    is_mix = true;
    until = now_s() + seconds;
    for (int i = 0; i < threads; i++) {
        workers[i].random = (seed + (uint64_t)i + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        pthread_create(&workers[i].thread, NULL, mix_thread, &workers[i]);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        calls += workers[i].calls, denials += workers[i].denials;
        failures += workers[i].failures;
        if (workers[i].last) last = workers[i].last, failed = workers[i].failed;
    }
    cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024); /* the threads gave back each other's limits */
    settle();
    meet(1);
    uint64_t after = listed(), ledger_after = charged(false);
    if (region) usleep(500000); /* the supervisor has looked */
    uint64_t audited_after = charged(true);
    meet(2);
    note(failures == 0, "a code other than 0 and 2");
    note(managed_most <= limit, "the sum of managed sizes went over the limit");
    printf("{\"mix\":%d,\"calls\":%llu,\"denials\":%llu,\"failures\":%llu,\"last_code\":%d,"
           "\"failed\":\"%s\",\"before_bytes\":%llu,\"after_bytes\":%llu,\"limit_bytes\":%zu,"
           "\"ledger_after_bytes\":%llu,\"audited_after_bytes\":%llu,"
           "\"managed_most_bytes\":%llu,",
           threads, (unsigned long long)calls, (unsigned long long)denials,
           (unsigned long long)failures, last, failed, (unsigned long long)before,
           (unsigned long long)after, limit, (unsigned long long)ledger_after,
           (unsigned long long)audited_after, (unsigned long long)managed_most);
    print_rest();
    printf("\"wrong\":\"%s\"}\n", wrong);
    return *wrong != 0;
}

static int mixes(double seconds, int threads, int processes) {
    meeting =
        mmap(NULL, sizeof *meeting, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (meeting == MAP_FAILED || processes < 1 || threads < 1) return 2;
    meeting->processes = processes;
    int worst = 0, status;
    for (int i = 0; i < processes; i++)
        if (fork() == 0) exit(mix(seconds, threads, (uint64_t)i * 1000 + 1));
    while (wait(&status) > 0)
        if (!WIFEXITED(status)) worst = 4;
        else if (WEXITSTATUS(status) > worst) worst = WEXITSTATUS(status);
    return worst;
}

/* "all", "sized", or names with commas between; false if one is unknown. */
static bool choose(const char *which) {
    bool is_all = strcmp(which, "all") == 0, is_sized = strcmp(which, "sized") == 0;
    for (size_t i = 0; i < PATHS; i++)
        is_chosen[i] = is_all || (is_sized && paths[i].kind != UNSIZED);
    while (!is_all && !is_sized && *which) {
        size_t length = strcspn(which, ","), i = 0;
        while (i < PATHS &&
               (strlen(paths[i].name) != length || strncmp(paths[i].name, which, length) != 0))
            i++;
        if (i == PATHS) return false;
        is_chosen[i] = true;
        which += length + (which[length] == ',');
    }
    return true;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "list") == 0) {
        static const char *const kinds[] = {"sized", "unsized", "managed"};
        for (size_t i = 0; i < PATHS; i++) printf("%s %s\n", paths[i].name, kinds[paths[i].kind]);
        return 0;
    }
    if (argc > 2 && strcmp(argv[1], "fill") == 0)
        for (size_t i = 0; i < PATHS; i++)
            if (strcmp(argv[2], paths[i].name) == 0) return start(), fill(&paths[i]);
    const char *which = argc > 5 ? argv[5] : "all";
    if (!choose(which)) return fprintf(stderr, "memory_paths: no path %s\n", which), 2;
    if (argc > 4 && strcmp(argv[1], "mix") == 0)
        return mixes(atof(argv[2]), atoi(argv[3]), atoi(argv[4]));
    fprintf(
        stderr,
        "memory_paths fill PATH | mix SECONDS THREADS PROCESSES [all|sized|PATH,PATH] | list\n");
    return 2;
}
