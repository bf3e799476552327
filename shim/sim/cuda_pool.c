/* Stream-ordered memory: a pool has a wide stretch of addresses and backs it in steps of 32 MiB
 * (measured: 1 byte takes 32 MiB, 100 MiB more 128 in all). What nothing lives in goes back to the
 * card at the next synchronisation, down to the pool's threshold. Order between streams needs no
 * care: this process's work runs in the order of submission. */
#include <search.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cuda_sim.h"

#define STEP ((size_t)(32 * SIM_MIB))
#define UNIT ((size_t)512)

/* A stretch of the pool's addresses, used or free; neighbours in a list, used ones also in a tree,
 * free ones in a list. */
struct extent {
    struct extent *left, *right, *free_left, *free_right;
    size_t offset, size, asked; /* asked is 0 = free */
};

static void *used_tree;
struct used {
    uintptr_t start;
    size_t size;
    struct extent *extent;
};

static int compare(const void *left, const void *right) {
    const struct used *a = left, *b = right;
    if (a->start + a->size <= b->start) return -1;
    return b->start + b->size <= a->start;
}

static void free_push(struct pool *pool, struct extent *extent) {
    extent->asked = 0;
    extent->free_left = NULL;
    extent->free_right = pool->free;
    if (pool->free) pool->free->free_left = extent;
    pool->free = extent;
}

static void free_pull(struct pool *pool, struct extent *extent) {
    if (extent->free_left) extent->free_left->free_right = extent->free_right;
    else pool->free = extent->free_right;
    if (extent->free_right) extent->free_right->free_left = extent->free_left;
}

static bool pool_open(struct pool *pool) {
    if (pool->range) return true;
    size_t size = (2 * sim_model()->total + STEP - 1) & ~(STEP - 1);
    void *pages = pages_new(size);
    if (!pages) return false;
    pool->granules = size / STEP;
    pool->granule_users = calloc(pool->granules, sizeof *pool->granule_users);
    pool->granule_backed = calloc(pool->granules, 1);
    struct extent *all = calloc(1, sizeof *all);
    pool->range = range_add((uintptr_t)pages, size, RANGE_POOL);
    if (!pool->granule_users || !pool->granule_backed || !all || !pool->range) return false;
    pool->range->pool = pool;
    pool->range->device = pool->device;
    all->size = size;
    pool->extents = all;
    free_push(pool, all);
    return true;
}

static size_t unbacked(const struct pool *pool, size_t offset, size_t size) {
    size_t count = 0;
    for (size_t i = offset / STEP; i <= (offset + size - 1) / STEP; i++)
        count += !pool->granule_backed[i];
    return count;
}

static struct extent *best_fit(const struct pool *pool, size_t size, size_t *steps) {
    struct extent *best = NULL;
    for (struct extent *extent = pool->free; extent; extent = extent->free_right) {
        if (extent->size < size) continue;
        size_t need = unbacked(pool, extent->offset, size);
        if (best && (need > *steps || (need == *steps && extent->offset > best->offset))) continue;
        best = extent;
        *steps = need;
        if (!need && size <= 65536) break; /* small ones: any place that costs nothing */
    }
    return best;
}

static void release(struct pool *pool, uint64_t keep) {
    size_t given = 0;
    for (size_t i = pool->granules; i-- && pool->reserved > keep;)
        if (pool->granule_backed[i] && !pool->granule_users[i]) {
            pool->granule_backed[i] = 0;
            pool->reserved -= STEP;
            given += STEP;
            madvise((void *)(pool->range->start + i * STEP), STEP, MADV_DONTNEED);
        }
    if (given && !pool->host)
        sim_give(sim_process.slot, sim_process.device[pool->device].card, given, 0);
}

void pool_release_unused(int number) {
    struct device *device = &sim_process.device[number];
    if (device->default_pool && device->default_pool->reserved > device->default_pool->threshold)
        release(device->default_pool, device->default_pool->threshold);
    for (size_t i = 0; i < sizeof device->pools / sizeof *device->pools; i++)
        if (device->pools[i] && device->pools[i]->reserved > device->pools[i]->threshold)
            release(device->pools[i], device->pools[i]->threshold);
}

static CUresult back(struct pool *pool, size_t steps) {
    uint64_t bytes = steps * STEP;
    uint64_t limit = (pool->max_size + STEP - 1) / STEP * STEP;
    if (pool->max_size && pool->reserved + bytes > limit) return CUDA_ERROR_OUT_OF_MEMORY;
    if (!pool->host && bytes &&
        !sim_take(sim_process.slot, sim_process.device[pool->device].card, bytes, 0))
        return CUDA_ERROR_OUT_OF_MEMORY;
    pool->reserved += bytes;
    if (pool->reserved > pool->reserved_high) pool->reserved_high = pool->reserved;
    return CUDA_SUCCESS;
}

