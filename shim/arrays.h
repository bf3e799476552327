/* CUDA arrays and mipmaps: their layout is the driver's own, so a size cannot be computed from the
 * shape. Above 1 MiB the driver is asked: a twin with deferred mapping takes nothing and says what
 * it would need. Up to 1 MiB (where a twin, being mapped, would need 64 KiB at least) the padded
 * size goes into the blocks of packs.h. Process-local; safe from any thread. */
#ifndef VGPU_ARRAYS_H
#define VGPU_ARRAYS_H

#include <stdbool.h>
#include <stdint.h>

#include "context.h"
#include "cuda_abi.h"

/* Makes an array (or, levels > 0, a mipmap) by make(how), charged beforehand; *out is its handle.
 */
struct vgpu_array_call {
    CUDA_ARRAY3D_DESCRIPTOR shape;
    unsigned int levels;
    const char *api;
    void **out;
    CUresult (*make)(const void *how);
    const void *how;
};
CUresult vgpu_arrays_make(const struct vgpu_array_call *call);

/* Around the destruction of one: taken out before (the handle may be reused at once), refunded if
 * rc is CUDA_SUCCESS, else put back. */
struct vgpu_array;
struct vgpu_array *vgpu_arrays_take(const void *handle);
CUresult vgpu_arrays_end(struct vgpu_array *array, CUresult rc);

/* Forgets what the context owns; bytes[device] += what it held. */
void vgpu_arrays_drop_owner(uint32_t owner, uint64_t *bytes);

void vgpu_arrays_forget(void);

/* The most that the driver takes for the shape, before rounding to its granularity; saturates. */
uint64_t vgpu_array_padded(const CUDA_ARRAY3D_DESCRIPTOR *shape, unsigned int levels);

#endif
