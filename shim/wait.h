/* Clock, sleeping and futexes. Every wait here has a deadline. Times are CLOCK_MONOTONIC ns. */
#ifndef VGPU_WAIT_H
#define VGPU_WAIT_H

#include <stdint.h>

#include "atomics.h"

uint64_t vgpu_now_ns(void);

/* The CPU's counter: much cheaper to read than the clock, of unknown rate. 0 where there is none.
 */
uint64_t vgpu_ticks(void);

/* Sleeps until deadline_ns or until *word is no longer `seen` and somebody wakes one of these ears,
 * a bit each. The word may lie in shared memory. The thread's timer slack is lowered for the length
 * of the wait only. */
#define VGPU_ALL_EARS UINT32_MAX
void vgpu_wait_word(const uint32_t *word, uint32_t seen, uint64_t deadline_ns, uint32_t ears);

/* Raises *word and wakes all who wait on it with one of these ears, in every process. */
void vgpu_wake_word(uint32_t *word, uint32_t ears);

/* Sleeps until deadline_ns. */
void vgpu_wait_until(uint64_t deadline_ns);

/* Waits until *users is 0, 10 ms at most: they are in calls that take a few us. */
static inline void vgpu_wait_unused(const uint32_t *users) {
    uint64_t now = vgpu_now_ns(), deadline = now + 10000000;
    for (; vgpu_load_seq_cst(users) && now < deadline; now = vgpu_now_ns())
        vgpu_wait_until(now + 5000);
}

#endif
