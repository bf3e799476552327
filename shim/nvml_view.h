/* What NVML's answers are measured against: the session's limit and use of a device. */
#ifndef VGPU_NVML_VIEW_H
#define VGPU_NVML_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "nvml_abi.h"
#include "region.h"

struct vgpu_nvml_view {
    const struct vgpu_region *region; /* NULL: no session, or no limit on this device */
    uint64_t limit, used;             /* used <= limit */
};

/* The session's view of a device, found by its UUID: NVML's order and CUDA's differ. A device that
 * no process has used yet is not claimed for a query: it has the default limit. card_bytes: the
 * card's size, 0 = not known here. */
struct vgpu_nvml_view vgpu_nvml_view(nvmlDevice_t device, uint64_t card_bytes);

bool vgpu_nvml_in_session(const struct vgpu_region *region, uint32_t pid);

#endif
