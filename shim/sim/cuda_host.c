/* Pinned host memory: ordinary pages that the driver knows. No device bytes. */
#include <unistd.h>

#include "cuda_sim.h"

static CUresult host_alloc(void **out, size_t bytes, unsigned int flags) {
    SIM_ENTER();
    struct context *context;
    if (!out || !bytes || flags > 7) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    CHECK(capture_unsafe());
    void *pages = pages_new(bytes);
    struct range *range = pages ? range_add((uintptr_t)pages, bytes, RANGE_HOST) : NULL;
    if (!range) return CUDA_ERROR_OUT_OF_MEMORY;
    range->device = context->device;
    range->flags = flags;
    *out = pages;
    return CUDA_SUCCESS;
}
API CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned int flags) {
    return host_alloc(out, bytes, flags);
}
API CUresult cuMemAllocHost_v2(void **out, size_t bytes) { return host_alloc(out, bytes, 0); }
API CUresult cuMemAllocHost(void **out, unsigned int bytes) { return host_alloc(out, bytes, 0); }

API CUresult cuMemFreeHost(void *pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!pointer) return CUDA_SUCCESS;
    if (!piece_find((uintptr_t)pointer, &piece) || piece.range->kind != RANGE_HOST ||
        piece.start != (uintptr_t)pointer)
        return CUDA_ERROR_INVALID_VALUE;
    device_wait(piece.range->device);
    pages_drop(piece.range->start, piece.range->size);
    range_remove(piece.range);
    return CUDA_SUCCESS;
}

static CUresult host_register(void *pointer, size_t bytes, unsigned int flags) {
    SIM_ENTER();
    struct context *context;
    struct piece piece;
    if (!pointer || !bytes || flags > 15) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    if (piece_find((uintptr_t)pointer, &piece)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    struct range *range = range_add((uintptr_t)pointer, bytes, RANGE_REGISTERED);
    if (!range) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    range->device = context->device;
    range->flags = flags;
    return CUDA_SUCCESS;
}
API CUresult cuMemHostRegister_v2(void *pointer, size_t bytes, unsigned int flags) {
    return host_register(pointer, bytes, flags);
}
API CUresult cuMemHostRegister(void *pointer, size_t bytes, unsigned int flags) {
    return host_register(pointer, bytes, flags);
}

API CUresult cuMemHostUnregister(void *pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!piece_find((uintptr_t)pointer, &piece) || piece.range->kind != RANGE_REGISTERED ||
        piece.start != (uintptr_t)pointer)
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    device_wait(piece.range->device);
    range_remove(piece.range);
    return CUDA_SUCCESS;
}

static CUresult host_piece(const void *pointer, struct piece *piece) {
    if (!piece_find((uintptr_t)pointer, piece)) return CUDA_ERROR_INVALID_VALUE;
    return piece->range->kind == RANGE_HOST || piece->range->kind == RANGE_REGISTERED
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *pointer, unsigned int flags) {
    SIM_ENTER();
    struct piece piece;
    if (!out || flags) return CUDA_ERROR_INVALID_VALUE;
    CHECK(host_piece(pointer, &piece));
    *out = (CUdeviceptr)(uintptr_t)pointer;
    return CUDA_SUCCESS;
}
API CUresult cuMemHostGetFlags(unsigned int *out, void *pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(host_piece(pointer, &piece));
    *out = piece.range->flags;
    return CUDA_SUCCESS;
}
