/* Every allocation path through the shim on the simulated GPU: what is charged, refused, given
 * back. Run by memory_run.sh with a limit of 4 GiB and contexts of 518 MiB. */
#include "memory_driver.h"

#include <pthread.h>
#include <sys/wait.h>

#include "../../shim/overhead.h"

#define LIMIT (4 * GiB)
#define CONTEXT (518 * MiB)

static struct vgpu_region *region;
static CUcontext primary;

static void works(CUresult rc, const char *name) { equal((uint64_t)rc, 0, name); }
/* Beside the bytes the context keeps what its streams cost, destroyed ones too. */
static void holds(uint64_t bytes, const char *name) {
    uint64_t got = charged(region), streams = got - CONTEXT - bytes;
    bool is_cost = streams % (2 * MiB) == VGPU_STREAM_SPARE && streams <= 16 * VGPU_STREAM_BYTES;
    check(streams == 0 || is_cost, name, got, CONTEXT + bytes);
}

static void start(void) {
    size_t total;
    unsigned total_v1;
    works(cuInit(0), "cuInit");
    works(cuDeviceTotalMem_v2(&total, 0), "cuDeviceTotalMem_v2");
    equal(total, LIMIT, "total is the limit");
    works(cuDeviceTotalMem(&total_v1, 0), "cuDeviceTotalMem v1");
    equal(total_v1, UINT32_MAX, "v1 saturates");
    equal(charged(region), 0, "nothing is charged before a context");
    works(cuDevicePrimaryCtxRetain(&primary, 0), "retain");
    holds(0, "the context is charged");
    CUcontext again;
    works(cuDevicePrimaryCtxRetain(&again, 0), "retain again");
    holds(0, "once");
    works(cuDevicePrimaryCtxRelease_v2(0), "release 2 -> 1");
    holds(0, "still there");
    works(cuCtxSetCurrent(primary), "set current");
}

static void queries(void) {
    size_t left = 1, total = 1;
    works(cuMemGetInfo_v2(&left, &total), "cuMemGetInfo_v2");
    equal(total, LIMIT, "total is the limit");
    equal(left, LIMIT - CONTEXT, "free is what is left");
    works(cuDeviceTotalMem_v2(&total, 0), "cuDeviceTotalMem_v2");
    equal(total, LIMIT, "is the limit");
    equal(cuMemGetInfo_v2(NULL, &total), REAL_FUNCTION(cuMemGetInfo_v2)(NULL, &total),
          "no place for an answer: the driver's answer");
    region->devices[0].mem_limit = 100 * MiB;
    works(cuMemGetInfo_v2(&left, &total), "limit lowered below use");
    equal(left, 0, "free is 0");
    equal(total, 100 * MiB, "total follows");
    CUdeviceptr p;
    equal(cuMemAlloc_v2(&p, 1), CUDA_ERROR_OUT_OF_MEMORY, "and nothing is granted");
    region->devices[0].mem_limit = VGPU_NO_LIMIT;
    works(cuMemGetInfo_v2(&left, &total), "no limit");
    check(total > LIMIT, "shows the card", total, 0);
    works(cuDeviceTotalMem_v2(&total, 0), "cuDeviceTotalMem_v2");
    check(total > LIMIT, "too", total, 0);
    region->devices[0].mem_limit = LIMIT;
}

