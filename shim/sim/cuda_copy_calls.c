/* The entry points that copy. Each is there for the legacy and for the per-thread default stream.
 * The 32-bit calls of CUDA 2 are in cuda_legacy.c. */
#include "cuda_copy_calls.h"

#define HOST CU_MEMORYTYPE_HOST
#define DEVICE CU_MEMORYTYPE_DEVICE
#define ANY CU_MEMORYTYPE_UNIFIED
#define SYNC COPY_SYNC
#define SYNC_OWN ((enum copy_mode)(COPY_SYNC | COPY_OWN))

/* --- one stretch --- */

#define LINEAR(name, to, to_type, from, from_type)                                                 \
    API CUresult name(to_type dst, from_type src, size_t bytes) {                                  \
        return copy_linear(to, (uintptr_t)dst, from, (uintptr_t)src, bytes, NULL, SYNC);           \
    }                                                                                              \
    API CUresult name##_ptds(to_type dst, from_type src, size_t bytes) {                           \
        return copy_linear(to, (uintptr_t)dst, from, (uintptr_t)src, bytes, NULL, SYNC_OWN);       \
    }
#define LINEAR_ASYNC(name, to, to_type, from, from_type)                                           \
    API CUresult name(to_type dst, from_type src, size_t bytes, CUstream stream) {                 \
        return copy_linear(to, (uintptr_t)dst, from, (uintptr_t)src, bytes, stream, COPY_ASYNC);   \
    }                                                                                              \
    API CUresult name##_ptsz(to_type dst, from_type src, size_t bytes, CUstream stream) {          \
        return copy_linear(to, (uintptr_t)dst, from, (uintptr_t)src, bytes, stream, COPY_OWN);     \
    }

LINEAR(cuMemcpy, ANY, CUdeviceptr, ANY, CUdeviceptr)
LINEAR(cuMemcpyHtoD_v2, DEVICE, CUdeviceptr, HOST, const void *)
LINEAR(cuMemcpyDtoH_v2, HOST, void *, DEVICE, CUdeviceptr)
LINEAR(cuMemcpyDtoD_v2, DEVICE, CUdeviceptr, DEVICE, CUdeviceptr)
LINEAR_ASYNC(cuMemcpyAsync, ANY, CUdeviceptr, ANY, CUdeviceptr)
LINEAR_ASYNC(cuMemcpyHtoDAsync_v2, DEVICE, CUdeviceptr, HOST, const void *)
LINEAR_ASYNC(cuMemcpyDtoHAsync_v2, HOST, void *, DEVICE, CUdeviceptr)
LINEAR_ASYNC(cuMemcpyDtoDAsync_v2, DEVICE, CUdeviceptr, DEVICE, CUdeviceptr)

API CUresult cuMemcpyPeer(CUdeviceptr dst, CUcontext to, CUdeviceptr src, CUcontext from,
                          size_t bytes) {
    (void)to, (void)from;
    return cuMemcpyDtoD_v2(dst, src, bytes);
}
API CUresult cuMemcpyPeer_ptds(CUdeviceptr dst, CUcontext to, CUdeviceptr src, CUcontext from,
                               size_t bytes) {
    (void)to, (void)from;
    return cuMemcpyDtoD_v2_ptds(dst, src, bytes);
}
API CUresult cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext to, CUdeviceptr src, CUcontext from,
                               size_t bytes, CUstream stream) {
    (void)to, (void)from;
    return cuMemcpyDtoDAsync_v2(dst, src, bytes, stream);
}
API CUresult cuMemcpyPeerAsync_ptsz(CUdeviceptr dst, CUcontext to, CUdeviceptr src, CUcontext from,
                                    size_t bytes, CUstream stream) {
    (void)to, (void)from;
    return cuMemcpyDtoDAsync_v2_ptsz(dst, src, bytes, stream);
}

/* --- a part of an array --- */

