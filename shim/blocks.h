/* What this process holds through pointers: each live allocation with its charge, its device and
 * the context that owns it. Pure and process-local; safe from any thread; no lock is held when a
 * function returns.
 *
 * A small allocation (<= 1 MiB) is a piece of a 2 MiB block of its context; the driver takes whole
 * blocks and gives a block back when its last piece goes, so the block carries the charge.
 */
#ifndef VGPU_BLOCKS_H
#define VGPU_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#define VGPU_BLOCK_BYTES (UINT64_C(2) << 20) /* device memory granularity */
#define VGPU_PIECE_BYTES (UINT64_C(1) << 20) /* largest piece of a shared block */

struct vgpu_block {
    uint64_t address;
    uint64_t charge; /* bytes; of a piece: VGPU_BLOCK_BYTES when put, 0 when taken */
    uint32_t owner;  /* serial of the context, never reused; 0 = no context */
    uint16_t device; /* index into region->devices */
    uint16_t piece;  /* 1: a piece of a shared block */
};

/* What the driver takes for a plain allocation of so many bytes (a piece: its whole block). */
static inline uint64_t vgpu_block_charge(uint64_t bytes) {
    uint64_t rounded = (bytes + VGPU_BLOCK_BYTES - 1) & ~(VGPU_BLOCK_BYTES - 1);
    return rounded < bytes ? UINT64_MAX : rounded; /* a size past the address space fits nowhere */
}

/* Enters an allocation. Returns how much of block->charge is not needed after all: a piece whose
 * block was charged already. A stale entry of the same address (its context died this moment) is
 * replaced; its charge is part of the return value. */
uint64_t vgpu_blocks_put(const struct vgpu_block *block);

/* Removes the allocation at the address; false if unknown. Done before the driver frees it, since
 * afterwards another thread may be given the same address. Then either it has left or it returns.
 */
bool vgpu_blocks_take(uint64_t address, struct vgpu_block *block);

/* What was taken is free. Returns what to refund: of a piece its block if nothing lives in it and
 * no other free is still under way, for the driver keeps the block until the last of them is done.
 */
uint64_t vgpu_blocks_left(const struct vgpu_block *block);

/* Puts back what was taken (the driver refused to free it). Returns what is not needed of the
 * charge that it kept. */
uint64_t vgpu_blocks_return(const struct vgpu_block *block);

/* Forgets everything that the context owns; bytes[device] += what it held. */
void vgpu_blocks_drop_owner(uint32_t owner, uint64_t *bytes);

/* The addresses of what the context owns, to be freed by the caller with free(); NULL and 0:
 * nothing, or no host memory. */
uint64_t *vgpu_blocks_list(uint32_t owner, uint64_t *count);

/* Forgets everything: after fork, in the child. */
void vgpu_blocks_forget(void);

uint64_t vgpu_blocks_count(void);

#endif
