/* The entry points that fill memory, prefetch it, or give advice about it. */
#include "cuda_copy_calls.h"

static CUresult fill(CUdeviceptr dst, size_t pitch, unsigned int value, unsigned int element,
                     size_t width, size_t height, CUstream stream, enum copy_mode mode) {
    CUDA_MEMSET_NODE_PARAMS set = {dst, pitch, value, element, width, height};
    return set_submit(&set, stream, mode);
}

#define FILL(bits, type)                                                                           \
    API CUresult cuMemsetD##bits##_v2(CUdeviceptr dst, type value, size_t n) {                     \
        return fill(dst, 0, value, bits / 8, n, 1, NULL, COPY_ASYNC);                              \
    }                                                                                              \
    API CUresult cuMemsetD##bits##_v2_ptds(CUdeviceptr dst, type value, size_t n) {                \
        return fill(dst, 0, value, bits / 8, n, 1, NULL, COPY_OWN);                                \
    }                                                                                              \
    API CUresult cuMemsetD##bits##Async(CUdeviceptr dst, type value, size_t n, CUstream stream) {  \
        return fill(dst, 0, value, bits / 8, n, 1, stream, COPY_ASYNC);                            \
    }                                                                                              \
    API CUresult cuMemsetD##bits##Async_ptsz(CUdeviceptr dst, type value, size_t n,                \
                                             CUstream stream) {                                    \
        return fill(dst, 0, value, bits / 8, n, 1, stream, COPY_OWN);                              \
    }                                                                                              \
    API CUresult cuMemsetD2D##bits##_v2(CUdeviceptr dst, size_t pitch, type value, size_t width,   \
                                        size_t height) {                                           \
        return fill(dst, pitch, value, bits / 8, width, height, NULL, COPY_ASYNC);                 \
    }                                                                                              \
    API CUresult cuMemsetD2D##bits##_v2_ptds(CUdeviceptr dst, size_t pitch, type value,            \
                                             size_t width, size_t height) {                        \
        return fill(dst, pitch, value, bits / 8, width, height, NULL, COPY_OWN);                   \
    }                                                                                              \
    API CUresult cuMemsetD2D##bits##Async(CUdeviceptr dst, size_t pitch, type value, size_t width, \
                                          size_t height, CUstream stream) {                        \
        return fill(dst, pitch, value, bits / 8, width, height, stream, COPY_ASYNC);               \
    }                                                                                              \
    API CUresult cuMemsetD2D##bits##Async_ptsz(CUdeviceptr dst, size_t pitch, type value,          \
                                               size_t width, size_t height, CUstream stream) {     \
        return fill(dst, pitch, value, bits / 8, width, height, stream, COPY_OWN);                 \
    }
FILL(8, unsigned char)
FILL(16, unsigned short)
FILL(32, unsigned int)

/* Managed memory costs nothing on this card, wherever it is said to be. */
static CUresult managed_only(CUdeviceptr pointer, size_t bytes) {
    SIM_ENTER();
    struct piece piece;
    if (!bytes || !piece_find((uintptr_t)pointer, &piece) || piece.range->kind != RANGE_MANAGED)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
API CUresult cuMemPrefetchAsync(CUdeviceptr pointer, size_t bytes, CUdevice device,
                                CUstream stream) {
    (void)device, (void)stream;
    return managed_only(pointer, bytes);
}
API CUresult cuMemPrefetchAsync_ptsz(CUdeviceptr pointer, size_t bytes, CUdevice device,
                                     CUstream stream) {
    (void)device, (void)stream;
    return managed_only(pointer, bytes);
}
API CUresult cuMemPrefetchAsync_v2(CUdeviceptr pointer, size_t bytes, CUmemLocation to,
                                   unsigned int flags, CUstream stream) {
    (void)to, (void)flags, (void)stream;
    return managed_only(pointer, bytes);
}
API CUresult cuMemPrefetchAsync_v2_ptsz(CUdeviceptr pointer, size_t bytes, CUmemLocation to,
                                        unsigned int flags, CUstream stream) {
    (void)to, (void)flags, (void)stream;
    return managed_only(pointer, bytes);
}
API CUresult cuMemAdvise(CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUdevice device) {
    (void)advice, (void)device;
    return managed_only(pointer, bytes);
}
API CUresult cuMemAdvise_v2(CUdeviceptr pointer, size_t bytes, CUmem_advise advice,
                            CUmemLocation location) {
    (void)advice, (void)location;
    return managed_only(pointer, bytes);
}
