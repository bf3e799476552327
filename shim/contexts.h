/* The table of this process's contexts: handle -> serial and device. Pure; reading takes no lock.
 */
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

/* Adds to what the context costs, and what its end gives back. False if it is gone. */
bool vgpu_contexts_grow(const void *handle, int64_t bytes);

/* What has made a context grow besides allocations; each word is changed by compare-and-swap. It
 * stays readable when the context has gone (its place may then serve another one). */
struct vgpu_tally {
    uint64_t local;   /* local memory, bytes a thread: by limit << 32 | by kernels */
    uint64_t streams; /* paid for << 32 | alive */
    uint64_t graphs;  /* nodes of executable graphs: paid for << 32 | alive */
    /* Calls that set the stack limit, now and ever: under the lock of local.c. */
    uint64_t setting, settings;
};

/* NULL: not a context that we know. */
struct vgpu_tally *vgpu_contexts_tally(const void *handle);

/* After fork, in the child. */
void vgpu_contexts_forget(void);

#endif
