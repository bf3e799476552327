/* Stream-ordered allocations and pools: thin wrappers, the thinking is in pools.c. */
#include "atomics.h"
#include "graph_memory.h"
#include "interpose.h"
#include "pools.h"

typedef CUresult capture_query(CUstream stream, CUstreamCaptureStatus *status);

/* A captured allocation becomes a graph node and takes nothing now. 906: the legacy stream while a
 * blocking stream captures; the driver will refuse the call itself. */
static bool capturing(capture_query *query, CUstream stream) {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUresult rc = query(stream, &status);
    return rc == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* Whether a stream may belong to another device than the current context. */
static bool is_alone(void) {
    static int known; /* devices; 0: not asked yet */
    int count = vgpu_load_relaxed(&known);
    if (!count && CALL(cuDeviceGetCount)(&count) == CUDA_SUCCESS) vgpu_store_relaxed(&known, count);
    return count == 1;
}

/* The device whose pool serves the stream: that of the stream's context. Asked only of real stream
 * handles: asking a special one disturbs a capture. */
static CUresult place_of(struct vgpu_place *place, CUstream stream, const char *api) {
    CUcontext context;
    struct vgpu_context known;
    CUresult rc = vgpu_context_here(place, api);
    if (rc == CUDA_SUCCESS && place->session && !is_alone() && (uintptr_t)stream > 2 &&
        CALL(cuStreamGetCtx)(stream, &context) == CUDA_SUCCESS &&
        vgpu_contexts_find(context, &known) && known.ordinal != place->ordinal)
        vgpu_context_on_device(place, known.ordinal);
    return rc;
}

/* pool NULL in *call: the device's current one. */
static CUresult allocate(struct vgpu_pool_call *call, bool from_pool, capture_query *query) {
    struct vgpu_place place;
    if (!vgpu_session_get() || !call->out || !call->bytes) return call->alloc(call);
    if (capturing(query, call->stream)) {
        vgpu_graph_memory_note();
        return call->alloc(call);
    }
    CUresult rc = place_of(&place, call->stream, call->api);
    if (rc != CUDA_SUCCESS) return rc;
    CUmemoryPool pool = call->pool;
    if (!from_pool && place.session &&
        CALL(cuDeviceGetMemPool)(&pool, place.ordinal) != CUDA_SUCCESS)
        pool = NULL;
    if (!place.session || !pool) return call->alloc(call);
    call->pool = pool;
    return vgpu_pools_alloc(&place, call);
}

static CUresult alloc(const struct vgpu_pool_call *c) {
    return REAL(cuMemAllocAsync)(c->out, c->bytes, c->stream);
}
static CUresult alloc_ptsz(const struct vgpu_pool_call *c) {
    return REAL(cuMemAllocAsync_ptsz)(c->out, c->bytes, c->stream);
}
static CUresult alloc_from(const struct vgpu_pool_call *c) {
    return REAL(cuMemAllocFromPoolAsync)(c->out, c->bytes, c->pool, c->stream);
}
static CUresult alloc_from_ptsz(const struct vgpu_pool_call *c) {
    return REAL(cuMemAllocFromPoolAsync_ptsz)(c->out, c->bytes, c->pool, c->stream);
}

VGPU_EXPORT CUresult cuMemAllocAsync(CUdeviceptr *out, size_t bytes, CUstream stream) {
    struct vgpu_pool_call call = {NULL,   bytes, "cuMemAllocAsync",    out,
                                  stream, alloc, REAL(cuMemFreeAsync), CALL(cuStreamQuery)};
    return allocate(&call, false, CALL(cuStreamIsCapturing));
}

VGPU_EXPORT CUresult cuMemAllocAsync_ptsz(CUdeviceptr *out, size_t bytes, CUstream stream) {
    struct vgpu_pool_call call = {
        NULL,   bytes,      "cuMemAllocAsync_ptsz",    out,
        stream, alloc_ptsz, REAL(cuMemFreeAsync_ptsz), CALL(cuStreamQuery_ptsz)};
    return allocate(&call, false, CALL(cuStreamIsCapturing_ptsz));
}

VGPU_EXPORT CUresult cuMemAllocFromPoolAsync(CUdeviceptr *out, size_t bytes, CUmemoryPool pool,
                                             CUstream stream) {
    struct vgpu_pool_call call = {
        pool,   bytes,      "cuMemAllocFromPoolAsync", out,
        stream, alloc_from, REAL(cuMemFreeAsync),      CALL(cuStreamQuery)};
    return allocate(&call, true, CALL(cuStreamIsCapturing));
}

VGPU_EXPORT CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *out, size_t bytes, CUmemoryPool pool,
                                                  CUstream stream) {
    struct vgpu_pool_call call = {
        pool,   bytes,           "cuMemAllocFromPoolAsync_ptsz", out,
        stream, alloc_from_ptsz, REAL(cuMemFreeAsync_ptsz),      CALL(cuStreamQuery_ptsz)};
    return allocate(&call, true, CALL(cuStreamIsCapturing_ptsz));
}

VGPU_EXPORT CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *properties) {
    struct vgpu_place place;
    CUresult rc = REAL(cuMemPoolCreate)(out, properties);
    if (rc != CUDA_SUCCESS || !vgpu_session_get()) return rc;
    if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
        vgpu_pools_enter(*out, NULL);
        return rc;
    }
    vgpu_context_on_device(&place, properties->location.id);
    if (place.session) vgpu_pools_enter(*out, &place);
    return rc;
}

VGPU_EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool) {
    return vgpu_pools_end(pool, REAL(cuMemPoolDestroy));
}

VGPU_EXPORT CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t bytes) {
    CUresult rc = REAL(cuMemPoolTrimTo)(pool, bytes);
    if (rc == CUDA_SUCCESS) vgpu_pools_refresh();
    return rc;
}

/* A lower release threshold lets memory go at the next synchronisation. */
VGPU_EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute,
                                           void *value) {
    CUresult rc = REAL(cuMemPoolSetAttribute)(pool, attribute, value);
    if (rc == CUDA_SUCCESS && vgpu_session_get()) vgpu_pools_mark_dirty();
    return rc;
}
