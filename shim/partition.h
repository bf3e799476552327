/* Spatial mode: the session's own SMs on a device.
 *
 * A partition is some of the groups that the driver splits the card's SMs into
 * (cuDevSmResourceSplitByCount gives the same groups, in the same order, in every process); which
 * ones, the supervisor has written into the region before the target started, and they never
 * change.
 *
 * In each process the partition is a green context. It is a view of the device's primary context:
 * memory, modules and events are the primary's, work runs on the partition's SMs. So:
 *   - where the program makes the primary context current, its view becomes current instead; the
 *     program goes on seeing the handle it knows (inside, outside);
 *   - where the program makes a context of its own (cuCtxCreate), it gets another view: a room.
 * cudart gets the primary context through a private table and hands it to cuCtxSetCurrent: that is
 * why the swap is there, and not in cuDevicePrimaryCtxRetain.
 *
 * What is charged for whom is context.c's business; here are only the driver's objects. */
#ifndef VGPU_PARTITION_H
#define VGPU_PARTITION_H

#include <stdbool.h>
#include <stdint.h>

#include "cuda_abi.h"

/* True if the session has a partition on any device. One load and one branch once known. */
enum { VGPU_PARTITION_UNKNOWN, VGPU_PARTITION_NONE, VGPU_PARTITION_SOME };
extern uint32_t vgpu_partition_state;
bool vgpu_partition_find_out(void);
static inline bool vgpu_partition_any(void) {
    uint32_t state = __atomic_load_n(&vgpu_partition_state, __ATOMIC_RELAXED);
    if (__builtin_expect(state == VGPU_PARTITION_NONE, 1)) return false;
    return state == VGPU_PARTITION_SOME || vgpu_partition_find_out();
}

/* SMs of the partition on the device; 0: none, the whole card is there. */
uint32_t vgpu_partition_sms(CUdevice ordinal);

/* The view of the device's primary context, made if there is none. *made: by this very call.
 * CUDA_ERROR_NOT_SUPPORTED: a driver before CUDA 12.4;
 * CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION: this card does not split as the region says. */
CUresult vgpu_partition_view(CUdevice ordinal, CUcontext primary, CUcontext *view, bool *made);

/* The view of a primary context that has one, else the context itself; and the way back. */
CUcontext vgpu_partition_inside(CUcontext context);
CUcontext vgpu_partition_outside(CUcontext context);

/* An event without timing in this context, current or not. NULL if that is not to be had. */
CUevent vgpu_partition_event(CUcontext context);

/* True for a context of ours in a partition: a view or a room. */
bool vgpu_partition_is_inside(CUcontext context);

/* The device's primary context and its view, while it has one. */
bool vgpu_partition_of(CUdevice ordinal, CUcontext *primary, CUcontext *view);

/* Ends the view: before the primary context itself ends. The way back stays known, for threads that
 * have the dead view current (for the last 16), until the driver gives the handle to another
 * context (taken_over). */
void vgpu_partition_end_view(CUdevice ordinal);
void vgpu_partition_taken_over(CUcontext context);

/* A room: a view for a context that the program asked for. flags: what cuCtxGetFlags is to say. */
CUresult vgpu_partition_open_room(CUdevice ordinal, unsigned int flags, CUcontext *room);

/* Whether the context is a room; *ordinal and *flags (either may be NULL) are its. */
bool vgpu_partition_is_room(CUcontext context, CUdevice *ordinal, unsigned int *flags);

/* False: it is none. */
bool vgpu_partition_set_flags(CUcontext context, unsigned int flags);

/* Whether there is any on the device. */
bool vgpu_partition_has_room(CUdevice ordinal);

/* Ends a room. CUDA_ERROR_INVALID_CONTEXT: it is none. */
CUresult vgpu_partition_close_room(CUcontext context);

/* A graph node that names a primary context is to run in its view: its parameters, as they are
 * where there is nothing to swap, else swapped in *room. */
const CUDA_KERNEL_NODE_PARAMS *vgpu_partition_kernel(const CUDA_KERNEL_NODE_PARAMS *params,
                                                     CUDA_KERNEL_NODE_PARAMS *room);
CUgraphNodeParams *vgpu_partition_node(CUgraphNodeParams *params, CUgraphNodeParams *room);

/* Whether code that we do not see (cudart) may hold the primary contexts too: it does from the
 * moment that it asks for the driver's private tables. */
void vgpu_partition_note_tables(void);
bool vgpu_partition_is_shared(void);

/* After fork, in the child. */
void vgpu_partition_forget(void);

#endif
