/* What a pointer is. */
#include <string.h>

#include "cuda_sim.h"

static bool on_host(const struct piece *piece) {
    return piece->range->kind == RANGE_HOST || piece->range->kind == RANGE_REGISTERED;
}

/* Writes one attribute; false if it does not apply (the caller decides what that means). */
static bool write_attribute(const struct piece *piece, CUpointer_attribute which, uintptr_t pointer,
                            void *out) {
    const struct range *range = piece->range;
    switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)out = (CUcontext)range->context;
        return range->context || range->kind == RANGE_POOL || range->kind == RANGE_RESERVED ||
               on_host(piece);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned int *)out = on_host(piece) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)out = pointer;
        return true;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        *(void **)out = (void *)pointer;
        return on_host(piece) || range->kind == RANGE_MANAGED;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned int *)out =
            which == CU_POINTER_ATTRIBUTE_IS_MANAGED && range->kind == RANGE_MANAGED;
        return true;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        *(unsigned long long *)out = range->id << 20 | (piece->start - range->start) >> 9;
        return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)out = range->device;
        return true;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        *(unsigned int *)out = range->kind == RANGE_LARGE || range->kind == RANGE_BLOCK;
        return true;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)out = piece->start;
        return true;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)out = piece->asked;
        return true;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned int *)out = 1;
        return true;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned long long *)out = 0;
        return true;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *(unsigned int *)out = 3;
        return true;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)out = range->kind == RANGE_POOL ? (CUmemoryPool)range->pool : NULL;
        return true;
    default:
        return false;
    }
}

API CUresult cuPointerGetAttribute(void *out, CUpointer_attribute which, CUdeviceptr pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!out || (int)which < 1 || (int)which > 21) return CUDA_ERROR_INVALID_VALUE;
    if (!piece_find((uintptr_t)pointer, &piece)) return CUDA_ERROR_INVALID_VALUE;
    return write_attribute(&piece, which, (uintptr_t)pointer, out) ? CUDA_SUCCESS
                                                                   : CUDA_ERROR_INVALID_VALUE;
}

/* Here an unknown pointer is no error: each answer is zero. */
static size_t answer_size(CUpointer_attribute which) {
    switch (which) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        return 4;
    default:
        return 8;
    }
}
API CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute *which, void **out,
                                    CUdeviceptr pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!which || !out) return CUDA_ERROR_INVALID_VALUE;
    bool known = piece_find((uintptr_t)pointer, &piece);
    for (unsigned int i = 0; i < count; i++) {
        if ((int)which[i] < 1 || (int)which[i] > 21 || !out[i]) return CUDA_ERROR_INVALID_VALUE;
        if (known && write_attribute(&piece, which[i], (uintptr_t)pointer, out[i])) continue;
        memset(out[i], 0, answer_size(which[i]));
        if (which[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) *(int *)out[i] = -2;
    }
    return CUDA_SUCCESS;
}
API CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute which,
                                   CUdeviceptr pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!value || which != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) return CUDA_ERROR_INVALID_VALUE;
    return piece_find((uintptr_t)pointer, &piece) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
