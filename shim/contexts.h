/* The table of this process's contexts: handle -> serial and device. Pure; reading takes no lock. */
#ifndef VGPU_CONTEXTS_H
#define VGPU_CONTEXTS_H

#include <stdbool.h>
#include <stdint.h>

struct vgpu_context {
    const void *handle;
    uint32_t owner;  /* serial, never reused: handles are */
    uint32_t device; /* index into region->devices */
    int ordinal;
    uint64_t charge;
};

/* Fills *context and returns true if the handle is known. */
bool vgpu_contexts_find(const void *handle, struct vgpu_context *context);

/* Enters a context; context->owner 0 gets a new serial, which is written back. False if the handle
 * is known already or the table is full. */
bool vgpu_contexts_put(struct vgpu_context *context);

/* Removes the handle. */
bool vgpu_contexts_take(const void *handle, struct vgpu_context *context);

bool vgpu_contexts_alive(uint32_t owner);

/* After fork, in the child. */
void vgpu_contexts_forget(void);

#endif
