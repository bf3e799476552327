/* What a call spends in the shim itself: the time around the hook minus the time around the
 * driver's own function, for each call. The shim keeps the driver's functions in a table; here each
 * pointer to one that we look at is replaced by a wrapper that takes the inner time. Run it under
 * `vgpu run`; it says how many pointers it found (0: no shim here).
 *     cost_inside alloc|async|create PROCESSES PAIRS LIVE      one JSON line
 *     cost_inside calls            what the driver takes for each call that the shim adds, ns
 * PROCESSES at once, each with LIVE blocks held: a block chosen at random is freed and taken anew,
 * PAIRS times. Times in ns; p99 over the calls of all processes. */
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/cuda_abi.h"
#include "../../shim/elf.h"

#define MOST_LIVE 200000
#define MOST_PROCESSES 64

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void must(CUresult result, const char *what) {
    if (result == CUDA_SUCCESS) return;
    fprintf(stderr, "cost_inside: %s: error %d\n", what, (int)result);
    exit(3);
}

static void *hooked(const char *name) { return dlsym(dlopen("libcuda.so.1", RTLD_NOW), name); }

/* --- the driver's functions, and wrappers that time them --- */

static uint64_t inner_ns;
static typeof(&cuMemAlloc_v2) real_alloc;
static typeof(&cuMemFree_v2) real_free;
static typeof(&cuMemAllocAsync) real_alloc_async;
static typeof(&cuMemFreeAsync) real_free_async;
static typeof(&cuMemCreate) real_create;
static typeof(&cuMemRelease) real_release;

#define TIMED(call)                                                                                \
    uint64_t begin = now_ns();                                                                     \
    CUresult rc = (call);                                                                          \
    inner_ns += now_ns() - begin;                                                                  \
    return rc

static CUresult timed_alloc(CUdeviceptr *out, size_t bytes) { TIMED(real_alloc(out, bytes)); }
static CUresult timed_free(CUdeviceptr address) { TIMED(real_free(address)); }
static CUresult timed_alloc_async(CUdeviceptr *out, size_t bytes, CUstream stream) {
    TIMED(real_alloc_async(out, bytes, stream));
}
static CUresult timed_free_async(CUdeviceptr address, CUstream stream) {
    TIMED(real_free_async(address, stream));
}
static CUresult timed_create(CUmemGenericAllocationHandle *out, size_t bytes,
                             const CUmemAllocationProp *how, unsigned long long flags) {
    TIMED(real_create(out, bytes, how, flags));
}
static CUresult timed_release(CUmemGenericAllocationHandle handle) { TIMED(real_release(handle)); }

static struct swap {
    const char *name;
    void *timed;
    void **real;
    int found;
} swaps[] = {
    {"cuMemAlloc_v2", (void *)timed_alloc, (void **)&real_alloc, 0},
    {"cuMemFree_v2", (void *)timed_free, (void **)&real_free, 0},
    {"cuMemAllocAsync", (void *)timed_alloc_async, (void **)&real_alloc_async, 0},
    {"cuMemFreeAsync", (void *)timed_free_async, (void **)&real_free_async, 0},
    {"cuMemCreate", (void *)timed_create, (void **)&real_create, 0},
    {"cuMemRelease", (void *)timed_release, (void **)&real_release, 0},
};
#define SWAPS (sizeof swaps / sizeof *swaps)

static bool find_real(const struct vgpu_elf *elf, void *unused) {
    (void)unused;
    if (strcmp(elf->soname, "libcuda.so.1") != 0) return false;
    for (size_t i = 0; i < SWAPS; i++) *swaps[i].real = vgpu_elf_symbol(elf, swaps[i].name);
    return true;
}

/* The shim is the object that the hook lies in; its writable segments hold the table. */
static int swap_in(struct dl_phdr_info *object, size_t size, void *shim) {
    (void)size;
    if ((void *)object->dlpi_addr != shim) return 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_W)) continue;
        /* What is read-only after relocation holds no table of the shim. */
        uintptr_t at = (object->dlpi_addr + segment->p_vaddr + 4095) & ~(uintptr_t)4095;
        uintptr_t end = object->dlpi_addr + segment->p_vaddr + segment->p_memsz;
        for (; at + sizeof(void *) <= end; at += sizeof(void *))
            for (size_t k = 0; k < SWAPS; k++)
                if (*(void **)at == *swaps[k].real) {
                    *(void **)at = swaps[k].timed;
                    swaps[k].found++;
                }
    }
    return 1;
}

/* --- the calls --- */

