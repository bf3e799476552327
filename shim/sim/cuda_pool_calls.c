/* The entry points of stream-ordered memory: allocating, freeing, attributes. */
#include "cuda_sim.h"

static CUresult pool_find(CUmemoryPool handle, struct pool **pool) {
    if (!object_is(handle, SIM_POOL)) return CUDA_ERROR_INVALID_VALUE;
    *pool = (struct pool *)handle;
    return (*pool)->gone ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* On a capturing stream the call becomes a node of the graph, and the graph's memory serves it. */
static CUresult captured_alloc(struct stream *stream, CUdeviceptr *pointer, size_t bytes) {
    struct node *node;
    CHECK(capture_node(stream, CU_GRAPH_NODE_TYPE_MEM_ALLOC, &node));
    return graph_alloc(stream->context->device, bytes, node, pointer);
}

static CUresult alloc_async(CUdeviceptr *pointer, size_t bytes, CUmemoryPool handle, bool from_pool,
                            CUstream stream_handle, bool per_thread) {
    SIM_ENTER();
    struct stream *stream;
    struct pool *pool;
    if (!pointer) return CUDA_ERROR_INVALID_VALUE;
    CHECK(stream_find(stream_handle, per_thread, &stream));
    if (!bytes) {
        *pointer = 0;
        return CUDA_SUCCESS;
    }
    if (from_pool) CHECK(pool_find(handle, &pool));
    if (stream_capturing(stream)) return captured_alloc(stream, pointer, bytes);
    CHECK(capture_unsafe());
    if (!from_pool) {
        pool_default(stream->context->device);
        pool = context_device(stream->context)->pool;
    }
    device_look(stream->context->device); /* frees that have come due */
    return pool_alloc(pool, bytes, pointer);
}
API CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream) {
    return alloc_async(pointer, bytes, NULL, false, stream, false);
}
API CUresult cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUstream stream) {
    return alloc_async(pointer, bytes, NULL, false, stream, true);
}
API CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool,
                                     CUstream stream) {
    return alloc_async(pointer, bytes, pool, true, stream, false);
}
API CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool,
                                          CUstream stream) {
    return alloc_async(pointer, bytes, pool, true, stream, true);
}

static CUresult free_async(CUdeviceptr pointer, CUstream handle, bool per_thread) {
    SIM_ENTER();
    struct stream *stream;
    struct piece piece;
    CHECK(stream_find(handle, per_thread, &stream));
    if (!pointer) return CUDA_ERROR_INVALID_VALUE;
    if (!piece_find((uintptr_t)pointer, &piece) || piece.start != pointer)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream_capturing(stream)) {
        struct node *node;
        if (piece.range->kind != RANGE_GRAPH) {
            capture_invalidate(stream->capture);
            return CUDA_ERROR_INVALID_VALUE;
        }
        CHECK(capture_node(stream, CU_GRAPH_NODE_TYPE_MEM_FREE, &node));
        node->work = (struct work){.kind = WORK_GRAPH_FREE, .freed = {(uintptr_t)pointer}};
        return CUDA_SUCCESS;
    }
    CHECK(capture_unsafe());
    if (piece.range->kind == RANGE_POOL || piece.range->kind == RANGE_GRAPH) {
        if (piece.range->kind == RANGE_POOL && !stream->first)
            return pool_free(piece.range, piece.start);
        struct work work = {.kind =
                                piece.range->kind == RANGE_POOL ? WORK_POOL_FREE : WORK_GRAPH_FREE,
                            .freed = {piece.start}};
        stream_work(stream, &work, false);
        return CUDA_SUCCESS;
    }
    device_wait(stream->context->device); /* a cuMemAlloc pointer: as cuMemFree */
    return memory_free(pointer);
}
API CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
    return free_async(pointer, stream, false);
}
API CUresult cuMemFreeAsync_ptsz(CUdeviceptr pointer, CUstream stream) {
    return free_async(pointer, stream, true);
}

/* --- which pool --- */

API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *out, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = (CUmemoryPool)pool_default(device);
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetMemPool(CUmemoryPool *out, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    pool_default(device);
    *out = (CUmemoryPool)sim_process.device[device].pool;
    return CUDA_SUCCESS;
}
API CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool handle) {
    SIM_ENTER();
    struct pool *pool;
    CHECK(device_valid(device));
    CHECK(pool_find(handle, &pool));
    if (pool->device != device || pool->host) return CUDA_ERROR_INVALID_VALUE;
    pool_default(device);
    sim_process.device[device].pool = pool;
    return CUDA_SUCCESS;
}
static CUresult location_device(const CUmemLocation *location, CUmemAllocationType type,
                                int *device) {
    if (!location || location->type != CU_MEM_LOCATION_TYPE_DEVICE ||
        type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    *device = location->id;
    return CUDA_SUCCESS;
}
API CUresult cuMemGetDefaultMemPool(CUmemoryPool *out, CUmemLocation *location,
                                    CUmemAllocationType type) {
    int device;
    CHECK(location_device(location, type, &device));
    return cuDeviceGetDefaultMemPool(out, device);
}
API CUresult cuMemGetMemPool(CUmemoryPool *out, CUmemLocation *location, CUmemAllocationType type) {
    int device;
    CHECK(location_device(location, type, &device));
    return cuDeviceGetMemPool(out, device);
}
API CUresult cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool) {
    int device;
    CHECK(location_device(location, type, &device));
    return cuDeviceSetMemPool(device, pool);
}

/* --- attributes --- */

API CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void *out) {
    SIM_ENTER();
    struct pool *pool;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(pool_find(handle, &pool));
    CHECK(capture_unsafe());
    device_look(pool->device);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        *(int *)out = pool->reuse[attribute];
        break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        *(cuuint64_t *)out = pool->threshold;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        *(cuuint64_t *)out = pool->reserved;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        *(cuuint64_t *)out = pool->reserved_high;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        *(cuuint64_t *)out = pool->used;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        *(cuuint64_t *)out = pool->used_high;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
API CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute,
                                   void *value) {
    SIM_ENTER();
    struct pool *pool;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    CHECK(pool_find(handle, &pool));
    switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        pool->reuse[attribute] = *(const int *)value;
        break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        pool->threshold = *(const cuuint64_t *)value;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: /* only 0 may be written: the mark starts again from now
                                             */
        if (*(const cuuint64_t *)value) return CUDA_ERROR_INVALID_VALUE;
        pool->reserved_high = pool->reserved;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        if (*(const cuuint64_t *)value) return CUDA_ERROR_INVALID_VALUE;
        pool->used_high = pool->used;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
API CUresult cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc *desc, size_t count) {
    SIM_ENTER();
    struct pool *pool;
    CHECK(pool_find(handle, &pool));
    return desc && count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuMemPoolGetAccess(CUmemAccess_flags *out, CUmemoryPool handle,
                                CUmemLocation *location) {
    SIM_ENTER();
    struct pool *pool;
    CHECK(pool_find(handle, &pool));
    if (!out || !location) return CUDA_ERROR_INVALID_VALUE;
    *out = location->id == pool->device ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                        : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}
