/* Atomic operations by the order they need, so that the order is read at the call.
 * Shared-memory words are plain integers in region.h; these are the only way to touch them. */
#ifndef VGPU_ATOMICS_H
#define VGPU_ATOMICS_H

#include <stdbool.h>
#include <stdint.h>

#define vgpu_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define vgpu_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define vgpu_load_seq_cst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define vgpu_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define vgpu_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define vgpu_store_seq_cst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define vgpu_add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define vgpu_sub_relaxed(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_RELAXED)
#define vgpu_add_acq_rel(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define vgpu_add_seq_cst(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define vgpu_sub_seq_cst(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_SEQ_CST)
#define vgpu_exchange_acq_rel(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define vgpu_exchange_seq_cst(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
/* *expected is overwritten with the word's value on failure. */
#define vgpu_cas_acq_rel(p, expected, desired)                                                     \
    __atomic_compare_exchange_n((p), (expected), (desired), false, __ATOMIC_ACQ_REL,               \
                                __ATOMIC_ACQUIRE)
#define vgpu_cas_seq_cst(p, expected, desired)                                                     \
    __atomic_compare_exchange_n((p), (expected), (desired), false, __ATOMIC_SEQ_CST,               \
                                __ATOMIC_SEQ_CST)

/* Raises *p to v if v is greater. */
static inline void vgpu_max_relaxed(uint64_t *p, uint64_t v) {
    uint64_t seen = vgpu_load_relaxed(p);
    while (seen < v &&
           !__atomic_compare_exchange_n(p, &seen, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

#endif