static const char *what;
static CUstream stream;
static CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                   .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
static typeof(&cuMemAlloc_v2) hook_alloc;
static typeof(&cuMemFree_v2) hook_free;
static typeof(&cuMemAllocAsync) hook_alloc_async;
static typeof(&cuMemFreeAsync) hook_free_async;
static typeof(&cuMemCreate) hook_create;
static typeof(&cuMemRelease) hook_release;
static CUdeviceptr blocks[MOST_LIVE];

static CUresult take(CUdeviceptr *block) {
    if (*what == 'c') return hook_create(block, 2 << 20, &prop, 0);
    return what[1] == 'l' ? hook_alloc(block, 512) : hook_alloc_async(block, 512, stream);
}
static CUresult give(CUdeviceptr block) {
    if (*what == 'c') return hook_release(block);
    return what[1] == 'l' ? hook_free(block) : hook_free_async(block, stream);
}

struct shared {
    int processes, arrived;
    int found;
    uint32_t ns[]; /* process × (takes, gives, the driver in gives) × pairs */
};
static struct shared *shared;

static void start(void) {
    CUcontext context;
    must(((typeof(&cuInit))hooked("cuInit"))(0), "cuInit");
    must(((typeof(&cuDevicePrimaryCtxRetain))hooked("cuDevicePrimaryCtxRetain"))(&context, 0),
         "retain");
    must(cuCtxSetCurrent(context), "set current");
    must(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "stream");
    *(void **)&hook_alloc = hooked("cuMemAlloc_v2");
    *(void **)&hook_free = hooked("cuMemFree_v2");
    *(void **)&hook_alloc_async = hooked("cuMemAllocAsync");
    *(void **)&hook_free_async = hooked("cuMemFreeAsync");
    *(void **)&hook_create = hooked("cuMemCreate");
    *(void **)&hook_release = hooked("cuMemRelease");
}

/* After the first call of each, so that the shim has resolved what it calls. */
static void swap(void) {
    Dl_info info;
    if (!vgpu_elf_each(find_real, NULL)) must(CUDA_ERROR_UNKNOWN, "find the driver");
    if ((void *)hook_alloc == (void *)real_alloc) return;
    if (!dladdr((void *)hook_alloc, &info)) must(CUDA_ERROR_UNKNOWN, "find the shim");
    dl_iterate_phdr(swap_in, info.dli_fbase);
}

static void meet(void) {
    __atomic_add_fetch(&shared->arrived, 1, __ATOMIC_SEQ_CST);
    for (uint64_t end = now_ns() + UINT64_C(60000000000); now_ns() < end; usleep(100))
        if (__atomic_load_n(&shared->arrived, __ATOMIC_SEQ_CST) >= shared->processes) return;
    must(CUDA_ERROR_UNKNOWN, "another process did not come");
}

/* The pointer is read and written outside of what is timed: the program's own cache miss is not
 * ours. */
static uint32_t take_one(uint64_t k) {
    CUdeviceptr block = 0;
    inner_ns = 0;
    uint64_t begin = now_ns();
    must(take(&block), what);
    uint64_t all = now_ns() - begin;
    blocks[k] = block;
    return (uint32_t)(all > inner_ns ? all - inner_ns : 0);
}
static uint32_t give_one(uint64_t k) {
    volatile CUdeviceptr block = blocks[k];
    inner_ns = 0;
    uint64_t begin = now_ns();
    must(give(block), what);
    uint64_t all = now_ns() - begin;
    return (uint32_t)(all > inner_ns ? all - inner_ns : 0);
}

/* Frees and allocates again one of the first `moving` of the live blocks. */
static void measure(int process, int pairs, int live, int moving) {
    uint32_t *takes = shared->ns + (size_t)process * 3 * (size_t)pairs;
    uint32_t *gives = takes + pairs, *natives = gives + pairs;
    uint64_t random = UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)process;
    start();
    for (int k = 0; k < live; k++) must(take(&blocks[k]), what);
    must(give(blocks[0]), what);
    must(take(&blocks[0]), what);
    swap();
    int found = 0;
    const char *names[] = {*what == 'c'     ? "cuMemCreate"
                           : what[1] == 'l' ? "cuMemAlloc_v2"
                                            : "cuMemAllocAsync",
                           *what == 'c'     ? "cuMemRelease"
                           : what[1] == 'l' ? "cuMemFree_v2"
                                            : "cuMemFreeAsync"};
    for (size_t i = 0; i < SWAPS; i++)
        for (int n = 0; n < 2; n++)
            if (strcmp(swaps[i].name, names[n]) == 0 && swaps[i].found) found++;
    if (found == 2) __atomic_add_fetch(&shared->found, 1, __ATOMIC_SEQ_CST);
    meet();
    for (int i = -pairs / 10; i < pairs; i++) { /* the first tenth is for the caches */
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        uint64_t k = random % (uint64_t)moving;
        uint32_t gave = give_one(k), native = (uint32_t)inner_ns, took = take_one(k);
        if (i >= 0) gives[i] = gave, natives[i] = native, takes[i] = took;
    }
}

