/* What makes a context grow without naming bytes: thin wrappers, the thinking is in overhead.c and
 * local.c. */
#include "interpose.h"
#include "local.h"
#include "overhead.h"
#include "stream_order.h"

VGPU_EXPORT CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
    return vgpu_local_set_limit(limit, value);
}

/* The arguments of whichever function was called. */
struct creation {
    CUstream *out;
    CUgreenCtx green;
    unsigned int flags;
    int priority;
};

static CUresult make_plain(const void *how) {
    const struct creation *c = how;
    return REAL(cuStreamCreate)(c->out, c->flags);
}
static CUresult make_with_priority(const void *how) {
    const struct creation *c = how;
    return REAL(cuStreamCreateWithPriority)(c->out, c->flags, c->priority);
}
static CUresult make_green(const void *how) {
    const struct creation *c = how;
    return REAL(cuGreenCtxStreamCreate)(c->out, c->green, c->flags, c->priority);
}

/* The stream's place in the order of its context's. */
static CUresult entered(CUresult rc, const struct creation *c) {
    if (rc == CUDA_SUCCESS) vgpu_order_enter(*c->out, c->flags);
    return rc;
}

VGPU_EXPORT CUresult cuStreamCreate(CUstream *out, unsigned int flags) {
    const struct creation how = {out, NULL, flags, 0};
    return entered(vgpu_overhead_stream("cuStreamCreate", make_plain, &how), &how);
}

VGPU_EXPORT CUresult cuStreamCreateWithPriority(CUstream *out, unsigned int flags, int priority) {
    const struct creation how = {out, NULL, flags, priority};
    return entered(vgpu_overhead_stream("cuStreamCreateWithPriority", make_with_priority, &how),
                   &how);
}

VGPU_EXPORT CUresult cuGreenCtxStreamCreate(CUstream *out, CUgreenCtx green, unsigned int flags,
                                            int priority) {
    const struct creation how = {out, green, flags, priority};
    return vgpu_overhead_stream("cuGreenCtxStreamCreate", make_green, &how);
}
