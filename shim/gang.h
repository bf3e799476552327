/* The gang: GPUs of one session whose work waits for each other (NCCL's collectives, kernels that
 * spin on a peer's flag). Gates of their own would close one rank's GPU while the other's is open,
 * and both stand still; so a gang has ONE schedule, the gate of its leader, and one slice over all
 * its GPUs. Pure: works on the mapped region, calls no driver and no clock, never waits.
 *
 * Glossary
 *   member   a device of the gang: a bit in header.gang_members. Devices join, never leave.
 *   leader   the member with the lowest UUID; its gate is the gang's.
 *   part     what one device has in the open slice: one process's work, as without a gang.
 *   stuck    a part that has not drained when it should have: it may wait for a peer, so peers that
 *            have drained may go on launching although the slice is over.
 *
 * The parts of the open slice are ONE word of the leader: epoch << 32 | stuck << 16 | busy, a bit a
 * device. Whoever clears the last busy bit closes the slice; nobody can join it any more. A slice
 * of a device without a gang has one part. The dead leave their bit behind: see slice.c's rob.
 */
#ifndef VGPU_GANG_H
#define VGPU_GANG_H

#include <stdbool.h>
#include <stdint.h>

#include "region.h"

/* A slice is share × this: ranks end unevenly, which cost 1.2 ms a slice of data-parallel training.
 */
#define VGPU_GANG_PERIOD_NS UINT64_C(100000000)
#define VGPU_GANG_STUCK_NS UINT64_C(100000) /* no progress for so long after it was due */
/* A peer is told at the latest so long after the last progress: the prediction may be wrong. Sooner
 * than long kernels end it is not: to help who only takes long costs the neighbours turns. */
#define VGPU_GANG_DUE_NS UINT64_C(100000000)
#define VGPU_GANG_HELP_NS UINT64_C(200000) /* work let run ahead while a peer is stuck */

/* All devices of the gang that `device` is in; its own bit alone, if in none. */
uint64_t vgpu_gang_members(const struct vgpu_region *region, uint32_t device);

/* The device talks to its peers, from now on. True if that is new. */
bool vgpu_gang_enter(struct vgpu_region *region, uint32_t device);

/* The members in the order of their UUIDs, the leader first. Returns how many. */
uint32_t vgpu_gang_order(const struct vgpu_region *region, uint64_t members,
                         uint32_t order[VGPU_MAX_DEVICES]);

/* The least share of the members, parts per million. */
uint32_t vgpu_gang_share(const struct vgpu_region *region, uint64_t members);

/* The leader's slice `epoch` has just been opened for work on `device`. */
void vgpu_gang_open(struct vgpu_device *leader, uint32_t epoch, uint32_t device);

/* Takes part in the slice. False if another process has the device's part, or all have left; over:
 * the slice has come to its end, so only if a peer is stuck. */
bool vgpu_gang_join(struct vgpu_device *leader, uint32_t epoch, uint32_t device, bool over);

/* Our part has drained. True if it was the last: the caller closes the slice. */
bool vgpu_gang_leave(struct vgpu_device *leader, uint32_t epoch, uint32_t device);

/* Says whether our part is stuck. True if that is new. */
bool vgpu_gang_say_stuck(struct vgpu_device *leader, uint32_t epoch, uint32_t device, bool stuck);

/* True while a peer's part of the slice is stuck. */
bool vgpu_gang_peer_is_stuck(const struct vgpu_device *leader, uint32_t epoch, uint32_t device);

/* True until vgpu_gang_open has said who opened the slice. */
bool vgpu_gang_is_opening(const struct vgpu_device *leader, uint32_t epoch);

#endif
