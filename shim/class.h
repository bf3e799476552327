/* Classes of streams (include/vgpu.h): what a class's work is charged, and which functions are
 * communication by their name. */
#ifndef VGPU_CLASS_H
#define VGPU_CLASS_H

#include <stdbool.h>
#include <stdint.h>

#include "region.h"

#define VGPU_WEIGHTED_CLASSES 4U /* the last class, communication, is charged as it is */

/* True for NCCL's kernels. Asks the driver for the name (since CUDA 12.3; before, it has none). */
bool vgpu_class_is_communication(const void *function);

/* What `charge_ns` of measured time costs the session: by dampening, and by the weights of the
 * classes in proportion to the predicted work of each in the slice. */
uint64_t vgpu_class_weigh(const struct vgpu_header *header,
                          const uint64_t work_ns[VGPU_WEIGHTED_CLASSES + 1], uint64_t charge_ns);

#endif
