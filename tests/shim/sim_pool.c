/* Stream-ordered pools and graph memory. */
#include "sim_check.h"

static size_t before;
static long long cost(void) { return (long long)before - (long long)check_free(); }

static unsigned long long attribute(CUmemoryPool pool, CUmemPool_attribute which) {
    unsigned long long value = 0;
    MUST(cuMemPoolGetAttribute(pool, which, &value));
    return value;
}
#define RESERVED(pool) attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
#define USED(pool) attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT)

static void default_pool(void) {
    CUmemoryPool pool;
    CUdeviceptr a, b, none = 5;
    MUST(cuDeviceGetDefaultMemPool(&pool, 0));
    CHECK("alloc of 0 is 0", cuMemAllocAsync(&none, 0, NULL) == 0 && none == 0);
    MUST(cuMemAllocAsync(&a, 1, NULL));
    CHECK("1 byte reserves 32 MiB", RESERVED(pool) == 32 * MIB && cost() == (long long)(32 * MIB));
    MUST(cuMemAllocAsync(&b, 100 * MIB, NULL));
    CHECK("100 MiB more: 128 MiB", RESERVED(pool) == 128 * MIB && USED(pool) == 100 * MIB + 1);
    MUST(cuMemFreeAsync(b, NULL));
    CHECK("free keeps the reserve", RESERVED(pool) == 128 * MIB && USED(pool) == 1);
    MUST(cuStreamSynchronize(NULL));
    CHECK("a sync gives it back", RESERVED(pool) == 32 * MIB && cost() == (long long)(32 * MIB));
    unsigned long long keep = ~0ULL;
    MUST(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
    MUST(cuMemAllocAsync(&b, 100 * MIB, NULL));
    MUST(cuMemFreeAsync(b, NULL));
    MUST(cuCtxSynchronize());
    CHECK("a threshold keeps it", RESERVED(pool) == 128 * MIB);
    MUST(cuMemPoolTrimTo(pool, 0));
    CHECK("until it is trimmed", RESERVED(pool) == 32 * MIB);
    MUST(cuMemFree_v2(a));
    CHECK("cuMemFree takes pool pointers", USED(pool) == 0);
    MUST(cuMemPoolTrimTo(pool, 0));
    CHECK("nothing left",
          cost() == 0 && attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) == 128 * MIB);
    CHECK("more than the card has is 2", cuMemAllocAsync(&a, 200ULL << 30, NULL) == 2);
}

static void own_pool(void) {
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                            .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
                            .maxSize = 64 * MIB};
    CUmemoryPool pool;
    CUdeviceptr a, b;
    MUST(cuMemPoolCreate(&pool, &props));
    CHECK("a pool is empty", cost() == 0);
    MUST(cuMemAllocFromPoolAsync(&a, 40 * MIB, pool, NULL));
    CHECK("40 MiB reserve 64", RESERVED(pool) == 64 * MIB);
    CHECK("maxSize holds", cuMemAllocFromPoolAsync(&b, 65 * MIB, pool, NULL) == 2);
    MUST(cuMemPoolDestroy(pool));
    CHECK("destroyed with a live block: still backed", cost() == (long long)(64 * MIB));
    MUST(cuMemFreeAsync(a, NULL));
    MUST(cuCtxSynchronize());
    CHECK("its last free ends it", cost() == 0);
}

static void many(void) {
    enum { N = 2000 };
    static CUdeviceptr p[N];
    unsigned int seed = 1, wrong = 0;
    for (int round = 0; round < 5; round++)
        for (int i = 0; i < N; i++) {
            if (p[i]) MUST(cuMemFreeAsync(p[i], NULL));
            seed = seed * 1103515245 + 12345;
            size_t size = 1 + (seed >> 8) % 200000;
            MUST(cuMemAllocAsync(&p[i], size, NULL));
            wrong += p[i] % 512 != 0;
        }
    for (int i = 0; i < N; i++) MUST(cuMemFreeAsync(p[i], NULL));
    MUST(cuCtxSynchronize());
    CUmemoryPool pool;
    MUST(cuDeviceGetDefaultMemPool(&pool, 0));
    MUST(cuMemPoolTrimTo(pool, 0));
    CHECK("10000 allocations come and go", !wrong && cost() == 0 && USED(pool) == 0);
}

static void graph_memory(void) {
    CUgraph graph;
    CUgraphNode alloc, release;
    CUgraphExec exec;
    unsigned long long reserved;
    CUDA_MEM_ALLOC_NODE_PARAMS params = {
        .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}},
        .bytesize = 64 * MIB};
    MUST(cuGraphCreate(&graph, 0));
    MUST(cuGraphAddMemAllocNode(&alloc, graph, NULL, 0, &params));
    MUST(cuGraphAddMemFreeNode(&release, graph, &alloc, 1, params.dptr));
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK("add and instantiate cost nothing", params.dptr && cost() == 0);
    MUST(cuGraphLaunch(exec, NULL));
    MUST(cuCtxSynchronize());
    MUST(cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved));
    CHECK("the first launch reserves", reserved == 64 * MIB && cost() == (long long)(64 * MIB));
    MUST(cuGraphLaunch(exec, NULL));
    MUST(cuCtxSynchronize());
    MUST(cuGraphExecDestroy(exec));
    CHECK("it stays after the graph", cost() == (long long)(64 * MIB));
    MUST(cuDeviceGraphMemTrim(0));
    CHECK("until it is trimmed", cost() == 0);
    MUST(cuGraphDestroy(graph));
}

int main(void) {
    check_start();
    check_context();
    before = check_free();
    default_pool();
    own_pool();
    many();
    graph_memory();
    return check_failed;
}
