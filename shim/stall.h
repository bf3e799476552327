/* Stalls: a launch is held back until what is in flight has drained, and that makes no progress,
 * perhaps because it waits for the very launch. Then the launch is let through.
 *
 * Glossary
 *   spinner  a function whose kernel waits for a later launch in another stream. While one is in
 * flight nothing is held back. suspect  a function that was in flight during a stall, among others:
 * from then on each of its launches is marked, so that the next stall tells which one it was.
 */
#ifndef VGPU_STALL_H
#define VGPU_STALL_H

#include <stdbool.h>
#include <stdint.h>

#include "slice.h"

#define VGPU_STALL_NS UINT64_C(4000000) /* without progress, other streams being in flight */
#define VGPU_STALL_ONE_NS                                                                          \
    UINT64_C(250000000) /* … only the launch's own: it cannot be what they                       \
                           wait for, unless the host is */

#define VGPU_STALL_SPINNER_NS UINT64_C(20000000) /* so long may a slice go on for spinners */

/* One wait. Zeroed at its beginning. */
struct vgpu_stall {
    uint64_t done_ns;    /* all that had been done … */
    uint64_t due_ns;     /* … and when the rest should be, one after the other and taking twice as
                            long as predicted: a stream may be served only after all others */
    uint64_t look_ns;    /* the last look */
    uint64_t stalled_ns; /* time since due_ns, as far as somebody looked */
};

/* True once what is in flight has made no progress for too long after it should have ended (where
 * that was the launch's own stream alone, from then on until it does); each time in a row it takes
 * twice as long. Then the functions in flight are blamed. `own` is the track of the launch that
 * waits. Caller holds the lock. */
bool vgpu_stall_lasts(struct vgpu_stall *stall, struct vgpu_pace *pace,
                      const struct vgpu_track *own, uint64_t now_ns);

/* True while a spinner is in flight and the slice, which was to end at end_ns, may wait for it; not
 * for ever, so that a wrong guess is found out: see vgpu_stall_drained. Caller holds the lock. */
bool vgpu_stall_spinner_flies(struct vgpu_pace *pace, uint64_t now_ns, uint64_t end_ns);

/* All has drained while launches were held back: what was in flight did not wait for them. Caller
 * holds the lock. */
void vgpu_stall_drained(struct vgpu_pace *pace);

/* Notes a spinner that is about to be submitted, and that one ended by itself: it is none. Caller
 * holds the lock. */
void vgpu_stall_note_spinner(struct vgpu_pace *pace, struct vgpu_track *track,
                             struct vgpu_book_entry *entry);

#endif