static void plain(void) {
    CUdeviceptr a, b, c = 77;
    size_t pitch;
    works(cuMemAlloc_v2(&a, 65536), "64 KiB");
    holds(2 * MiB, "takes a block");
    works(cuMemAlloc_v2(&b, 65536), "64 KiB more");
    holds(2 * MiB, "in the same block");
    works(cuMemFree_v2(a), "free");
    holds(2 * MiB, "the block stays");
    works(cuMemFree_v2(b), "free");
    holds(0, "the block goes");
    works(cuMemAlloc_v2(&a, 3 * MiB), "3 MiB");
    holds(4 * MiB, "takes 4");
    works(cuMemFree_v2(a), "free");
    holds(0, "gone");
    equal(cuMemAlloc_v2(&c, 0), CUDA_ERROR_INVALID_VALUE, "0 bytes: the driver's answer");
    works(cuMemFree_v2(0), "free of 0: the driver's answer");
    equal(cuMemFree_v2(0xdead0000), CUDA_ERROR_INVALID_VALUE,
          "unknown pointer: the driver's answer");
    equal(cuMemFree_v2(a), CUDA_ERROR_INVALID_VALUE, "double free: the driver's answer");
    holds(0, "and no refund");
    works(cuMemAllocPitch_v2(&a, &pitch, 1000, 20000, 4), "pitch");
    equal(pitch, 1024, "padded");
    holds(20 * MiB, "by the real pitch");
    works(cuMemFree_v2(a), "free");
    works(cuMemAllocPitch_v2(&a, &pitch, 4, 8192, 4), "narrow rows");
    holds((pitch * 8192 + 2 * MiB - 1) / (2 * MiB) * 2 * MiB, "cost their pitch");
    works(cuMemFree_v2(a), "free");
    works(cuMemAllocManaged(&a, 100 * MiB + 1, CU_MEM_ATTACH_GLOBAL), "managed");
    holds(100 * MiB + 1, "in full at the call");
    works(cuMemFree_v2(a), "free");
    holds(0, "all back");
}

/* Up to the limit and not one step further; the event tells what happened. */
static void full(void) {
    CUdeviceptr p[64], untouched = 77;
    int n = 0;
    uint64_t head = region->header.ring_head, denials = region->devices[0].denials;
    CUresult rc;
    while (n < 64 && (rc = cuMemAlloc_v2(&p[n], 256 * MiB)) == CUDA_SUCCESS) n++;
    equal(rc, CUDA_ERROR_OUT_OF_MEMORY, "refused with code 2");
    check(LIMIT - charged(region) < 256 * MiB, "not before it is full", charged(region), LIMIT);
    equal(cuMemAlloc_v2(&untouched, 256 * MiB), CUDA_ERROR_OUT_OF_MEMORY, "again");
    equal(untouched, 77, "the output is not touched");
    equal(region->devices[0].denials - denials, 2, "denials are counted");
    const struct vgpu_record *record = &region->ring[head % VGPU_RING_RECORDS];
    equal(record->kind, VGPU_EVENT_MEMORY_DENIED, "an event is published");
    check(strcmp(record->api, "cuMemAlloc_v2") == 0, "with the API", 0, 0);
    equal(record->value[0], 256 * MiB, "what was asked");
    equal(record->value[1], charged(region), "what was used");
    equal(record->value[2], LIMIT, "the limit");
    equal(record->pid, (uint64_t)getpid(), "the process");
    void *host;
    works(cuMemHostAlloc(&host, 64 * MiB, 0), "host memory is none of its business");
    works(cuMemFreeHost(host), "free");
    CUcontext extra = (CUcontext)77;
    equal(cuCtxCreate_v2(&extra, 0, 0), CUDA_ERROR_OUT_OF_MEMORY, "a context does not fit either");
    check(extra == (CUcontext)77, "output not touched", 0, 0);
    record = &region->ring[(region->header.ring_head - 1) % VGPU_RING_RECORDS];
    equal(record->value[3], CONTEXT, "and its event names the context's size");
    while (n) works(cuMemFree_v2(p[--n]), "free");
    holds(0, "all back");
}

/* A pool that keeps its memory, full and in pieces: its free bytes would do, as they lie they do
 * not. */
