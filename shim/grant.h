/* A grant: what the last decision to let a launch in has found out (the slice is ours until then,
 * so much may run ahead of the GPU, this is the time), kept for a moment. The launches that follow
 * are decided by it, with neither a look at shared memory nor at the clock: the CPU's own counter
 * tells the time since. So what others do (wait for us, take the slice from us) is noticed up to
 * VGPU_GRANT_NS late, unless our watcher hears of it and revokes the grant. Pure; the caller
 * serialises. */
#ifndef VGPU_GRANT_H
#define VGPU_GRANT_H

#include <stdbool.h>
#include <stdint.h>

#include "atomics.h"

#define VGPU_GRANT_NS UINT64_C(1000000)

struct vgpu_grant {
    uint64_t ticks;                 /* of the counter when it was given … */
    uint64_t lasts_ticks;           /* … and for how many it lasts; 0 = revoked */
    uint64_t now_ns;                /* when it was given */
    uint64_t tick_ns;               /* × 2^32; 0 = the counter's rate is not known yet */
    uint64_t end_ns;                /* predicted work must have ended by then */
    uint64_t window_ns;             /* may run ahead of the GPU */
    uint64_t since_ticks, since_ns; /* the rate is measured since then */
};

/* Replaces the grant. now_ns was read just before `ticks`. Nothing is granted before the counter's
 * rate has been seen for a while. */
void vgpu_grant_give(struct vgpu_grant *grant, uint64_t now_ns, uint64_t ticks, uint64_t end_ns,
                     uint64_t window_ns);

static inline void vgpu_grant_revoke(struct vgpu_grant *grant) {
    vgpu_store_relaxed(&grant->lasts_ticks, UINT64_C(0));
}

/* True if there may be a grant: also without serialisation. */
static inline bool vgpu_grant_is_given(const struct vgpu_grant *grant) {
    return vgpu_load_relaxed(&grant->lasts_ticks) != 0;
}

/* The time, while the grant lasts; else 0. */
static inline uint64_t vgpu_grant_now(const struct vgpu_grant *grant, uint64_t ticks) {
    uint64_t passed = ticks - grant->ticks;
    return passed < grant->lasts_ticks ? grant->now_ns + (passed * grant->tick_ns >> 32) : 0;
}

#endif
