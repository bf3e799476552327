/* One process's part in the slices of one device, or of its gang: opening, what is in flight,
 * draining, leaving, and getting on when the process that holds a slice does not answer. */
#ifndef VGPU_SLICE_H
#define VGPU_SLICE_H

#include "book.h"
#include "class.h"
#include "gang_turns.h"
#include "gate.h"
#include "grant.h"
#include "marks.h"
#include "rota.h"
#include "session.h"

#define VGPU_DEAF_NS UINT64_C(64000000) /* no sign of life from the holder: robbed */
#define VGPU_BOUND_SLICES 4U            /* so many of late, and launches set the program's pace */
#define VGPU_ENDLESS_NS UINT64_C(250000000) /* draining longer than this: robbed, or the valve */

struct vgpu_pace {
    /* What each launch uses, together and first: the struct begins on a cache line. */
    pthread_mutex_t lock; /* guards what follows and the tracks; no driver call is made under it */
    struct vgpu_book *book;
    struct vgpu_use *use;     /* our line in the region */
    uint32_t admitted;        /* launches let in … */
    uint32_t returned;        /* … and returned from the driver, outside the lock */
    struct vgpu_grant grant;  /* given after a launch was let in */
    uint64_t slice_flight_ns; /* predicted work put into the slice, … */
    uint64_t slice_class_ns[VGPU_WEIGHTED_CLASSES + 1]; /* … and by class */
    uint64_t flight_end_ns;  /* predicted: the last track's work has ended */
    uint64_t planned_end_ns; /* the same, as planned when it was submitted */
    uint64_t last_submit_ns;
    uint64_t ahead_ns; /* the most that launches of this slice were ahead of the GPU, as planned */
    const void *last_lane; /* the thread that submitted last */
    uint64_t mixed_ns;     /* when a thread last submitted after another one; 0 = never */
    uint64_t drained_ns;   /* all confirmed ended, since then; 0 = something is in flight */
    uint32_t overlap; /* how long predicted work really takes, in 1/1024: streams share the GPU */
    struct vgpu_mark_every every; /* work of this slice between two marks */
    bool joined;                  /* we hold `slice` */
    bool started;                 /* … and have submitted into it */
    bool looked;                  /* since the last submit */
    bool watched;                 /* the watcher runs */
    bool mps;                     /* kernels of other sessions may run beside ours */
    bool trusted;   /* no slice of late has drained at another time than it was predicted to */
    bool freed;     /* our device had no share meanwhile */
    uint32_t frees; /* … and no device had one, so often, when it last was seen */
    uint32_t bound_slices; /* of late, in which launches were never far ahead of the GPU */
    struct vgpu_gate_slice slice;
    uint64_t joined_ns; /* when we took it, or our part of it */
    /* What the last decision to let a launch in was made by; 0 = none was. */
    uint64_t room_end_ns, room_window_ns;

    uint64_t begun_ns;       /* when the slice's first launch call returned; 0 = not yet */
    uint64_t skipped_ns;     /* pauses within the slice, which it is longer by */
    uint64_t overrun_ns;     /* predicted end of the first launch that ends after the slice; or 0 */
    uint64_t promised_ns;    /* the drain as predicted when the turn was to be given up; or 0 */
    uint64_t drain_error_ns; /* how far predicted drains lie from measured ones */
    /* A stretch: what is launched between two pauses too long to belong to a slice. */
    uint32_t stretch_from;     /* `admitted` when it began */
    uint32_t stretch_usual;    /* launches of the last ones … */
    uint32_t stretches_alike;  /* … and how many of them had about so many */
    bool rested;               /* the pause that goes on has been counted … */
    bool gave_up;              /* … and taken for a long one before it was */
    uint32_t slice_from;       /* `admitted` when the slice began, … */
    uint32_t early_admitted;   /* … and early in it, … */
    uint64_t early_ns;         /* … at this moment, … */
    uint64_t early_skipped_ns; /* … pauses until then included */
    int64_t cold_ns;           /* what a slice loses to a thread that starts cold, in the mean */
    uint32_t stalls;           /* in a row: see stall.h */
    uint64_t stall_ns;         /* when the last one was found out */
    uint64_t stalled_at_ns;    /* what had been done at the last one of a launch's own stream */
    uint32_t tails_marked;     /* epoch whose tails carry their last mark */
    uint32_t wanted_epoch;     /* another's slice that we wait for, … */
    uint64_t wanted_since_ns;  /* … since when */
    uint32_t *waits_on;        /* bell that announces what we wait for, if it is not our own */
    uint64_t drain_done_ns;    /* of the gang's part that we drain: what had been done … */
    uint64_t drain_due_ns;     /* … and when the next of it should be, or we are stuck */
    bool stuck, was_stuck;     /* now; in this slice */
    bool helped;               /* beyond the slice's end we have launched what a peer waits for */
    uint32_t asked_after;      /* `admitted` when an idle GPU was last waited for in vain, … */
    uint64_t busy_ns;          /* … and when something was last seen in flight */
    uint32_t untold;           /* how often of late the program paused and told us nothing */
    bool listens;              /* the watcher sees when what is in flight ends, … */
    uint32_t listened_to;      /* … `admitted` when it last put marks for that, … */
    uint64_t listened_ns;      /* … and when it last began to */
    uint64_t overslept_ns; /* when a thread last woke too late to keep the GPU busy; 0 = never */
    uint32_t closer;       /* 1: some thread is in vgpu_slice_close_step */
    uint32_t closing;      /* threads of the program that close a slice */

