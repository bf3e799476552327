/* Asking the ledger on behalf of a driver call: what is tried before a request is refused, and how
 * the refusal is told. */
#ifndef VGPU_CHARGE_H
#define VGPU_CHARGE_H

#include "cuda_abi.h"
#include "ledger.h"
#include "session.h"

struct vgpu_request {
    uint64_t bytes;   /* what the driver would take */
    uint64_t asked;   /* what the program asked for */
    uint64_t context; /* the context's own size if it is a context that is asked for */
    const char *api;
};

/* Charges the bytes: true. If they do not fit, neither after dead processes and returned pool
 * memory have been taken out: false, nothing told yet. */
bool vgpu_charge_try(struct vgpu_session *session, const struct vgpu_account *account,
                     uint64_t bytes);

/* Counts and publishes a refusal, in this session and those around it up to the one in which the
 * request did not fit; returns CUDA_ERROR_OUT_OF_MEMORY. */
CUresult vgpu_charge_deny(struct vgpu_session *session, const struct vgpu_account *account,
                          const struct vgpu_request *request, struct vgpu_refusal refusal);

/* Both: CUDA_SUCCESS, or the refusal. */
CUresult vgpu_charge(struct vgpu_session *session, const struct vgpu_account *account,
                     const struct vgpu_request *request);

#endif
