#include "grant.h"

#define MEASURE_NS UINT64_C(10000000)
#define LONGEST_NS UINT64_C(1000000000) /* the computer may have slept meanwhile */

static void measure(struct vgpu_grant *grant, uint64_t now_ns, uint64_t ticks) {
    uint64_t ns = now_ns - grant->since_ns, passed = ticks - grant->since_ticks;
    if (grant->since_ns && ns < MEASURE_NS) return;
    if (grant->since_ns && ns < LONGEST_NS && passed) {
        double tick_ns = (double)ns / (double)passed * 0x1p32;
        /* 10 MHz to 10 GHz; anything else is no counter to tell the time by. */
        grant->tick_ns = tick_ns > 0x1p32 / 10 && tick_ns < 0x1p32 * 100 ? (uint64_t)tick_ns : 0;
    }
    grant->since_ns = now_ns;
    grant->since_ticks = ticks;
}

void vgpu_grant_give(struct vgpu_grant *grant, uint64_t now_ns, uint64_t ticks, uint64_t end_ns,
                     uint64_t window_ns) {
    measure(grant, now_ns, ticks);
    grant->now_ns = now_ns;
    grant->ticks = ticks;
    grant->end_ns = end_ns;
    grant->window_ns = window_ns;
    uint64_t lasts = grant->tick_ns ? (VGPU_GRANT_NS << 32) / grant->tick_ns : 0;
    vgpu_store_relaxed(&grant->lasts_ticks, end_ns > now_ns ? lasts : 0);
}