static void pool_in_pieces(void) {
    CUmemPoolProps properties = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    cuuint64_t threshold = UINT64_MAX, used = 0, most = 0;
    uint64_t others = charged(region);
    CUdeviceptr p[256] = {0}, whole;
    CUmemoryPool pool;
    int n = 0;
    works(cuMemPoolCreate(&pool, &properties), "a pool");
    works(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold), "keeps all");
    while (n < 256 && cuMemAllocFromPoolAsync(&p[n], 24 * MiB, pool, NULL) == CUDA_SUCCESS) n++;
    check(n > 100 && n < 256, "filled", (uint64_t)n, 140);
    for (int i = 0; i < n; i += 2) works(cuMemFreeAsync(p[i], NULL), "every other piece freed");
    works(cuStreamSynchronize(NULL), "synchronise");
    works(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used), "used");
    check(charged(region) - others - used > GiB, "1 GiB of it is free", used, 0);
    equal(cuMemAllocFromPoolAsync(&whole, GiB, pool, NULL), CUDA_ERROR_OUT_OF_MEMORY, "refused");
    works(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &most),
          "the pool at most");
    check(others + most <= LIMIT, "never over the limit on the way", others + most, LIMIT);
    for (int i = 1; i < n; i += 2) works(cuMemFreeAsync(p[i], NULL), "the rest freed");
    works(cuMemAllocFromPoolAsync(&whole, 2 * GiB, pool, NULL), "whole again: the pool makes room");
    works(cuMemFreeAsync(whole, NULL), "free");
    works(cuMemPoolDestroy(pool), "destroyed");
    works(cuStreamSynchronize(NULL), "synchronise");
    equal(charged(region), others, "all back");
}

static void async(void) {
    CUstream stream;
    CUdeviceptr a, b;
    CUmemoryPool pool;
    cuuint64_t threshold = UINT64_MAX;
    works(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "stream");
    works(cuMemAllocAsync(&a, 1, stream), "1 byte");
    holds(32 * MiB, "grows the pool by 32 MiB");
    works(cuMemAllocAsync(&b, 100 * MiB, stream), "100 MiB");
    holds(128 * MiB, "to 128 MiB");
    works(cuMemFreeAsync(a, stream), "free");
    works(cuMemFreeAsync(b, stream), "free");
    works(cuStreamSynchronize(stream), "synchronise");
    holds(0, "the pool gave it back");

    works(cuDeviceGetDefaultMemPool(&pool, 0), "default pool");
    works(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold), "threshold");
    works(cuMemAllocAsync(&a, 40 * MiB, stream), "40 MiB");
    works(cuMemFreeAsync(a, stream), "free");
    works(cuStreamSynchronize(stream), "synchronise");
    holds(64 * MiB, "a pool that keeps memory is charged for it");
    works(cuMemAllocAsync(&a, 40 * MiB, stream), "again");
    holds(64 * MiB, "no growth");
    works(cuMemFree_v2(a), "cuMemFree of an async pointer");
    works(cuMemPoolTrimTo(pool, 0), "trim");
    holds(0, "trimmed");
    threshold = 0;
    works(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold), "threshold");

    CUmemPoolProps properties = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    works(cuMemPoolCreate(&pool, &properties), "own pool");
    works(cuMemAllocFromPoolAsync(&a, 40 * MiB, pool, stream), "40 MiB from it");
    holds(64 * MiB, "64 MiB");
    works(cuMemPoolDestroy(pool), "destroyed with a live block");
    holds(64 * MiB, "which keeps its memory");
    works(cuMemFreeAsync(a, stream), "the block goes");
    works(cuStreamSynchronize(stream), "synchronise");
    holds(0, "and the memory with it");

    works(cuMemAlloc_v2(&a, 3 * MiB), "plain");
    works(cuMemFreeAsync(a, stream), "freed in stream order");
    works(cuStreamSynchronize(stream), "synchronise");
    holds(0, "gone");

    int n = 0;
    static CUdeviceptr p[256];
    CUresult rc;
    while (n < 256 && (rc = cuMemAllocAsync(&p[n], 32 * MiB, stream)) == CUDA_SUCCESS) n++;
    equal(rc, CUDA_ERROR_OUT_OF_MEMORY, "a full session refuses async memory with 2");
    check(LIMIT - charged(region) < 32 * MiB, "not before it is full", charged(region), LIMIT);
    check(charged(region) <= LIMIT, "and not after", charged(region), LIMIT);
    while (n) cuMemFreeAsync(p[--n], stream);
    works(cuCtxSynchronize(), "synchronise the context");
    holds(0, "all back");

    CUgraph graph;
    works(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), "capture");
    works(cuMemAllocAsync(&a, 64 * MiB, stream), "captured allocation");
    holds(0, "takes nothing");
    works(cuMemFreeAsync(a, stream), "captured free");
    works(cuStreamEndCapture(stream, &graph), "the capture is valid");
    cuGraphDestroy(graph);
    works(cuStreamDestroy_v2(stream), "destroy");
}

