/* Marks: events that we put on the program's own streams, to know what has ended and how long it
 * took. Driver calls, no deciding. Everything here is process-local.
 *
 * Glossary
 *   track    one stream of the program on one device, with the work we predicted for it.
 *   mark     an event behind a stretch of that work; untimed (cheap), or timed where we need the
 * GPU's own clock: at both ends of a slice and around the groups from which the book learns. group
 * the launches between two marks of a track. anchor   per context: a timed event put into the
 * drained GPU at a known host time. It maps the context's event clock to CLOCK_MONOTONIC.
 *
 * Capture: nothing is ever recorded into, or asked of, a stream that captures. Our queries run with
 * the calling thread in relaxed capture mode, so they cannot break a capture elsewhere.
 *
 * Locking: *track->lock (the pace's) guards the counters and the mark queue for moments; no driver
 * call is made under it. One thread at a time polls a track (track->polling); who comes second does
 * not wait.
 */
#ifndef VGPU_MARKS_H
#define VGPU_MARKS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "book.h"
#include "cuda_abi.h"

#define VGPU_MARK_QUEUE 64U
#define VGPU_GROUP_LAUNCHES 64U
#define VGPU_GROUP_NS 250000U
/* Of so many groups one is timed, which costs 5 us of GPU time … */
#define VGPU_GROUP_TIMED_ONE_IN 8U
#define VGPU_GROUP_STEADY_ONE_IN 64U /* … once VGPU_GROUP_STEADY results were as predicted */
#define VGPU_GROUP_STEADY 4U

/* At most so much between two marks: as a rule, where work is known to end when it is predicted
 * to, and where launches set the pace. */
struct vgpu_mark_every {
    uint32_t ns, launches;
};
#define VGPU_MARK_EVERY ((struct vgpu_mark_every){VGPU_GROUP_NS, VGPU_GROUP_LAUNCHES})
#define VGPU_MARK_CALM ((struct vgpu_mark_every){1000000, VGPU_GROUP_LAUNCHES})
#define VGPU_MARK_BOUND ((struct vgpu_mark_every){4000000, 256})

struct vgpu_clock; /* per context: event pools and the anchor */

struct vgpu_mark {
    CUevent end, start; /* start: of a timed group or trial, else NULL */
    bool timed;
    uint64_t covers_ns;            /* the track's submitted_ns when the mark was recorded … */
    uint64_t recorded_ns;          /* … when that was, of a timed one, … */
    uint64_t predicted_ns;         /* … and when it was to have ended */
    uint64_t call_ns;              /* of a trial: what the host took from start to end */
    struct vgpu_book_entry *trial; /* the one launch between start and end */
};

/* A launch of late, and the track's submitted_ns with it. */
#define VGPU_RECENT 16U
struct vgpu_recent {
    struct vgpu_book_entry *entry;
    uint64_t end_ns;
    bool known;  /* it had been timed before */
    bool marked; /* a mark follows it: it is known to be done as soon as it is */
};

struct vgpu_track {
    struct vgpu_track *next; /* never unlinked: readers walk the list without a lock */
    struct vgpu_clock *clock;
    CUstream stream;
    pthread_mutex_t *lock;
    int thread; /* per_thread: its id */
    bool gone;  /* destroyed; its tail mark may still be out */

    /* What each launch uses, together. */
    _Alignas(64) bool per_thread; /* a per-thread default stream: only its own thread can mark it */
    uint32_t class;               /* VGPU_CLASS_*, as the program told us */
    uint32_t epoch;               /* last slice that it was used in */
    uint32_t unmarked_launches;
    uint64_t unmarked_ns;    /* submitted since the last mark */
    uint64_t submitted_ns;   /* predicted work since the beginning: handed in, … */
    uint64_t done_ns;        /* … confirmed */
    uint64_t flight_end_ns;  /* predicted: all that was submitted here has ended */
    uint64_t planned_end_ns; /* the same as planned when it was submitted, for this slice */
    uint64_t launches;
    CUevent group_start; /* set: this group is timed */
    uint64_t group_ns;   /* its launches' own predictions */
    uint32_t group_count;

    uint64_t drained_ns;         /* when the last confirmed mark was seen done */
    uint64_t group_due_ns;       /* submitted_ns … */
    uint64_t group_due_launches; /* … or launches at which the next timed group starts */
    struct vgpu_book_member group[VGPU_GROUP_LAUNCHES];
    uint32_t group_steady; /* results in a row that were as predicted */
    bool group_opening;    /* somebody is recording its first event */
    bool group_void;       /* launches have gone by the gate meanwhile: its result tells nothing */
    bool group_out;        /* a timed group's result is awaited: members are kept */
    struct vgpu_recent recent[VGPU_RECENT];
    struct vgpu_book_entry *spinner; /* the last one launched here, … */
    uint64_t spinner_end_ns;         /* … submitted_ns with it, … */
    bool spinner_tested;             /* … whether launches are held back all the same */
    uint64_t spinner_elsewhere;      /* … and launches in other streams before it */
    struct vgpu_mark marks[VGPU_MARK_QUEUE];
    uint32_t first, count;
    uint32_t polling;
    uint64_t slice_end_ns; /* mapped time of the last timed mark of this slice, or what was
                              predicted where the mark had come too late to tell; 0 = none */
    uint64_t measured_ns;  /* when a timed mark that was in time says that all had ended … */
    uint64_t measured_to;  /* … that had been submitted by then: submitted_ns */
    uint64_t seen_ns;      /* by when it had at the latest, as any timed mark says … */
    uint64_t seen_to;      /* … the same */
    uint64_t started_ns;   /* when the first event of the last trial was recorded */
};