    struct vgpu_session *session; /* the outermost that we are in */
    /* Those inside it, whose shares bind us too: their gates are followed, never opened. */
    struct vgpu_inner {
        struct vgpu_gate gate;
        const struct vgpu_header *header;
        struct vgpu_use *use;
    } inner[VGPU_MAX_DEPTH - 1];
    uint32_t inner_count;
    struct vgpu_gate gate;        /* our gang's, as if the session were alone: see vgpu_rota_gate */
    struct vgpu_rota rota;        /* our session among the others on this device … */
    struct vgpu_gang_turns turns; /* … and on its peers */
    uint32_t device;
    struct vgpu_track *tracks;
};

/* True if launches, not the GPU, set the program's pace. */
static inline bool vgpu_slice_is_bound(const struct vgpu_pace *pace) {
    return pace->bound_slices >= VGPU_BOUND_SLICES;
}

/* True if the last slices have drained when they were predicted to. Caller holds the lock. */
bool vgpu_slice_is_calm(const struct vgpu_pace *pace);

/* … and this one has used one stream. Caller holds the lock. */
bool vgpu_slice_is_steady(const struct vgpu_pace *pace);

/* A launch is being submitted now_ns. For slices of programs that are bound by their launches:
 * where they have come to early in the slice. Caller holds the lock. */
void vgpu_slice_note_pace(struct vgpu_pace *pace, uint64_t now_ns);

/* True while we have our slice: neither closing (unless a peer is stuck) nor taken from us. */
bool vgpu_slice_holds(const struct vgpu_pace *pace);

/* Until when work may be submitted into our slice: sooner or later, as others wait for it. */
uint64_t vgpu_slice_end_ns(const struct vgpu_pace *pace, uint64_t now_ns);

/* True if other sessions are active: less work is let run ahead of the GPU, and a kernel of unknown
 * length runs alone. */
bool vgpu_slice_is_shared(const struct vgpu_pace *pace);

/* What our accounts in the inner sessions tell of this process is what the outermost's does. */
void vgpu_slice_tell_inner(const struct vgpu_pace *pace);

/* True if the slice is over but a peer of our gang needs us to go on. */
bool vgpu_slice_helps(const struct vgpu_pace *pace);

/* Takes a slice, or a part of our gang's, for a launch first wanted at request_ns: true. False:
 * *until_ns says when to ask again at the latest; the bell may ring before. Caller holds the lock.
 */
bool vgpu_slice_take(struct vgpu_pace *pace, uint64_t now_ns, uint64_t request_ns,
                     uint64_t *until_ns);

/* Predicted work in flight on all tracks, ns, after what the marks have confirmed; brings
 * flight_end_ns and drained_ns up to date. Caller holds the lock. */
uint64_t vgpu_slice_flight(struct vgpu_pace *pace, uint64_t now_ns);

/* Polls all tracks; with tails, first marks what is not yet marked: true if something was. Caller
 * does not hold the lock. */
bool vgpu_slice_look(struct vgpu_pace *pace, bool tails);

/* Marks all that is in flight, and looks whether it has ended: true, with the lock held. A GPU that
 * stands idle, as predicted_ns says, takes a moment to come to a mark that was just put there. */
bool vgpu_slice_has_drained(struct vgpu_pace *pace, uint64_t predicted_ns, uint64_t now_ns);

/* The program was quiet and told us nothing: where the GPU has drained meanwhile, drained_ns is
 * when that was, by a mark or by the prediction, and the answer true. */
bool vgpu_slice_look_after_pause(struct vgpu_pace *pace, uint64_t now_ns);

/* The program has paused; told: it had waited for its work, so we know when that ended. Caller
 * holds the lock. */
void vgpu_slice_note_pause(struct vgpu_pace *pace, bool told);

/* A launch is being submitted after a pause: true if the watcher is to be woken, to see when what
 * begins now ends, since the program will not tell us. Caller holds the lock. */
bool vgpu_slice_listens(struct vgpu_pace *pace, uint64_t now_ns);

/* All has drained, and a launch comes after a pause. While nobody else wants the GPU the slice goes
 * on, longer by the pause: each new one would hold a program back that pauses often. False: it is
 * to be left. Caller holds the lock. */
bool vgpu_slice_skip(struct vgpu_pace *pace, uint64_t now_ns);

/* Leaves the slice, and closes it if no peer is still in it: our work had drained at drained_ns.
 * Caller holds the lock. */
void vgpu_slice_leave(struct vgpu_pace *pace, uint64_t drained_ns);

/* The program is about to launch, first wanted at request_ns: whether it has rested since its work
 * had drained. Caller holds the lock. */
void vgpu_slice_note_rest(struct vgpu_pace *pace, uint64_t request_ns);

/* The program has waited for all of its work: where it is known to rest then and somebody else
 * wants the GPU, gives our slice up at once, with no watcher to be woken first. Caller holds the
 * lock. */
void vgpu_slice_rest(struct vgpu_pace *pace, uint64_t drained_ns);

/* One step, without waiting, towards draining and leaving this slice of ours. True once we have
 * left it: another thread may have done it, and be in the next one. */
bool vgpu_slice_close_step(struct vgpu_pace *pace, uint32_t epoch);

/* When to look again at a slice that is being closed. */
uint64_t vgpu_slice_next_look(struct vgpu_pace *pace, uint64_t now_ns);

/* For the watcher: gives our slice up if another process waits for it and we have drained, or it is
 * over. Returns when to look again; 0 = when the bell rings, or it is *listens_until_ns (0 =
 * never).
 */
uint64_t vgpu_slice_tend(struct vgpu_pace *pace, uint64_t *listens_until_ns);

#endif
