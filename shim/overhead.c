#include "overhead.h"

#include "atomics.h"
#include "audit.h"
#include "blocks.h"
#include "charge.h"
#include "interpose.h"

#define FAR_FROM_LIMIT (UINT64_C(1) << 30)

#define PAID(word) ((word) >> 32)
#define ALIVE(word) ((word)&UINT32_MAX)
#define WORD(paid, alive) ((paid) << 32 | (alive))

CUresult vgpu_overhead_grow(const struct vgpu_place *place, uint64_t bytes, const char *api) {
    const struct vgpu_request request = {bytes, bytes, 0, api};
    CUresult rc = vgpu_charge(place->session, &place->account, &request);
    if (rc == CUDA_SUCCESS && !vgpu_contexts_grow(place->context, (int64_t)bytes))
        vgpu_ledger_refund(&place->account, bytes); /* the context has ended meanwhile */
    return rc;
}

void vgpu_overhead_shrink(const struct vgpu_place *place, uint64_t bytes) {
    if (vgpu_contexts_grow(place->context, -(int64_t)bytes))
        vgpu_ledger_refund(&place->account, bytes);
}

uint64_t vgpu_overhead_blocks(uint64_t bytes) {
    return bytes / VGPU_BLOCK_BYTES * VGPU_BLOCK_BYTES;
}

/* --- streams --- */

static uint64_t cost_of(uint64_t streams) {
    return streams ? vgpu_overhead_blocks(streams * VGPU_STREAM_BYTES) + VGPU_STREAM_SPARE : 0;
}

CUresult vgpu_overhead_stream(const char *api, CUresult (*make)(const void *how), const void *how) {
    struct vgpu_place place;
    CUresult rc = vgpu_context_here(&place, api);
    struct vgpu_tally *tally = rc || !place.session ? NULL : vgpu_contexts_tally(place.context);
    if (!tally) return rc ? rc : make(how);
    uint64_t word = vgpu_load_relaxed(&tally->streams), pays, bytes;
    for (;;) {
        pays = ALIVE(word) >= PAID(word);
        bytes = cost_of(PAID(word) + pays) - cost_of(PAID(word));
        if (bytes && (rc = vgpu_overhead_grow(&place, bytes, api))) return rc;
        if (vgpu_cas_acq_rel(&tally->streams, &word, WORD(PAID(word) + pays, ALIVE(word) + 1)))
            break;
        if (bytes) vgpu_overhead_shrink(&place, bytes);
    }
    rc = make(how);
    if (rc == CUDA_SUCCESS) return rc;
    word = vgpu_load_relaxed(&tally->streams);
    while (!vgpu_cas_acq_rel(&tally->streams, &word, WORD(PAID(word) - pays, ALIVE(word) - 1))) {
    }
    bytes = cost_of(PAID(word)) - cost_of(PAID(word) - pays);
    if (bytes) vgpu_overhead_shrink(&place, bytes);
    return rc;
}

CUresult vgpu_overhead_stream_end(CUstream stream, CUresult (*end)(CUstream)) {
    CUcontext context = NULL;
    if ((uintptr_t)stream > 2 && vgpu_session_get() &&
        CALL(cuStreamGetCtx)(stream, &context) != CUDA_SUCCESS)
        context = NULL;
    CUresult rc = end(stream);
    struct vgpu_tally *tally = rc == CUDA_SUCCESS ? vgpu_contexts_tally(context) : NULL;
    uint64_t word = tally ? vgpu_load_relaxed(&tally->streams) : 0;
    while (ALIVE(word) &&
           !vgpu_cas_acq_rel(&tally->streams, &word, WORD(PAID(word), ALIVE(word) - 1))) {
    }
    return rc;
}

/* --- what nothing names --- */

bool vgpu_overhead_fits(const struct vgpu_place *place) {
    if (vgpu_account_left(&place->account) > FAR_FROM_LIMIT) return true;
    for (struct vgpu_session *session = place->session; session; session = session->outer)
        vgpu_audit_refresh(session, 0);
    return vgpu_account_fits(&place->account);
}
