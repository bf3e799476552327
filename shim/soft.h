/* Pressure: the supervisor watches how full the session is and says so (events, vgpu.h). A shim
 * only compares a use that it knows anyway with the next threshold, and wakes the supervisor once.
 */
#ifndef VGPU_SOFT_H
#define VGPU_SOFT_H

#include "atomics.h"
#include "region.h"
#include "ring.h"

/* For the ledger, which knows the use: one load and one compare. */
static inline void vgpu_soft_note(struct vgpu_device *device, uint64_t used) {
    uint64_t next = vgpu_load_relaxed(&device->pressure_next_bytes);
    if (__builtin_expect(used > next && next, 0)) vgpu_store_relaxed(&device->pressure_crossed, 1U);
}

/* For whoever charged, and knows the session: one load and one branch. Only the first to see a
 * crossing rings; the supervisor sets the next threshold. */
static inline void vgpu_soft_ring(struct vgpu_region *region, const char *region_path,
                                  uint32_t device) {
    uint32_t *crossed = &region->devices[device].pressure_crossed;
    if (__builtin_expect(vgpu_load_relaxed(crossed) == 1U, 0)) {
        vgpu_store_relaxed(crossed, 2U);
        vgpu_ring_bell(&region->header, region_path);
    }
}

#endif