static CUresult array_linear(CUarray to, size_t to_at, uintptr_t dst, CUmemorytype dst_type,
                             CUarray from, size_t from_at, uintptr_t src, CUmemorytype src_type,
                             size_t bytes, CUstream stream, enum copy_mode mode) {
    CUDA_MEMCPY3D copy = {.srcMemoryType = src_type,
                          .srcXInBytes = from_at,
                          .srcArray = from,
                          .srcHost = (const void *)src,
                          .srcDevice = src,
                          .dstMemoryType = dst_type,
                          .dstXInBytes = to_at,
                          .dstArray = to,
                          .dstHost = (void *)dst,
                          .dstDevice = dst,
                          .WidthInBytes = bytes,
                          .Height = 1,
                          .Depth = 1};
    return copy_submit(&copy, stream, mode);
}
#define ARRAY CU_MEMORYTYPE_ARRAY
#define ARRAY_CALLS(suffix, mode)                                                                  \
    API CUresult cuMemcpyDtoA_v2##suffix(CUarray to, size_t at, CUdeviceptr src, size_t bytes) {   \
        return array_linear(to, at, 0, ARRAY, NULL, 0, (uintptr_t)src, DEVICE, bytes, NULL, mode); \
    }                                                                                              \
    API CUresult cuMemcpyAtoD_v2##suffix(CUdeviceptr dst, CUarray from, size_t at, size_t bytes) { \
        return array_linear(NULL, 0, (uintptr_t)dst, DEVICE, from, at, 0, ARRAY, bytes, NULL,      \
                            mode);                                                                 \
    }                                                                                              \
    API CUresult cuMemcpyHtoA_v2##suffix(CUarray to, size_t at, const void *src, size_t bytes) {   \
        return array_linear(to, at, 0, ARRAY, NULL, 0, (uintptr_t)src, HOST, bytes, NULL, mode);   \
    }                                                                                              \
    API CUresult cuMemcpyAtoH_v2##suffix(void *dst, CUarray from, size_t at, size_t bytes) {       \
        return array_linear(NULL, 0, (uintptr_t)dst, HOST, from, at, 0, ARRAY, bytes, NULL, mode); \
    }                                                                                              \
    API CUresult cuMemcpyAtoA_v2##suffix(CUarray to, size_t at, CUarray from, size_t from_at,      \
                                         size_t bytes) {                                           \
        return array_linear(to, at, 0, ARRAY, from, from_at, 0, ARRAY, bytes, NULL, mode);         \
    }
ARRAY_CALLS(, SYNC)
ARRAY_CALLS(_ptds, SYNC_OWN)
#define ARRAY_ASYNC_CALLS(suffix, mode)                                                            \
    API CUresult cuMemcpyHtoAAsync_v2##suffix(CUarray to, size_t at, const void *src,              \
                                              size_t bytes, CUstream stream) {                     \
        return array_linear(to, at, 0, ARRAY, NULL, 0, (uintptr_t)src, HOST, bytes, stream, mode); \
    }                                                                                              \
    API CUresult cuMemcpyAtoHAsync_v2##suffix(void *dst, CUarray from, size_t at, size_t bytes,    \
                                              CUstream stream) {                                   \
        return array_linear(NULL, 0, (uintptr_t)dst, HOST, from, at, 0, ARRAY, bytes, stream,      \
                            mode);                                                                 \
    }
ARRAY_ASYNC_CALLS(, COPY_ASYNC)
ARRAY_ASYNC_CALLS(_ptsz, COPY_OWN)

/* --- two and three dimensions --- */

