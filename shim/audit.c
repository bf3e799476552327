#include "audit.h"

#include "atomics.h"
#include "slot.h"
#include "wait.h"

#define PATIENCE_NS UINT64_C(50000000)
#define POLL_NS UINT64_C(50000)

bool vgpu_audit_supervised(const struct vgpu_header *header) {
    uint64_t start_time, flags;
    char state;
    return vgpu_process_stat(header->supervisor_pid, &start_time, &state, &flags) &&
           start_time == header->supervisor_start && state != 'Z' && state != 'X';
}

bool vgpu_audit_refresh(struct vgpu_session *session, uint64_t age_ns) {
    struct vgpu_header *header = &session->region->header;
    /* One answer is good for all processes: N of them at the limit do not make N questions. */
    uint64_t now = vgpu_now_ns(), last = vgpu_load_acquire(&header->audit_ns);
    if (last && now - last < age_ns) return true;
    if (!vgpu_load_relaxed(&header->audit) || !vgpu_audit_supervised(header)) return false;
    uint32_t wanted = vgpu_add_seq_cst(&header->audit_wanted, 1U) + 1;
    vgpu_ring_bell(header, session->region_path);
    for (uint64_t end = now + PATIENCE_NS; vgpu_now_ns() < end;) {
        /* The difference, since the counter goes round. */
        if ((int32_t)(vgpu_load_acquire(&header->audit_done) - wanted) >= 0) return true;
        vgpu_wait_until(vgpu_now_ns() + POLL_NS);
    }
    return false;
}