CUresult pool_alloc(struct pool *pool, size_t bytes, CUdeviceptr *pointer) {
    size_t size = (bytes + UNIT - 1) & ~(UNIT - 1), steps = 0;
    if (size < bytes || !pool_open(pool)) return CUDA_ERROR_OUT_OF_MEMORY;
    struct extent *extent = best_fit(pool, size, &steps);
    if (!extent) return CUDA_ERROR_OUT_OF_MEMORY;
    if (back(pool, steps)) {
        /* Unused steps elsewhere in the pool are the first to go. */
        release(pool, 0);
        steps = 0;
        extent = best_fit(pool, size, &steps);
        if (!extent || back(pool, steps)) return CUDA_ERROR_OUT_OF_MEMORY;
    }
    struct used *used = malloc(sizeof *used);
    struct extent *rest = extent->size > size ? calloc(1, sizeof *rest) : NULL;
    if (!used || (extent->size > size && !rest)) abort();
    free_pull(pool, extent);
    if (rest) {
        *rest = (struct extent){.left = extent,
                                .right = extent->right,
                                .offset = extent->offset + size,
                                .size = extent->size - size};
        if (rest->right) rest->right->left = rest;
        extent->right = rest;
        extent->size = size;
        free_push(pool, rest);
    }
    extent->asked = bytes;
    for (size_t i = extent->offset / STEP; i <= (extent->offset + size - 1) / STEP; i++) {
        pool->granule_users[i]++;
        pool->granule_backed[i] = 1;
    }
    *used = (struct used){pool->range->start + extent->offset, size, extent};
    tsearch(used, &used_tree, compare);
    pool->live++;
    pool->used += bytes;
    if (pool->used > pool->used_high) pool->used_high = pool->used;
    *pointer = used->start;
    return CUDA_SUCCESS;
}

static struct used *used_find(uintptr_t address) {
    struct used key = {.start = address, .size = 1};
    struct used **slot = tfind(&key, &used_tree, compare);
    return slot ? *slot : NULL;
}

bool pool_piece(struct range *range, uintptr_t address, struct piece *piece) {
    const struct used *used = used_find(address);
    if (!used) return false;
    *piece = (struct piece){range, used->start, used->extent->asked};
    return true;
}

static void pool_end(struct pool *pool) {
    release(pool, 0);
    if (pool->range) {
        for (struct extent *extent = pool->extents, *right; extent; extent = right) {
            right = extent->right;
            free(extent);
        }
        pages_drop(pool->range->start, pool->range->size);
        range_remove(pool->range);
    }
    free(pool->granule_users);
    free(pool->granule_backed);
    object_drop(pool);
}

static void absorb_right(struct pool *pool, struct extent *extent) {
    struct extent *right = extent->right;
    if (!right || right->asked) return;
    free_pull(pool, right);
    extent->size += right->size;
    extent->right = right->right;
    if (extent->right) extent->right->left = extent;
    free(right);
}

CUresult pool_free(struct range *range, uintptr_t pointer) {
    struct pool *pool = range->pool;
    struct used *used = used_find(pointer);
    if (!used || used->start != pointer) return CUDA_ERROR_INVALID_VALUE;
    struct extent *extent = used->extent;
    tdelete(used, &used_tree, compare);
    free(used);
    pool->used -= extent->asked;
    pool->live--;
    for (size_t i = extent->offset / STEP; i <= (extent->offset + extent->size - 1) / STEP; i++)
        pool->granule_users[i]--;
    extent->asked = 0;
    absorb_right(pool, extent);
    if (extent->left && !extent->left->asked) {
        extent = extent->left;
        free_pull(pool, extent);
        extent->size += extent->right->size;
        struct extent *gone = extent->right;
        extent->right = gone->right;
        if (extent->right) extent->right->left = extent;
        free(gone);
    }
    free_push(pool, extent);
    if (pool->gone && !pool->live) pool_end(pool);
    return CUDA_SUCCESS;
}

/* --- pools as objects --- */

static struct pool *pool_new(int device) {
    struct pool *pool = object_new(SIM_POOL, sizeof *pool);
    if (!pool) return NULL;
    pool->device = device;
    for (int i = 1; i <= 3; i++) pool->reuse[i] = 1;
    return pool;
}

struct pool *pool_default(int number) {
    struct device *device = &sim_process.device[number];
    if (!device->default_pool) device->pool = device->default_pool = pool_new(number);
    return device->default_pool;
}

API CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *props) {
    SIM_ENTER();
    if (!out || !props || props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    bool host = props->location.type == CU_MEM_LOCATION_TYPE_HOST ||
                props->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
                props->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
    if (!host &&
        (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE || device_valid(props->location.id)))
        return CUDA_ERROR_INVALID_VALUE;
    struct device *device = &sim_process.device[host ? 0 : props->location.id];
    size_t slot = 0, slots = sizeof device->pools / sizeof *device->pools;
    while (slot < slots && device->pools[slot]) slot++;
    struct pool *pool = slot < slots ? pool_new(host ? 0 : props->location.id) : NULL;
    if (!pool) return CUDA_ERROR_OUT_OF_MEMORY;
    device->pools[slot] = pool;
    pool->host = host;
    pool->max_size = props->maxSize;
    pool->handles = props->handleTypes;
    *out = (CUmemoryPool)pool;
    return CUDA_SUCCESS;
}

API CUresult cuMemPoolDestroy(CUmemoryPool handle) {
    SIM_ENTER();
    if (!object_is(handle, SIM_POOL)) return CUDA_ERROR_INVALID_VALUE;
    struct pool *pool = (struct pool *)handle;
    struct device *device = &sim_process.device[pool->device];
    if (pool == device->default_pool) return CUDA_ERROR_INVALID_VALUE;
    if (device->pool == pool) device->pool = pool_default(pool->device);
    for (size_t i = 0; i < sizeof device->pools / sizeof *device->pools; i++)
        if (device->pools[i] == pool) device->pools[i] = NULL;
    pool->gone = true;
    if (!pool->live) pool_end(pool);
    return CUDA_SUCCESS;
}

API CUresult cuMemPoolTrimTo(CUmemoryPool handle, size_t keep) {
    SIM_ENTER();
    if (!object_is(handle, SIM_POOL)) return CUDA_ERROR_INVALID_VALUE;
    CHECK(capture_unsafe());
    struct pool *pool = (struct pool *)handle;
    device_look(pool->device);
    release(pool, keep);
    return CUDA_SUCCESS;
}
