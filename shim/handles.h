/* Physical memory made by cuMemCreate: alive as long as a handle or a mapping refers to it,
 * whatever happens to contexts. Pure and process-local; safe from any thread.
 *
 * A count is raised before the driver call that adds a reference and undone if that fails; it is
 * lowered before a call that removes one, and what fell to zero is refunded after it succeeded.
 */
#ifndef VGPU_HANDLES_H
#define VGPU_HANDLES_H

#include <stdbool.h>
#include <stdint.h>

struct vgpu_backing; /* one piece of physical memory */
struct vgpu_mapping; /* one address range that shows it */

/* What the caller has to refund; bytes = 0: nothing has gone. */
struct vgpu_freed {
    uint64_t bytes;
    uint32_t device;
    bool exported; /* another process may still hold it */
};

/* Enters a handle from cuMemCreate (bytes = its charge) or from an import (bytes = 0). */
void vgpu_handles_put(uint64_t handle, uint64_t bytes, uint32_t device);

/* Another reference to what is mapped at the address, under this handle value. */
void vgpu_handles_retain(uint64_t handle, uint64_t address);

/* One reference of the handle less. NULL: unknown. Keep the result for one of the next two. */
struct vgpu_backing *vgpu_handles_release(uint64_t handle);
struct vgpu_freed vgpu_handles_released(struct vgpu_backing *backing);
void vgpu_handles_unrelease(uint64_t handle, struct vgpu_backing *backing);

/* A mapping of the handle is about to be made; then one of the two below. */
struct vgpu_mapping *vgpu_handles_map(uint64_t handle, uint64_t address, uint64_t bytes);
void vgpu_handles_mapped(struct vgpu_mapping *mapping);
struct vgpu_freed vgpu_handles_unmapped(struct vgpu_mapping *mapping);

/* Takes out the mappings in [address, address + bytes) as a list; then drop them one by one with
 * vgpu_handles_unmapped, or put them back. */
struct vgpu_mapping *vgpu_handles_unmap(uint64_t address, uint64_t bytes);
struct vgpu_mapping *vgpu_handles_next(struct vgpu_mapping *mapping);

/* The handle was handed to another process. */
void vgpu_handles_export(uint64_t handle);

void vgpu_handles_forget(void);

#endif
