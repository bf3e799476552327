/* Copies under --copy-bw: which way they go, and the wait for their bucket (bucket.h). The hooks
 * are in hook_copy.c. Copies into a capturing stream are neither charged nor held back: the graph's
 * are, when it is launched (graph_copies.h). */
#ifndef VGPU_COPY_H
#define VGPU_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "atomics.h"
#include "cuda_abi.h"
#include "region.h"

/* The three rates of the session's header; before the first copy, words that are not 0. */
extern const uint64_t *vgpu_copy_rates;

/* False if no direction has a limit: one line of memory and one branch. */
static inline bool vgpu_copy_limited(void) {
    const uint64_t *rates = vgpu_load_acquire(&vgpu_copy_rates);
    return (vgpu_load_relaxed(&rates[VGPU_COPY_H2D]) | vgpu_load_relaxed(&rates[VGPU_COPY_D2H]) |
            vgpu_load_relaxed(&rates[VGPU_COPY_D2D])) != 0;
}

/* One or several copies that are submitted together: bytes by VGPU_COPY_*. */
struct vgpu_copies {
    uint64_t bytes[3];
};

/* One end of a copy. CU_MEMORYTYPE_UNIFIED: the driver knows by the address where it lies. */
struct vgpu_copy_end {
    CUmemorytype type;
    CUdeviceptr address;
};

/* Adds a copy; one from host to host adds nothing. */
void vgpu_copy_add(struct vgpu_copies *copies, struct vgpu_copy_end to, struct vgpu_copy_end from,
                   uint64_t bytes);

/* Adds a batch of pieces, and one of boxes. */
void vgpu_copy_add_batch(struct vgpu_copies *copies, const CUdeviceptr *to, const CUdeviceptr *from,
                         const size_t *bytes, size_t count);
void vgpu_copy_add_boxes(struct vgpu_copies *copies, const CUDA_MEMCPY3D_BATCH_OP *boxes,
                         size_t count);

/* Adds migrations of managed memory: location[i] is for the pieces from first[i] on. */
void vgpu_copy_add_prefetches(struct vgpu_copies *copies, const size_t *bytes, size_t count,
                              const CUmemLocation *locations, const size_t *first,
                              size_t location_count);

/* Waits until no bucket that the copies need is in debt, and takes their bytes, on the GPU of the
 * current context. */
void vgpu_copy_wait(const struct vgpu_copies *copies);

/* The same, unless the stream is capturing. */
void vgpu_copy_wait_in(const struct vgpu_copies *copies, CUstream stream, bool per_thread);

#endif
