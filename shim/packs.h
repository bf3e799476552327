/* Small things of a context whose place no call tells (arrays, variables of modules): the driver
 * packs them into 2 MiB blocks. Which block one lies in is modelled: first fit, and a block goes
 * when it is empty (measured on an H200: exact for 9 of 9 shapes filled and emptied). Which holes
 * the driver fills when some have gone is not known: none, so that it never has more blocks than
 * are charged.
 * Process-local; any thread. */
#ifndef VGPU_PACKS_H
#define VGPU_PACKS_H

#include <stdint.h>

struct vgpu_pack; /* one modelled block */

/* Puts bytes (at most a block) of the context's into a block. *cost: what that makes the driver
 * take: a block or nothing. NULL: no host memory; nothing is charged then. */
struct vgpu_pack *vgpu_packs_put(uint32_t owner, uint32_t device, uint64_t bytes, uint64_t *cost);

/* Takes one out again. Returns what the driver gives back: a block or nothing. */
uint64_t vgpu_packs_drop(struct vgpu_pack *pack);

void vgpu_packs_forget(void);

#endif
