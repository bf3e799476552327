/* One process's part in the slices of one device: joining, what is in flight, draining, leaving, and
 * getting on when another process of the session does not answer. */
#ifndef VGPU_SLICE_H
#define VGPU_SLICE_H

#include "book.h"
#include "gate.h"
#include "marks.h"
#include "session.h"

#define VGPU_DEAF_NS UINT64_C(64000000)     /* no sign of life from a draining process: robbed */
#define VGPU_ENDLESS_NS UINT64_C(250000000) /* drains longer than this: robbed, or the valve */

struct vgpu_pace {
    struct vgpu_session *session;
    struct vgpu_use *use; /* our line in the region */
    struct vgpu_gate gate;
    uint32_t device;
    struct vgpu_track *tracks;
    struct vgpu_book *book;

    pthread_mutex_t lock; /* guards what follows; no driver call is made under it */
    bool joined;          /* we are busy in `slice` */
    bool started;         /* … and have submitted into it */
    struct vgpu_gate_slice slice;
    uint64_t flight_end_ns;  /* predicted: all that was submitted has ended */
    uint64_t last_submit_ns;
    uint64_t drained_ns;     /* all confirmed ended, since then; 0 = something is in flight */
    bool looked;             /* since the last submit */
    bool watched;            /* the watcher runs */

    uint32_t launching;      /* launches between admission and the driver's return */
    uint32_t closer;         /* 1: some thread is in vgpu_slice_close_step */
    uint32_t tails_marked;   /* epoch whose tails carry their last mark */
    uint32_t wanted_epoch;   /* the slice we saw others drain, … */
    uint64_t wanted_since_ns; /* … since when */
};

/* Predicted work in flight on all tracks, ns, after what the marks have confirmed; brings
 * flight_end_ns and drained_ns up to date. Caller holds the lock. */
uint64_t vgpu_slice_flight(struct vgpu_pace *pace, uint64_t now_ns);

/* Polls all tracks; with tails, first marks what is not yet marked. Caller does not hold the lock. */
void vgpu_slice_look(struct vgpu_pace *pace, bool tails);

/* Leaves the slice: our work had drained at drained_ns. Closes it if we were the last. Caller holds
 * the lock. */
void vgpu_slice_leave(struct vgpu_pace *pace, uint64_t drained_ns);

/* One step, without waiting, towards draining and leaving our slice. True once we have left. */
bool vgpu_slice_close_step(struct vgpu_pace *pace);

/* When to look again at a slice that is being closed; *end_ns = predicted drain. */
uint64_t vgpu_slice_next_look(struct vgpu_pace *pace, uint64_t now_ns, uint64_t *end_ns);

/* An open slice that is over is held up by others (or by nobody who lives): asks them to drain,
 * robs the dead, the deaf and the endless, closes it when none is left. Caller holds the lock. */
void vgpu_slice_nudge(struct vgpu_pace *pace, const struct vgpu_gate_slice *slice, uint64_t now_ns);

/* True if no other live process is busy in our slice. */
bool vgpu_slice_alone(struct vgpu_pace *pace);

#endif
