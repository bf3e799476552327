#include "charge.h"

#include "pools.h"
#include "slot.h"

bool vgpu_charge_try(struct vgpu_session *session, const struct vgpu_account *account,
                     uint64_t bytes) {
    if (__builtin_expect(vgpu_ledger_reserve(account, bytes), 1)) return true;
    uint64_t limit = vgpu_ledger_limit(session->region, account->device);
    if (bytes > limit) return false;
    vgpu_slot_reap(session->region);
    vgpu_pools_refresh();
    return vgpu_ledger_reserve(account, bytes);
}

CUresult vgpu_charge_deny(struct vgpu_session *session, const struct vgpu_account *account,
                          const struct vgpu_request *request) {
    vgpu_ledger_denied(account);
    const struct vgpu_event event = {
        .kind = VGPU_EVENT_MEMORY_DENIED,
        .device = account->device,
        .api = request->api,
        .value = {request->asked, vgpu_ledger_used(session->region, account->device),
                  vgpu_ledger_limit(session->region, account->device), request->context},
    };
    vgpu_session_event(session, &event);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult vgpu_charge(struct vgpu_session *session, const struct vgpu_account *account,
                     const struct vgpu_request *request) {
    if (__builtin_expect(vgpu_charge_try(session, account, request->bytes), 1)) return CUDA_SUCCESS;
    return vgpu_charge_deny(session, account, request);
}