static CUresult copy_2d(const CUDA_MEMCPY2D *c, CUstream stream, enum copy_mode mode) {
    if (!c) return CUDA_ERROR_INVALID_VALUE;
    CUDA_MEMCPY3D copy = {.srcXInBytes = c->srcXInBytes,
                          .srcY = c->srcY,
                          .srcMemoryType = c->srcMemoryType,
                          .srcHost = c->srcHost,
                          .srcDevice = c->srcDevice,
                          .srcArray = c->srcArray,
                          .srcPitch = c->srcPitch,
                          .dstXInBytes = c->dstXInBytes,
                          .dstY = c->dstY,
                          .dstMemoryType = c->dstMemoryType,
                          .dstHost = c->dstHost,
                          .dstDevice = c->dstDevice,
                          .dstArray = c->dstArray,
                          .dstPitch = c->dstPitch,
                          .WidthInBytes = c->WidthInBytes,
                          .Height = c->Height,
                          .Depth = 1};
    return copy_submit(&copy, stream, mode);
}
static CUresult copy_3d(const CUDA_MEMCPY3D *c, CUstream stream, enum copy_mode mode) {
    return c ? copy_submit(c, stream, mode) : CUDA_ERROR_INVALID_VALUE;
}
/* Only the two contexts differ in type, in the place of the reserved words. */
static CUresult copy_peer(const CUDA_MEMCPY3D_PEER *c, CUstream stream, enum copy_mode mode) {
    _Static_assert(sizeof(CUDA_MEMCPY3D_PEER) == sizeof(CUDA_MEMCPY3D), "same layout");
    CUDA_MEMCPY3D copy;
    if (!c) return CUDA_ERROR_INVALID_VALUE;
    __builtin_memcpy(&copy, c, sizeof copy);
    return copy_submit(&copy, stream, mode);
}

API CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *c) { return copy_2d(c, NULL, SYNC); }
API CUresult cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D *c) { return copy_2d(c, NULL, SYNC_OWN); }
API CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *c) { return copy_2d(c, NULL, SYNC); }
API CUresult cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D *c) {
    return copy_2d(c, NULL, SYNC_OWN);
}
API CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *c, CUstream stream) {
    return copy_2d(c, stream, COPY_ASYNC);
}
API CUresult cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D *c, CUstream stream) {
    return copy_2d(c, stream, COPY_OWN);
}
API CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D *c) { return copy_3d(c, NULL, SYNC); }
API CUresult cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D *c) { return copy_3d(c, NULL, SYNC_OWN); }
API CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *c, CUstream stream) {
    return copy_3d(c, stream, COPY_ASYNC);
}
API CUresult cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D *c, CUstream stream) {
    return copy_3d(c, stream, COPY_OWN);
}
API CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *c) { return copy_peer(c, NULL, SYNC); }
API CUresult cuMemcpy3DPeer_ptds(const CUDA_MEMCPY3D_PEER *c) {
    return copy_peer(c, NULL, SYNC_OWN);
}
API CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *c, CUstream stream) {
    return copy_peer(c, stream, COPY_ASYNC);
}
API CUresult cuMemcpy3DPeerAsync_ptsz(const CUDA_MEMCPY3D_PEER *c, CUstream stream) {
    return copy_peer(c, stream, COPY_OWN);
}

/* --- many at once: one after the other --- */

static CUresult copy_batch(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                           size_t *failed, CUstream stream, enum copy_mode mode) {
    if (!dsts || !srcs || !sizes || !count || !stream) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        CUresult rc =
            copy_linear(ANY, (uintptr_t)dsts[i], ANY, (uintptr_t)srcs[i], sizes[i], stream, mode);
        if (rc && failed) *failed = i;
        CHECK(rc);
    }
    return CUDA_SUCCESS;
}
#define BATCH_CALLS(suffix, mode)                                                                  \
    API CUresult cuMemcpyBatchAsync##suffix(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes,   \
                                            size_t count, CUmemcpyAttributes *attrs,               \
                                            size_t *indices, size_t attr_count, size_t *failed,    \
                                            CUstream stream) {                                     \
        (void)attrs, (void)indices, (void)attr_count;                                              \
        return copy_batch(dsts, srcs, sizes, count, failed, stream, mode);                         \
    }                                                                                              \
    API CUresult cuMemcpyBatchAsync_v2##suffix(                                                    \
        CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,                         \
        CUmemcpyAttributes *attrs, size_t *indices, size_t attr_count, CUstream stream) {          \
        (void)attrs, (void)indices, (void)attr_count;                                              \
        return copy_batch(dsts, srcs, sizes, count, NULL, stream, mode);                           \
    }
BATCH_CALLS(, COPY_ASYNC)
BATCH_CALLS(_ptsz, COPY_OWN)