static void virtual_memory(void) {
    CUmemGenericAllocationHandle handle, second;
    CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUdeviceptr at;
    works(cuMemAddressReserve(&at, 64 * MiB, 0, 0, 0), "reserve addresses");
    holds(0, "free of charge");
    works(cuMemCreate(&handle, 20 * MiB, &properties, 0), "create");
    holds(20 * MiB, "charged");
    works(cuMemMap(at, 20 * MiB, 0, handle, 0), "map");
    works(cuMemRelease(handle), "release");
    holds(20 * MiB, "mapped memory stays");
    works(cuMemRetainAllocationHandle(&second, (void *)(uintptr_t)at), "retain by address");
    works(cuMemUnmap(at, 20 * MiB), "unmap");
    holds(20 * MiB, "the retained handle keeps it");
    works(cuMemRelease(second), "release");
    holds(0, "gone");
    equal(cuMemCreate(&handle, 1 * MiB + 1, &properties, 0), CUDA_ERROR_INVALID_VALUE,
          "bad granularity: the driver's answer");
    holds(0, "refunded");
    equal(cuMemCreate(&handle, 8 * GiB, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY, "too much");
    properties.location.type = CU_MEM_LOCATION_TYPE_HOST;
    if (cuMemCreate(&handle, 20 * MiB, &properties, 0) == CUDA_SUCCESS) {
        holds(0, "host memory is free of charge");
        works(cuMemRelease(handle), "release");
    }
    works(cuMemAddressFree(at, 64 * MiB), "free addresses");
}

static void contexts(void) {
    CUcontext extra, popped;
    CUdeviceptr a, b;
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    works(cuMemAlloc_v2(&a, 3 * MiB), "3 MiB in the primary context");
    works(cuCtxCreate_v2(&extra, 0, 0), "a second context");
    holds(CONTEXT + 4 * MiB, "costs as much as the first");
    works(cuMemAlloc_v2(&b, 10 * MiB), "10 MiB in it");
    for (int i = 0; i < 10; i++) works(cuMemAlloc_v2(&b, 1000), "a piece in it");
    works(cuMemCreate(&handle, 20 * MiB, &properties, 0), "virtual memory");
    holds(CONTEXT + 36 * MiB, "all charged");
    works(cuCtxDestroy_v2(extra), "destroy it");
    holds(24 * MiB, "its own allocations go, virtual memory stays");
    works(cuMemRelease(handle), "release");
    equal(cuMemFree_v2(b), CUDA_ERROR_INVALID_VALUE, "its pointers are dead");
    holds(4 * MiB, "and refund nothing");

    cuCtxPopCurrent_v2(&popped);
    works(cuCtxSetCurrent(NULL), "no current context");
    works(cuMemFree_v2(a), "a free works without one");
    holds(0, "refunded");
    works(cuCtxSetCurrent(primary), "back");

    works(cuMemAlloc_v2(&a, 3 * MiB), "3 MiB");
    works(cuMemCreate(&handle, 20 * MiB, &properties, 0), "virtual memory");
    works(cuDevicePrimaryCtxReset_v2(0), "reset");
    equal(charged(region), 20 * MiB, "context and allocation go, virtual memory stays");
    works(cuMemRelease(handle), "release");
    works(cuDevicePrimaryCtxRetain(&primary, 0), "retain anew");
    works(cuCtxSetCurrent(primary), "set current");
    holds(0, "charged anew");
}

/* The runtime's way: the primary context comes to be without any call that we see. */
static void behind_our_back(void) {
    works(cuCtxSetCurrent(NULL), "no current context");
    works(cuDevicePrimaryCtxReset_v2(0), "reset");
    equal(charged(region), 0, "nothing charged");
    works(REAL_FUNCTION(cuDevicePrimaryCtxRetain)(&primary, 0), "retained past the shim");
    equal(charged(region), 0, "unseen");
    region->devices[0].mem_limit = 100 * MiB;
    equal(cuCtxSetCurrent(primary), CUDA_ERROR_OUT_OF_MEMORY, "refused where it does not fit");
    CUcontext current = (CUcontext)77;
    cuCtxGetCurrent(&current);
    check(current == NULL, "the old one stays current", 0, 0);
    equal(cuCtxPushCurrent_v2(primary), CUDA_ERROR_OUT_OF_MEMORY, "push is refused too");
    region->devices[0].mem_limit = LIMIT;
    works(cuCtxSetCurrent(primary), "set current");
    holds(0, "charged when first seen");
    works(cuDevicePrimaryCtxRelease_v2(0), "released");
    equal(charged(region), 0, "and refunded");
    works(cuCtxSetCurrent(NULL), "no current context");
    region->devices[0].mem_limit = 100 * MiB;
    equal(cuDevicePrimaryCtxRetain(&primary, 0), CUDA_ERROR_OUT_OF_MEMORY, "retain refused");
    equal(charged(region), 0, "without a trace");
    region->devices[0].mem_limit = LIMIT;
    works(cuDevicePrimaryCtxRetain(&primary, 0), "retain anew");
    works(cuCtxSetCurrent(primary), "set current");
    holds(0, "charged anew");
}

static void *random_paths(void *unused) {
    CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUdeviceptr p[16] = {0};
    CUmemGenericAllocationHandle h[16] = {0};
    CUstream stream;
    (void)unused;
    cuCtxSetCurrent(primary);
    cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < 4000; i++) {
        uint64_t k = random_below(16), bytes = (random_below(200) + 1) * MiB / 10;
        if (p[k] && random_below(2)) cuMemFree_v2(p[k]);
        else if (p[k]) cuMemFreeAsync(p[k], stream);
        p[k] = 0;
        if (h[k]) cuMemRelease(h[k]);
        h[k] = 0;
        switch (random_below(4)) {
        case 0:
            if (cuMemAlloc_v2(&p[k], bytes)) p[k] = 0;
            break;
        case 1:
            if (cuMemAllocAsync(&p[k], bytes, stream)) p[k] = 0;
            break;
        case 2:
            if (cuMemCreate(&h[k], bytes / (2 * MiB) * 2 * MiB, &properties, 0)) h[k] = 0;
            break;
        default:
            if (cuMemAllocManaged(&p[k], bytes, 1)) p[k] = 0;
            break;
        }
        if (i % 64 == 0) cuStreamSynchronize(stream);
    }
    for (int k = 0; k < 16; k++) {
        if (p[k]) cuMemFree_v2(p[k]);
        if (h[k]) cuMemRelease(h[k]);
    }
    cuStreamSynchronize(stream);
    cuStreamDestroy_v2(stream);
    return NULL;
}

