/* cuMemAlloc and its relatives, and cuMemFree for every kind of pointer. Host memory is in
 * cuda_host.c. */
#include <stdlib.h>

#include "cuda_sim.h"

#define LARGE_STEP ((size_t)(2 * SIM_MIB))

static CUresult large_alloc(struct context *context, size_t bytes, CUdeviceptr *pointer) {
    size_t size = (bytes + LARGE_STEP - 1) & ~(LARGE_STEP - 1);
    int card = context_device(context)->card;
    if (size < bytes || !sim_take(sim_process.slot, card, size, 0)) return CUDA_ERROR_OUT_OF_MEMORY;
    void *pages = pages_new(size);
    struct range *range = pages ? range_add((uintptr_t)pages, size, RANGE_LARGE) : NULL;
    if (!range) {
        if (pages) pages_drop((uintptr_t)pages, size);
        sim_give(sim_process.slot, card, size, 0);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    range->asked = bytes;
    range->context = context;
    range->device = context->device;
    range->charged = size;
    range->next = context->ranges;
    context->ranges = range;
    *pointer = range->start;
    return CUDA_SUCCESS;
}

CUresult memory_alloc(struct context *context, size_t bytes, CUdeviceptr *pointer) {
    return bytes > SIM_MIB ? large_alloc(context, bytes, pointer)
                           : block_alloc(context, bytes, pointer);
}

API CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    SIM_ENTER();
    struct context *context;
    if (!pointer || !bytes) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    CHECK(capture_unsafe());
    return memory_alloc(context, bytes, pointer);
}

API CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height,
                                unsigned int element) {
    SIM_ENTER();
    struct context *context;
    if (!pointer || !pitch || !width || !height || (element != 4 && element != 8 && element != 16))
        return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    CHECK(capture_unsafe());
    size_t row = (width + 511) & ~(size_t)511;
    if (row < width || row > SIZE_MAX / height) return CUDA_ERROR_OUT_OF_MEMORY;
    CHECK(memory_alloc(context, row * height, pointer));
    *pitch = row;
    return CUDA_SUCCESS;
}

/* Nothing until it is touched, and nothing can touch it on this card. */
API CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned int flags) {
    SIM_ENTER();
    struct context *context;
    if (!pointer || !bytes || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
        return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    CHECK(capture_unsafe());
    size_t size = (bytes + LARGE_STEP - 1) & ~(LARGE_STEP - 1);
    void *pages = size < bytes ? NULL : pages_new(size);
    struct range *range = pages ? range_add((uintptr_t)pages, size, RANGE_MANAGED) : NULL;
    if (!range) return CUDA_ERROR_OUT_OF_MEMORY;
    range->asked = bytes;
    range->context = context;
    range->device = context->device;
    range->next = context->ranges;
    context->ranges = range;
    *pointer = range->start;
    return CUDA_SUCCESS;
}

static void range_unlink(struct range *range) {
    if (!range->context) return;
    struct range **link = &range->context->ranges;
    while (*link && *link != range) link = &(*link)->next;
    if (*link) *link = range->next;
}

/* An exported allocation that someone still has open: its bytes stay, charged to whom the machine
 * finds. */
void share_close(const struct range *range) {
    if (!range->flags || (range->kind != RANGE_LARGE && range->kind != RANGE_BLOCK)) return;
    struct sim_machine *machine = sim_machine();
    sim_lock(machine);
    for (int i = 0; i < SIM_MAX_SHARES; i++) {
        struct sim_share *share = &machine->share[i];
        if (!share->id || share->id != range->flags || share->exporter != sim_process.slot)
            continue;
        share->exporter = -1;
        if (share->payer == sim_process.slot) share->payer = -1;
        sim_share_settle(machine, share);
    }
    sim_unlock(machine);
}

static void large_free(struct range *range) {
    share_close(range);
    if (range->charged)
        sim_give(sim_process.slot, sim_process.device[range->device].card, range->charged, 0);
    pages_drop(range->start, range->size);
    range_remove(range);
}

CUresult memory_free(CUdeviceptr pointer) {
    struct piece piece;
    if (!piece_find((uintptr_t)pointer, &piece) || piece.start != pointer)
        return CUDA_ERROR_INVALID_VALUE;
    struct range *range = piece.range;
    switch (range->kind) {
    case RANGE_BLOCK:
        return block_free(&piece);
    case RANGE_POOL:
        return pool_free(range, piece.start);
    case RANGE_LARGE:
    case RANGE_MANAGED:
        range_unlink(range);
        large_free(range);
        return CUDA_SUCCESS;
    case RANGE_GRAPH:
        if (!range->charged) return CUDA_ERROR_INVALID_VALUE;
        sim_process.device[range->device].graph_used -= range->charged;
        range->charged = 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* Works without a current context and for any context's pointers; waits for all running work of the
 * device. */
API CUresult cuMemFree_v2(CUdeviceptr pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!pointer) return CUDA_SUCCESS;
    CHECK(capture_unsafe());
    if (!piece_find((uintptr_t)pointer, &piece) || piece.start != pointer)
        return CUDA_ERROR_INVALID_VALUE;
    device_wait(piece.range->device);
    return memory_free(pointer); /* looks again: the lock was open while it waited */
}

void memory_drop_context(struct context *context) {
    while (context->ranges) {
        struct range *range = context->ranges;
        context->ranges = range->next;
        if (range->kind == RANGE_BLOCK) {
            share_close(range);
            sim_give(sim_process.slot, context_device(context)->card, range->charged, 0);
            pages_drop(range->start, range->size);
            free(range->block);
            range_remove(range);
        } else {
            large_free(range);
        }
    }
}

/* --- the 32-bit calls of CUDA 2: refused in an ordinary context --- */

API CUresult cuMemAlloc(CUdeviceptr_v1 *pointer, unsigned int bytes) {
    SIM_ENTER();
    return pointer && bytes ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuMemAllocPitch(CUdeviceptr_v1 *pointer, unsigned int *pitch, unsigned int width,
                             unsigned int height, unsigned int element) {
    SIM_ENTER();
    (void)pitch, (void)width, (void)height, (void)element;
    return pointer ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuMemFree(CUdeviceptr_v1 pointer) {
    SIM_ENTER();
    return pointer ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}
API CUresult cuMemGetInfo(unsigned int *available, unsigned int *total) {
    SIM_ENTER();
    (void)available, (void)total;
    return CUDA_ERROR_INVALID_CONTEXT;
}

/* --- queries --- */

API CUresult cuMemGetInfo_v2(size_t *available, size_t *total) {
    SIM_ENTER();
    struct context *context;
    if (!available || !total) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    *total = sim_model()->total;
    *available = *total - sim_taken(context_device(context)->card);
    return CUDA_SUCCESS;
}
API CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!piece_find((uintptr_t)pointer, &piece)) return CUDA_ERROR_NOT_FOUND;
    if (base) *base = piece.start;
    if (size) *size = piece.asked;
    return CUDA_SUCCESS;
}
API CUresult cuMemGetAddressRange(CUdeviceptr_v1 *base, unsigned int *size,
                                  CUdeviceptr_v1 pointer) {
    SIM_ENTER();
    (void)base, (void)size, (void)pointer;
    return CUDA_ERROR_INVALID_CONTEXT;
}
