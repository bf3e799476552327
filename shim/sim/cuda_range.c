/* Which addresses are ours: a tree of ranges that do not overlap, and the pages behind them. */
#include <search.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cuda_sim.h"

#define BLOCK ((size_t)(2 * SIM_MIB))

static void *tree;

/* Overlapping ranges compare equal, so a search for one byte finds the range that holds it. */
static int compare(const void *left, const void *right) {
    const struct range *a = left, *b = right;
    if (a->start + a->size <= b->start) return -1;
    return b->start + b->size <= a->start;
}

void *pages_new(size_t size) {
    size_t room = size + BLOCK;
    if (room < size) return NULL;
    char *mapped = mmap(NULL, room, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return NULL;
    char *start = (char *)(((uintptr_t)mapped + BLOCK - 1) & ~(BLOCK - 1));
    if (start > mapped) munmap(mapped, (size_t)(start - mapped));
    if (mapped + room > start + size)
        munmap(start + size, (size_t)(mapped + room - (start + size)));
    madvise(start, size, MADV_NOHUGEPAGE); /* one byte written must not cost 2 MiB of the host */
    return start;
}

void pages_drop(uintptr_t start, size_t size) { munmap((void *)start, size); }

struct range *range_add(uintptr_t start, size_t size, enum range_kind kind) {
    struct range *range = calloc(1, sizeof *range);
    if (!range) return NULL;
    range->start = start;
    range->size = range->asked = size;
    range->kind = kind;
    range->id = ++sim_process.next_id;
    struct range **slot = tsearch(range, &tree, compare);
    if (!slot || *slot != range) {
        free(range);
        return NULL;
    }
    return range;
}

void range_remove(struct range *range) {
    tdelete(range, &tree, compare);
    free(range);
}

struct range *range_of(uintptr_t address) {
    struct range key = {.start = address, .size = 1};
    struct range **slot = tfind(&key, &tree, compare);
    return slot ? *slot : NULL;
}

bool piece_find(uintptr_t address, struct piece *piece) {
    struct range *range = range_of(address);
    if (!range) return false;
    switch (range->kind) {
    case RANGE_BLOCK:
        return block_piece(range, address, piece);
    case RANGE_POOL:
        return pool_piece(range, address, piece);
    case RANGE_RESERVED:
        return vmm_piece(range, address, piece);
    default:
        break;
    }
    *piece = (struct piece){range, range->start, range->asked};
    return true;
}

bool piece_valid(uintptr_t address, size_t size) {
    struct piece piece;
    while (size) { /* neighbours may be mapped side by side in one reservation */
        if (!piece_find(address, &piece)) return false;
        size_t left = piece.start + piece.asked > address ? piece.start + piece.asked - address : 0;
        if (left >= size) return true;
        if (!left || piece.range->kind != RANGE_RESERVED) return false;
        address += left;
        size -= left;
    }
    return true;
}
