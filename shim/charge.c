#include "charge.h"

#include "audit.h"
#include "audit_alone.h"
#include "exports.h"
#include "pools.h"
#include "slot.h"
#include "soft.h"

/* Near the limit an old figure of what no call names could let us pass it. Asked before anything is
 * reserved: NVML does not list a reservation, which would hide as much growth. */
static void look_before(struct vgpu_session *session, const struct vgpu_account *account,
                        uint64_t bytes) {
    uint64_t left = vgpu_ledger_left(session->region, account->device);
    if (__builtin_expect(left > VGPU_AUDIT_ZONE_BYTES && left - VGPU_AUDIT_ZONE_BYTES > bytes, 1))
        return;
    vgpu_audit_refresh(session, VGPU_AUDIT_AGE_NS);
}

bool vgpu_charge_try(struct vgpu_session *session, const struct vgpu_account *account,
                     uint64_t bytes) {
    look_before(session, account, bytes);
    if (__builtin_expect(vgpu_ledger_reserve(account, bytes), 1)) {
        vgpu_soft_ring(session->region, session->region_path, account->device);
        return true;
    }
    uint64_t limit = vgpu_ledger_limit(session->region, account->device);
    if (bytes > limit) return false;
    vgpu_slot_reap(session->region);
    vgpu_pools_refresh();
    vgpu_exports_reclaim(session);
    vgpu_audit_alone(session, account->device);
    return vgpu_ledger_reserve(account, bytes);
}

CUresult vgpu_charge_deny(struct vgpu_session *session, const struct vgpu_account *account,
                          const struct vgpu_request *request, uint64_t used) {
    vgpu_ledger_denied(account);
    const struct vgpu_event event = {
        .kind = VGPU_EVENT_MEMORY_DENIED,
        .device = account->device,
        .api = request->api,
        .value = {request->asked, used, vgpu_ledger_limit(session->region, account->device),
                  request->context},
    };
    vgpu_session_event(session, &event);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult vgpu_charge(struct vgpu_session *session, const struct vgpu_account *account,
                     const struct vgpu_request *request) {
    if (__builtin_expect(vgpu_charge_try(session, account, request->bytes), 1)) return CUDA_SUCCESS;
    return vgpu_charge_deny(session, account, request, vgpu_ledger_refused_use());
}
