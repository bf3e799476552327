#include "bucket.h"

#include "atomics.h"

#define LONGEST_NS 1e18 /* some 30 years: the sum with any time still fits */

static uint64_t cost_ns(uint64_t bytes, uint64_t bytes_per_s) {
    double ns = (double)bytes / (double)bytes_per_s * 1e9;
    return ns < LONGEST_NS ? (uint64_t)ns : (uint64_t)LONGEST_NS;
}

bool vgpu_bucket_take(uint64_t *paid_ns, uint64_t bytes_per_s, uint64_t bytes, uint64_t request_ns,
                      uint64_t now_ns, uint64_t *until_ns) {
    uint64_t earliest = request_ns > VGPU_BUCKET_CREDIT_NS ? request_ns - VGPU_BUCKET_CREDIT_NS : 0;
    uint64_t paid = vgpu_load_acquire(paid_ns), next;
    do {
        if (paid > now_ns) {
            *until_ns = paid;
            return false;
        }
        next = (paid > earliest ? paid : earliest) + cost_ns(bytes, bytes_per_s);
    } while (!vgpu_cas_acq_rel(paid_ns, &paid, next));
    return true;
}