/* True for the handles that mean a default stream: which stream that is, the current context says.
 * Any other stream belongs to one context for its life. */
static inline bool vgpu_track_is_default(CUstream stream) {
    return (uintptr_t)stream <= (uintptr_t)CU_STREAM_PER_THREAD;
}

/* The track of a stream (as given, with the symbol's flavour) in the current context. Makes it on
 * first sight and appends it to *list. NULL if there is no current context. */
struct vgpu_track *vgpu_track_find(struct vgpu_track **list, pthread_mutex_t *lock,
                                   CUcontext context, CUstream stream, bool per_thread);

/* The context that the track's stream belongs to; NULL once it has ended. */
CUcontext vgpu_track_context(const struct vgpu_track *track);

/* Starts a timed trial or group: records a timed event, NULL if that was not possible. */
CUevent vgpu_track_start(struct vgpu_track *track);

/* Counts a launch that is about to be submitted, predicted to take predicted_ns by itself and to
 * add flight_ns to what is in flight; every: so much may be submitted without a mark.
 * *begin_group: the caller should begin a timed group, giving the event of vgpu_track_start to
 * vgpu_track_open_group before the launch. Returns true if a mark is due after the launch. Caller
 * holds the lock. */
bool vgpu_track_submit(struct vgpu_track *track, struct vgpu_book_entry *entry,
                       uint64_t predicted_ns, uint64_t flight_ns, struct vgpu_mark_every every,
                       bool *begin_group);
void vgpu_track_open_group(struct vgpu_track *track, CUevent start);

/* True if vgpu_track_submit would ask neither for a mark nor for a group. Caller holds the lock. */
static inline bool vgpu_track_has_room(const struct vgpu_track *track, uint64_t predicted_ns,
                                       uint64_t flight_ns, struct vgpu_mark_every every) {
    bool group_due = track->submitted_ns + flight_ns >= track->group_due_ns ||
                     track->launches + 1 >= track->group_due_launches;
    return (track->unmarked_launches || !group_due) &&
           track->unmarked_launches + 1 < every.launches &&
           track->unmarked_ns + flight_ns < every.ns && !track->per_thread &&
           (!track->group_start || (track->group_count + 1 < VGPU_GROUP_LAUNCHES &&
                                    track->group_ns + predicted_ns < VGPU_GROUP_NS));
}

/* The counting part of vgpu_track_submit, in two steps. */
static inline void vgpu_track_count(struct vgpu_track *track, struct vgpu_book_entry *entry,
                                    uint64_t flight_ns) {
    track->submitted_ns += flight_ns;
    track->unmarked_ns += flight_ns;
    track->unmarked_launches++;
    track->launches++;
    track->recent[track->launches % VGPU_RECENT] =
        (struct vgpu_recent){entry, track->submitted_ns, entry->timed > 0, entry->suspect};
}
static inline void vgpu_track_count_in_group(struct vgpu_track *track,
                                             struct vgpu_book_entry *entry, uint64_t predicted_ns) {
    if (track->group_count == VGPU_GROUP_LAUNCHES) return;
    track->group[track->group_count++] = (struct vgpu_book_member){entry, predicted_ns};
    track->group_ns += predicted_ns;
}

/* Records a mark behind all that was submitted. False if the stream captures or is another
 * thread's. */
bool vgpu_track_mark(struct vgpu_track *track, bool timed, struct vgpu_book_entry *trial,
                     CUevent trial_start);

/* What runs there took another time than predicted: its groups are timed more often again. Caller
 * holds the lock. */
void vgpu_track_doubt(struct vgpu_track *track);

/* Looks at the marks that are out, oldest first, without waiting. Teaches the book. */
void vgpu_track_poll(struct vgpu_track *track);

/* True if the oldest mark that is out should be done by now, as predicted; or many are out. */
bool vgpu_track_is_due(const struct vgpu_track *track, uint64_t now_ns);

/* The program itself waited for the stream: all that was submitted before (submitted_ns as it was
 * then) is done at now_ns. */
void vgpu_track_synced(struct vgpu_track *track, uint64_t submitted_ns, uint64_t now_ns);

/* The same for all tracks of the context, and all that was submitted there. Caller holds the lock.
 */
void vgpu_tracks_synced(struct vgpu_track *list, CUcontext context, uint64_t now_ns);

/* Sees that the track's context, which is drained, has an anchor for this slice. trusted: the last
 * slice's may serve, if it is not old. */
void vgpu_track_anchor(struct vgpu_track *track, uint32_t epoch, bool trusted);

/* The stream is about to be destroyed: no event is recorded into it any more. */
void vgpu_track_end(struct vgpu_track *track);

/* The context is about to be destroyed: no event of it may be touched again. */
void vgpu_tracks_forget_context(struct vgpu_track *list, CUcontext context);

#endif
