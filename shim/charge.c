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
    struct vgpu_session *around = session;
    for (const struct vgpu_account *at = account; at; at = at->outer, around = around->outer)
        look_before(around, at, bytes);
    if (__builtin_expect(vgpu_ledger_reserve(account, bytes), 1)) {
        around = session;
        for (const struct vgpu_account *at = account; at; at = at->outer, around = around->outer)
            vgpu_soft_ring(around->region, around->region_path, at->device);
        return true;
    }
    if (bytes > vgpu_account_limit(account)) return false;
    for (around = session; around; around = around->outer) vgpu_slot_reap(around->region);
    vgpu_pools_refresh();
    vgpu_exports_reclaim(session);
    around = session;
    for (const struct vgpu_account *at = account; at; at = at->outer, around = around->outer)
        vgpu_audit_alone(around, at->device);
    return vgpu_ledger_reserve(account, bytes);
}

CUresult vgpu_charge_deny(struct vgpu_session *session, const struct vgpu_account *account,
                          const struct vgpu_request *request, struct vgpu_refusal refusal) {
    const struct vgpu_account *where = refusal.where;
    for (bool last = false; !last; account = account->outer, session = session->outer) {
        last = account->region == where->region || !account->outer;
        vgpu_ledger_denied(account);
        const struct vgpu_event event = {
            .kind = VGPU_EVENT_MEMORY_DENIED,
            .device = account->device,
            .api = request->api,
            .value = {request->asked, refusal.used, vgpu_ledger_limit(where->region, where->device),
                      request->context},
        };
        vgpu_session_event(session, &event);
    }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult vgpu_charge(struct vgpu_session *session, const struct vgpu_account *account,
                     const struct vgpu_request *request) {
    if (__builtin_expect(vgpu_charge_try(session, account, request->bytes), 1)) return CUDA_SUCCESS;
    return vgpu_charge_deny(session, account, request, vgpu_ledger_refusal());
}
