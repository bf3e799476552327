/* Contexts and what they cost: half a GiB each that no call names.
 *
 * The charge is reserved before the driver makes a context; one that came to be behind our back
 * (the CUDA runtime can reach the primary context through private tables) is charged when it is
 * first seen current. A known context costs one probe of contexts.h.
 */
#ifndef VGPU_CONTEXT_H
#define VGPU_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "contexts.h"
#include "cuda_abi.h"
#include "ledger.h"
#include "session.h"

/* Where an allocation made now would land. */
struct vgpu_place {
    struct vgpu_session *session; /* NULL: nothing to account, only forward */
    struct vgpu_account account;
    CUdevice ordinal;
    uint32_t owner;    /* serial of the context, 0 = unknown */
    CUcontext context; /* NULL: unknown */
};

/* Fills *place for the calling thread's current context. CUDA_ERROR_OUT_OF_MEMORY if that context
 * itself does not fit, else CUDA_SUCCESS. */
CUresult vgpu_context_here(struct vgpu_place *place, const char *api);

/* Fills *place for a device, without any context. */
void vgpu_context_on_device(struct vgpu_place *place, CUdevice ordinal);

/* Charges the context if it is new to us; CUDA_ERROR_OUT_OF_MEMORY if it does not fit, else
 * CUDA_SUCCESS. NULL is fine. */
CUresult vgpu_context_seen(CUcontext context);
CUresult vgpu_context_seen_by(CUcontext context, const char *api);

/* Spatial mode: *inside is what must be current where the program says context, its view of a
 * partition or the context itself. Charges and makes what is new; else as vgpu_context_seen_by. */
CUresult vgpu_context_inside(CUcontext context, const char *api, CUcontext *inside);

/* Spatial mode: what cuCtxCreate gives, a room in the partition, current. CUDA_ERROR_OUT_OF_MEMORY
 * if the device's primary context, which carries it, does not fit. */
CUresult vgpu_context_open_room(CUcontext *out, CUdevice ordinal, unsigned int flags,
                                const char *api);

/* Makes a context by calling make(how), charged beforehand, entered afterwards. */
CUresult vgpu_context_make(CUcontext *out, CUdevice ordinal, const char *api,
                           CUresult (*make)(void *how), void *how);

/* Enters a context that costs nothing of its own: a green one runs in its device's primary one, and
 * its allocations are that one's. */
void vgpu_context_enter_free(CUcontext context, CUdevice ordinal);

/* Ends a context by calling end(context); refunds it and the plain allocations that go with it. */
CUresult vgpu_context_end(CUcontext context, CUresult (*end)(CUcontext));

/* The same for the primary context of a device. Releasing ends it only with its last reference;
 * a reset always does. */
CUresult vgpu_context_retain_primary(CUcontext *out, CUdevice ordinal, const char *api);
CUresult vgpu_context_release_primary(CUdevice ordinal, CUresult (*end)(CUdevice), bool reset);

/* A green context of the program's own holds a reference to the primary one, and makes it if there
 * is none. */
CUresult vgpu_context_make_green(CUgreenCtx *out, CUdevResourceDesc resources, CUdevice ordinal,
                                 unsigned int flags);
CUresult vgpu_context_end_green(CUgreenCtx green);

/* cuCtxSynchronize. A primary context's waits for the program's green ones too; those are not its
 * view's, so where there are any the primary itself is asked, and with it its rooms. */
CUresult vgpu_context_synchronize(void);

#endif
