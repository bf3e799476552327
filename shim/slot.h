/* Slots: which process holds what. A slot never moves; its owner word names pid, generation and
 * state, so claiming, leaving and reaping are one compare-and-swap each. */
#ifndef VGPU_SLOT_H
#define VGPU_SLOT_H

#include <stdbool.h>
#include <stdint.h>

#include "region.h"

static inline uint32_t vgpu_slot_pid(uint64_t owner) { return (uint32_t)(owner >> 32); }
static inline uint32_t vgpu_slot_state(uint64_t owner) { return (uint32_t)(owner & 0xff); }

/* Claims a free slot for the calling process (reaping dead ones if none is free). Returns the index
 * or -1 when VGPU_MAX_SLOTS live processes hold them all. */
int vgpu_slot_claim(struct vgpu_region *region, uint32_t pid, const char *name);

/* How a slot's process fares, from /proc: alive, stopped (T/t), gone (no such pid, other start
 * time, zombie, dead or exiting: no thread will run again). */
enum vgpu_life { VGPU_ALIVE, VGPU_STOPPED, VGPU_EXITING, VGPU_GONE };
/* EXITING: it will never run user code again but its teardown is still under way (its memory may
 * still be held by the driver); GONE: nothing is left of it. */
enum vgpu_life vgpu_slot_life(const struct vgpu_slot *slot);
enum vgpu_life vgpu_process_life(uint32_t pid, uint64_t start_time);

/* Frees every slot whose process is GONE. Returns how many. */
int vgpu_slot_reap(struct vgpu_region *region);

/* Reads field 22 (start time, clock ticks since boot), the state letter and field 9 (flags) of
 * /proc/PID/stat. Returns false if there is no such process. comm may hold any bytes. */
bool vgpu_process_stat(uint32_t pid, uint64_t *start_time, char *state, uint64_t *flags);

#endif
