/* Allocations of up to 1 MiB: packed into 2 MiB blocks in units of 512 bytes, as the real driver
 * does (measured: k equal sizes take ceil(k / floor(2 MiB / size)) blocks). A block belongs to one
 * context and is given back when it is empty. */
#include <stdlib.h>

#include "cuda_sim.h"

#define BLOCK ((size_t)(2 * SIM_MIB))
#define UNIT ((size_t)512)
#define UNITS (BLOCK / UNIT)

struct block {
    size_t used, low;       /* units in use; none is free below `low` */
    uint32_t asked[UNITS];  /* bytes of the piece that starts here; 0 = none starts */
    uint16_t length[UNITS]; /* its units */
};

/* First fit. Pieces say how long they are, so the search hops from piece to piece. */
static size_t block_fit(struct block *block, size_t units) {
    if (UNITS - block->used < units) return UNITS;
    size_t run = 0;
    bool first = true;
    for (size_t i = block->low; i < UNITS;) {
        if (block->asked[i]) {
            i += block->length[i];
            run = 0;
            continue;
        }
        if (first) {
            block->low = i;
            first = false;
        }
        i++;
        if (++run == units) return i - units;
    }
    return UNITS;
}

static struct range *block_new(struct context *context) {
    int card = context_device(context)->card;
    if (!sim_take(sim_process.slot, card, BLOCK, 0)) return NULL;
    struct block *block = calloc(1, sizeof *block);
    void *pages = pages_new(BLOCK);
    struct range *range = pages && block ? range_add((uintptr_t)pages, BLOCK, RANGE_BLOCK) : NULL;
    if (!range) {
        if (pages) pages_drop((uintptr_t)pages, BLOCK);
        free(block);
        sim_give(sim_process.slot, card, BLOCK, 0);
        return NULL;
    }
    range->block = block;
    range->context = context;
    range->device = context->device;
    range->charged = BLOCK;
    range->next = context->ranges;
    context->ranges = range;
    return range;
}

CUresult block_alloc(struct context *context, size_t bytes, CUdeviceptr *pointer) {
    size_t units = (bytes + UNIT - 1) / UNIT, at = UNITS;
    struct range *range = context->ranges;
    for (; range; range = range->next)
        if (range->kind == RANGE_BLOCK && (at = block_fit(range->block, units)) < UNITS) break;
    if (!range) {
        range = block_new(context);
        if (!range) return CUDA_ERROR_OUT_OF_MEMORY;
        at = 0;
    }
    struct block *block = range->block;
    block->asked[at] = (uint32_t)bytes;
    block->length[at] = (uint16_t)units;
    block->used += units;
    *pointer = range->start + at * UNIT;
    return CUDA_SUCCESS;
}

bool block_piece(struct range *range, uintptr_t address, struct piece *piece) {
    const struct block *block = range->block;
    size_t unit = (address - range->start) / UNIT, at = unit;
    while (at && !block->asked[at]) at--;
    if (!block->asked[at] || at + block->length[at] <= unit) return false;
    *piece = (struct piece){range, range->start + at * UNIT, block->asked[at]};
    return true;
}

CUresult block_free(const struct piece *piece) {
    struct range *range = piece->range;
    struct block *block = range->block;
    size_t at = (piece->start - range->start) / UNIT;
    block->used -= block->length[at];
    block->asked[at] = 0;
    if (at < block->low) block->low = at;
    if (block->used) return CUDA_SUCCESS;
    struct range **link = &range->context->ranges;
    while (*link != range) link = &(*link)->next;
    *link = range->next;
    share_close(range);
    sim_give(sim_process.slot, sim_process.device[range->device].card, BLOCK, 0);
    pages_drop(range->start, BLOCK);
    free(block);
    range_remove(range);
    return CUDA_SUCCESS;
}