static void threads(void) {
    pthread_t thread[8];
    region->devices[0].peak_bytes = 0;
    for (int i = 0; i < 8; i++) pthread_create(&thread[i], NULL, random_paths, NULL);
    for (int i = 0; i < 8; i++) pthread_join(thread[i], NULL);
    works(cuCtxSynchronize(), "synchronise");
    holds(0, "8 threads of random paths: nothing left");
    check(region->devices[0].peak_bytes <= LIMIT, "never over", region->devices[0].peak_bytes,
          LIMIT);
}

static void forked(void) {
    CUdeviceptr p;
    works(cuMemAlloc_v2(&p, 10 * MiB), "10 MiB");
    pid_t child = fork();
    if (child == 0) {
        CUdeviceptr q;
        bool refused = cuMemAlloc_v2(&q, MiB) != CUDA_SUCCESS;
        cuMemFree_v2(p);
        _exit(refused ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    equal((uint64_t)status, 0, "a forked child has no context");
    vgpu_slot_reap(region);
    holds(10 * MiB, "and owns nothing of its parent's");
    works(cuMemFree_v2(p), "free");
    holds(0, "gone");
}

int main(void) {
    region = session_region();
    start();
    queries();
    plain();
    full();
    async();
    pool_in_pieces();
    virtual_memory();
    contexts();
    behind_our_back();
    threads();
    forked();
    works(cuDevicePrimaryCtxRelease_v2(0), "release 1 -> 0");
    equal(charged(region), 0, "nothing is left");
    return failures != 0;
}