/* The mean of many, past the shim. */
#define COST(name, ...)                                                                            \
    {                                                                                              \
        typeof(&name) call = (typeof(&name))driver_own(#name);                                     \
        if (!call) must(CUDA_ERROR_UNKNOWN, #name);                                                \
        uint64_t begin = now_ns();                                                                 \
        for (int i = 0; i < 100000; i++) must(call(__VA_ARGS__), #name);                           \
        printf("\"%s\":%.1f,", #name, (double)(now_ns() - begin) / 1e5);                           \
    }

static const char *wanted;
static void *found_own;
static bool find_own(const struct vgpu_elf *elf, void *unused) {
    (void)unused;
    if (strcmp(elf->soname, "libcuda.so.1") == 0) found_own = vgpu_elf_symbol(elf, wanted);
    return found_own != NULL;
}
static void *driver_own(const char *name) {
    wanted = name, found_own = NULL;
    vgpu_elf_each(find_own, NULL);
    return found_own;
}

static int calls(void) {
    CUcontext context;
    CUmemoryPool pool;
    CUdeviceptr block;
    cuuint64_t value;
    CUstreamCaptureStatus status;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    what = "async";
    start();
    must(take(&block), what); /* the pool is in use */
    printf("{");
    COST(cuDeviceGetMemPool, &pool, 0)
    COST(cuMemPoolGetAttribute, pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &value)
    COST(cuThreadExchangeStreamCaptureMode, &mode)
    COST(cuStreamIsCapturing, stream, &status)
    COST(cuStreamGetCtx, stream, &context)
    COST(cuCtxGetCurrent, &context)
    printf("\"hooked\":%s}\n",
           driver_own("cuMemAllocAsync") == hooked("cuMemAllocAsync") ? "false" : "true");
    return 0;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "calls") == 0) return calls();
    int processes = argc > 2 ? atoi(argv[2]) : 0, pairs = argc > 3 ? atoi(argv[3]) : 0;
    int live = argc > 4 ? atoi(argv[4]) : 0, moving = argc > 5 ? atoi(argv[5]) : live;
    if ((strcmp(what, "alloc") && strcmp(what, "async") && strcmp(what, "create")) ||
        processes < 1 || processes > MOST_PROCESSES || pairs < 100 || live < 1 ||
        live > MOST_LIVE || moving < 1 || moving > live)
        return fprintf(stderr, "cost_inside alloc|async|create PROCESSES PAIRS LIVE [MOVING]\n"), 2;
    size_t count = (size_t)processes * (size_t)pairs;
    shared = mmap(NULL, sizeof *shared + 3 * count * sizeof(uint32_t), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 2;
    shared->processes = processes;
    for (int i = 0; i < processes; i++)
        if (fork() == 0) {
            measure(i, pairs, live, moving);
            _exit(0);
        }
    int status, worst = 0;
    while (wait(&status) > 0)
        if (!WIFEXITED(status) || WEXITSTATUS(status)) worst = 1;
    if (worst) return 1;
    uint32_t *sorted[3];
    for (int which = 0; which < 3; which++) {
        if (!(sorted[which] = malloc(count * sizeof(uint32_t)))) return 2;
        for (int i = 0; i < processes; i++)
            memcpy(sorted[which] + (size_t)i * (size_t)pairs,
                   shared->ns + ((size_t)i * 3 + (size_t)which) * (size_t)pairs,
                   (size_t)pairs * sizeof(uint32_t));
        qsort(sorted[which], count, sizeof(uint32_t), by_value);
    }
    const uint32_t *takes = sorted[0], *gives = sorted[1], *natives = sorted[2];
    printf("{\"what\":\"%s\",\"processes\":%d,\"pairs\":%d,\"live\":%d,\"hooked\":%s,"
           "\"take_p50\":%u,\"take_p99\":%u,\"give_p50\":%u,\"give_p99\":%u,\"take_max\":%u,"
           "\"give_max\":%u,\"native_give_p50\":%u}\n",
           what, processes, pairs, live, shared->found == processes ? "true" : "false",
           takes[count / 2], takes[count * 99 / 100], gives[count / 2], gives[count * 99 / 100],
           takes[count - 1], gives[count - 1], natives[count / 2]);
    return 0;
}
