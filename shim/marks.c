#include "marks.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "atomics.h"
#include "capture.h"
#include "gate.h"
#include "interpose.h"
#include "wait.h"

#define POOL 256U
#define STEADY_PART 20U /* a result is as predicted if it is off by less than this part */
/* A group that has ended so soon after its last launch: the GPU had been waiting for launches. */
#define BEHIND_NS UINT64_C(50000)
/* A mark recorded so long after its work was to have ended tells when it was recorded: a thread may
 * have to pause, and the call itself takes longer in a cold one. */
#define OVERDUE_NS UINT64_C(20000)
#define ANCHOR_NS UINT64_C(20000)           /* recording an event takes less */
#define ANCHOR_LASTS_NS UINT64_C(100000000) /* the two clocks drift apart */

/* One context's events. Handles outlive the struct's use: a forgotten clock keeps none. */
struct vgpu_clock {
    struct vgpu_clock *next;
    CUcontext context; /* NULL once forgotten */
    pthread_mutex_t lock;
    CUevent free[2][POOL]; /* [timed] */
    uint32_t free_count[2];
    CUevent anchor;
    uint64_t anchor_ns;
    uint32_t anchor_epoch;
};

static struct vgpu_clock *clocks;
static pthread_mutex_t clocks_lock = PTHREAD_MUTEX_INITIALIZER;

static struct vgpu_clock *clock_of(CUcontext context) {
    pthread_mutex_lock(&clocks_lock);
    struct vgpu_clock *clock = clocks;
    while (clock && clock->context != context) clock = clock->next;
    if (!clock && (clock = calloc(1, sizeof *clock))) {
        clock->context = context;
        pthread_mutex_init(&clock->lock, NULL);
        clock->next = clocks;
        clocks = clock;
    }
    pthread_mutex_unlock(&clocks_lock);
    return clock;
}

/* Makes the clock's context current for one call where it is not. */
static bool enter(const struct vgpu_clock *clock) {
    CUcontext current = NULL;
    CALL(cuCtxGetCurrent)(&current);
    return current != clock->context && REAL(cuCtxPushCurrent_v2)(clock->context) == CUDA_SUCCESS;
}

static void leave(bool entered) {
    CUcontext popped;
    if (entered) CALL(cuCtxPopCurrent_v2)(&popped);
}

static CUevent event_get(struct vgpu_clock *clock, bool timed) {
    CUevent event = NULL;
    pthread_mutex_lock(&clock->lock);
    if (clock->context && clock->free_count[timed])
        event = clock->free[timed][--clock->free_count[timed]];
    pthread_mutex_unlock(&clock->lock);
    if (event || !clock->context) return event;
    bool entered = enter(clock);
    unsigned int flags = timed ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING;
    if (CALL(cuEventCreate)(&event, flags) != CUDA_SUCCESS) event = NULL;
    leave(entered);
    return event;
}

static void event_put(struct vgpu_clock *clock, bool timed, CUevent event) {
    if (!event) return;
    pthread_mutex_lock(&clock->lock);
    bool keep = clock->context && clock->free_count[timed] < POOL;
    bool destroy = clock->context && !keep;
    if (keep) clock->free[timed][clock->free_count[timed]++] = event;
    pthread_mutex_unlock(&clock->lock);
    if (destroy) CALL(cuEventDestroy_v2)(event);
}

/* Records an event of ours into the track's stream: `event`, or NULL: a new one. NULL if that is
 * not possible: the stream captures, or it ends. */
static CUevent record(struct vgpu_track *track, bool timed, CUevent event) {
    CUresult result = CUDA_ERROR_NOT_READY;
    if (vgpu_capture_record_begin(track->stream, track->per_thread)) {
        bool lives = !vgpu_load_seq_cst(&track->gone) && vgpu_load_seq_cst(&track->clock->context);
        if (lives && !event) event = event_get(track->clock, timed);
        if (lives && event)
            result = track->per_thread ? CALL(cuEventRecord_ptsz)(event, track->stream)
                                       : CALL(cuEventRecord)(event, track->stream);
        vgpu_capture_record_end();
    }
    if (result == CUDA_SUCCESS) return event;
    event_put(track->clock, timed, event);
    return NULL;
}

static int thread_id(void) {
    static __thread int id;
    if (!id) id = (int)syscall(SYS_gettid);
    return id;
}

/* The handles that mean "my thread's default stream". */
static bool is_per_thread(CUstream stream, bool per_thread) {
    return stream == CU_STREAM_PER_THREAD || (per_thread && stream == NULL);
}

static bool matches(const struct vgpu_track *track, CUcontext context, CUstream stream, bool mine) {
    return track->stream == stream && !vgpu_load_acquire(&track->gone) &&
           (track->clock->context == context || !vgpu_track_is_default(stream)) &&
           track->per_thread == mine && (!mine || track->thread == thread_id());
}

struct vgpu_track *vgpu_track_find(struct vgpu_track **list, pthread_mutex_t *lock,
                                   CUcontext context, CUstream stream, bool per_thread) {
    bool mine = is_per_thread(stream, per_thread);
    struct vgpu_track *head = vgpu_load_acquire(list);
    struct vgpu_track *spare = NULL;
    for (struct vgpu_track *track = head; track; track = track->next) {
        if (matches(track, context, stream, mine)) return track;
        if (track->gone && track->count == 0 && track->clock->context == context) spare = track;
    }
    if (!context) return NULL;
    struct vgpu_track *track =
        spare && vgpu_exchange_acq_rel(&spare->polling, 1U) == 0 ? spare : NULL;
    if (!track) {
        track = aligned_alloc(_Alignof(struct vgpu_track), sizeof *track);
        if (!track) return NULL;
        memset(track, 0, sizeof *track);
        track->lock = lock;
        track->clock = clock_of(context);
        if (!track->clock) {
            free(track);
            return NULL;
        }
    }
    track->stream = stream;
    track->per_thread = mine;
    track->thread = mine ? thread_id() : 0;
    track->class = 0;
    vgpu_store_release(&track->gone, false);
    if (track == spare) {
        vgpu_store_release(&track->polling, 0U);
    } else {
        track->next = head;
        while (!vgpu_cas_acq_rel(list, &track->next, track)) {
        }
    }
    return track;
}

CUcontext vgpu_track_context(const struct vgpu_track *track) {
    return vgpu_load_relaxed(&track->clock->context);
}

CUevent vgpu_track_start(struct vgpu_track *track) {
    CUevent event = record(track, true, NULL);
    track->started_ns = vgpu_now_ns();
    return event;
}

static uint32_t timed_one_in(const struct vgpu_track *track) {
    bool steady = track->group_steady >= VGPU_GROUP_STEADY;
    return steady ? VGPU_GROUP_STEADY_ONE_IN : VGPU_GROUP_TIMED_ONE_IN;
}

static void plan_group(struct vgpu_track *track) {
    uint32_t groups = timed_one_in(track);
    track->group_due_ns = track->submitted_ns + groups * VGPU_GROUP_NS;
    track->group_due_launches = track->launches + groups * VGPU_GROUP_LAUNCHES;
}

void vgpu_track_doubt(struct vgpu_track *track) {
    if (track->group_steady >= VGPU_GROUP_STEADY) {
        track->group_steady = 0;
        plan_group(track);
    }
    track->group_steady = 0;
}

static bool group_begins(struct vgpu_track *track) {
    bool due =
        track->submitted_ns >= track->group_due_ns || track->launches >= track->group_due_launches;
    bool busy = track->group_start || track->group_out || track->group_opening;
    if (!due || busy || track->unmarked_launches != 1) return false;
    plan_group(track);
    track->group_count = 0;
    track->group_ns = 0;
    track->group_opening = true;
    track->group_void = false;
    return true;
}

bool vgpu_track_submit(struct vgpu_track *track, struct vgpu_book_entry *entry,
                       uint64_t predicted_ns, uint64_t flight_ns, struct vgpu_mark_every every,
                       bool *begin_group) {
    vgpu_track_count(track, entry, flight_ns);
    *begin_group = group_begins(track);
    if (*begin_group || track->group_start) vgpu_track_count_in_group(track, entry, predicted_ns);
    bool group_full = track->group_start && (track->group_count == VGPU_GROUP_LAUNCHES ||
                                             track->group_ns >= VGPU_GROUP_NS);
    return track->per_thread || entry->suspect || entry->spins || group_full ||
           track->unmarked_ns >= every.ns || track->unmarked_launches >= every.launches;
}

void vgpu_track_open_group(struct vgpu_track *track, CUevent start) {
    pthread_mutex_lock(track->lock);
    track->group_start = start;
    track->group_opening = false;
    pthread_mutex_unlock(track->lock);
}

static bool may_record(const struct vgpu_track *track) {
    if (track->gone || !track->clock->context) return false;
    return !track->per_thread || track->thread == thread_id();
}

bool vgpu_track_mark(struct vgpu_track *track, bool timed, struct vgpu_book_entry *trial,
                     CUevent trial_start) {
    pthread_mutex_lock(track->lock);
    bool full = track->count == VGPU_MARK_QUEUE;
    CUevent group_start = trial ? NULL : track->group_start;
    /* What was submitted before the record is covered; what other threads add meanwhile may not be.
     */
    uint64_t covers = track->submitted_ns, predicted = track->flight_end_ns;
    pthread_mutex_unlock(track->lock);
    timed = timed || trial || group_start;
    uint64_t call_ns = trial ? vgpu_now_ns() - track->started_ns : 0;
    CUevent event = full || !may_record(track) ? NULL : record(track, timed, NULL);
    uint64_t recorded = timed ? vgpu_now_ns() : 0;
    pthread_mutex_lock(track->lock);
    full = track->count == VGPU_MARK_QUEUE; /* another thread may have been sooner */
    if (!event || full) {
        if (trial) trial->in_flight = 0;
        pthread_mutex_unlock(track->lock);
        event_put(track->clock, timed, event);
        event_put(track->clock, true, trial_start);
        return false;
    }
    struct vgpu_mark *mark = &track->marks[(track->first + track->count) % VGPU_MARK_QUEUE];
    *mark = (struct vgpu_mark){.end = event,
                               .timed = timed,
                               .covers_ns = covers,
                               .recorded_ns = recorded,
                               .predicted_ns = predicted,
                               .call_ns = call_ns,
                               .trial = trial,
                               .start = trial ? trial_start : NULL};
    if (!trial && group_start && group_start == track->group_start) {
        mark->start = group_start;
        track->group_start = NULL;
        track->group_out = true;
    }
    track->count++;
    track->unmarked_ns = track->submitted_ns - covers;
    track->unmarked_launches = 0;
    pthread_mutex_unlock(track->lock);
    return true;
}

static uint64_t elapsed_ns(CUevent start, CUevent end) {
    float ms = 0;
    if (CALL(cuEventElapsedTime)(&ms, start, end) != CUDA_SUCCESS || ms < 0) return 0;
    return (uint64_t)((double)ms * 1e6);
}

/* The mark's end on CLOCK_MONOTONIC by its context's anchor; 0 if that belongs to another slice. */
static uint64_t map_end(struct vgpu_track *track, const struct vgpu_mark *mark) {
    struct vgpu_clock *clock = track->clock;
    pthread_mutex_lock(track->lock);
    uint32_t epoch = track->epoch;
    pthread_mutex_unlock(track->lock);
    pthread_mutex_lock(&clock->lock);
    CUevent anchor = clock->anchor_epoch == epoch ? clock->anchor : NULL;
    uint64_t anchor_ns = clock->anchor_ns;
    pthread_mutex_unlock(&clock->lock);
    uint64_t since = mark->timed && anchor ? elapsed_ns(anchor, mark->end) : 0;
    return since ? anchor_ns + since : 0;
}

/* A timed group took took_ns. Where the GPU was waiting for launches that is how long those took,
 * and more than was predicted says nothing about the kernels. Caller holds the lock. */
static void learn_group(struct vgpu_track *track, uint64_t took_ns, bool gpu_waited) {
    track->group_out = false;
    if (track->group_void) return;
    if (gpu_waited && took_ns > track->group_ns) {
        /* Each launch came so late, or the kernels have become longer. */
        uint64_t paused_ns = track->group_count * VGPU_GATE_PAUSE_NS;
        if (took_ns > track->group_ns + paused_ns)
            vgpu_book_doubt(track->group, track->group_count);
        return;
    }
    if (took_ns) vgpu_book_learn_group(track->group, track->group_count, took_ns);
    uint64_t off =
        took_ns > track->group_ns ? took_ns - track->group_ns : track->group_ns - took_ns;
    if (off <= track->group_ns / STEADY_PART) track->group_steady++;
    else vgpu_track_doubt(track);
}

/* A launch timed alone. Where its call took about as long, that was the call's time: no reason to
 * predict more. Caller holds the lock. */
static void learn_trial(const struct vgpu_mark *mark, uint64_t took_ns, bool gpu_waited) {
    struct vgpu_book_entry *entry = mark->trial;
    bool slow_call = gpu_waited && took_ns <= 2 * mark->call_ns && took_ns > entry->estimate_ns;
    if (entry->timed && slow_call) {
        if (entry->timed < UINT16_MAX) entry->timed++;
    } else if (took_ns) vgpu_book_learn(entry, took_ns);
    entry->in_flight = 0;
}

/* One completed mark: teach the book, map its time, give the events back. */
static void settle(struct vgpu_track *track, const struct vgpu_mark *mark) {
    struct vgpu_clock *clock = track->clock;
    uint64_t took = mark->start ? elapsed_ns(mark->start, mark->end) : 0;
    uint64_t end = map_end(track, mark);
    bool gpu_waited = end && end < mark->recorded_ns + BEHIND_NS;
    bool overdue = gpu_waited && mark->predicted_ns + OVERDUE_NS < mark->recorded_ns;
    pthread_mutex_lock(track->lock);
    if (end) {
        track->seen_ns = end;
        track->seen_to = mark->covers_ns;
    }
    if (overdue) end = mark->predicted_ns;
    if (end) track->slice_end_ns = end;
    if (end && !overdue) {
        track->measured_ns = end;
        track->measured_to = mark->covers_ns;
    }
    if (mark->trial) {
        learn_trial(mark, took, gpu_waited);
    } else if (mark->start) {
        learn_group(track, took, gpu_waited);
    }
    pthread_mutex_unlock(track->lock);
    event_put(clock, true, mark->start);
    event_put(clock, mark->timed, mark->end);
}

/* One that ended in the program's failure: nothing is known of its launches. */
static void give_up(struct vgpu_track *track, const struct vgpu_mark *mark) {
    pthread_mutex_lock(track->lock);
    if (mark->trial) mark->trial->in_flight = 0;
    else if (mark->start) track->group_out = false;
    pthread_mutex_unlock(track->lock);
}

/* The oldest mark that is out. */
static bool oldest(struct vgpu_track *track, struct vgpu_mark *mark) {
    pthread_mutex_lock(track->lock);
    bool any = track->count > 0;
    if (any) *mark = track->marks[track->first];
    pthread_mutex_unlock(track->lock);
    return any;
}

static void retire(struct vgpu_track *track, const struct vgpu_mark *mark, uint64_t now_ns) {
    pthread_mutex_lock(track->lock);
    if (mark->covers_ns > track->done_ns) {
        track->done_ns = mark->covers_ns;
        track->drained_ns = now_ns;
    }
    if (track->count) { /* 0: the context was forgotten meanwhile */
        track->first = (track->first + 1) % VGPU_MARK_QUEUE;
        track->count--;
    }
    pthread_mutex_unlock(track->lock);
}

bool vgpu_track_is_due(const struct vgpu_track *track, uint64_t now_ns) {
    pthread_mutex_lock(track->lock);
    uint64_t behind = track->submitted_ns - track->marks[track->first].covers_ns;
    bool due = track->count > VGPU_MARK_QUEUE / 2 ||
               (track->count && now_ns + behind >= track->flight_end_ns);
    pthread_mutex_unlock(track->lock);
    return due;
}

void vgpu_track_poll(struct vgpu_track *track) {
    struct vgpu_mark mark;
    if (!oldest(track, &mark)) return;
    if (vgpu_exchange_seq_cst(&track->polling, 1U) != 0) return;
    CUstreamCaptureMode mode = vgpu_capture_relax();
    bool entered = enter(track->clock);
    while (vgpu_load_seq_cst(&track->clock->context) && oldest(track, &mark)) {
        CUresult result = CALL(cuEventQuery)(mark.end);
        if (result == CUDA_ERROR_NOT_READY) break;
        /* Any other code is the program's own failure, sticky in the context: nothing runs there.
         */
        if (result == CUDA_SUCCESS) settle(track, &mark);
        else give_up(track, &mark);
        retire(track, &mark, vgpu_now_ns());
    }
    leave(entered);
    vgpu_capture_restore(mode);
    vgpu_store_release(&track->polling, 0U);
}

/* Caller holds the lock. */
static void synced(struct vgpu_track *track, uint64_t submitted_ns, uint64_t now_ns) {
    if (submitted_ns <= track->done_ns) return;
    track->done_ns = submitted_ns;
    track->drained_ns = now_ns;
    if (track->done_ns == track->submitted_ns) track->unmarked_ns = track->unmarked_launches = 0;
}

void vgpu_track_synced(struct vgpu_track *track, uint64_t submitted_ns, uint64_t now_ns) {
    pthread_mutex_lock(track->lock);
    synced(track, submitted_ns, now_ns);
    pthread_mutex_unlock(track->lock);
}

void vgpu_tracks_synced(struct vgpu_track *list, CUcontext context, uint64_t now_ns) {
    for (struct vgpu_track *track = list; track; track = track->next)
        if (track->clock->context == context) synced(track, track->submitted_ns, now_ns);
}

void vgpu_track_anchor(struct vgpu_track *track, uint32_t epoch, bool trusted) {
    struct vgpu_clock *clock = track->clock;
    if (vgpu_load_relaxed(&clock->anchor_epoch) == epoch) return;
    pthread_mutex_lock(&clock->lock);
    uint64_t before = vgpu_now_ns();
    bool ours = clock->context && clock->anchor_epoch != epoch;
    bool lasts = trusted && clock->anchor && before < clock->anchor_ns + ANCHOR_LASTS_NS;
    CUevent anchor = ours ? clock->anchor : NULL;
    if (ours) vgpu_store_relaxed(&clock->anchor_epoch, epoch);
    if (ours && !lasts) clock->anchor = NULL; /* until it is recorded */
    pthread_mutex_unlock(&clock->lock);
    if (!ours || lasts) return;
    anchor = record(track, true, anchor);
    /* The GPU comes to it about when the call returns, unless this thread had to pause meanwhile.
     */
    uint64_t now = vgpu_now_ns();
    if (now > before + ANCHOR_NS) now = before;
    pthread_mutex_lock(&clock->lock);
    clock->anchor = anchor;
    clock->anchor_ns = now;
    pthread_mutex_unlock(&clock->lock);
}

void vgpu_track_end(struct vgpu_track *track) {
    vgpu_store_seq_cst(&track->gone, true);
    vgpu_capture_await_records();
}

void vgpu_tracks_forget_context(struct vgpu_track *list, CUcontext context) {
    struct vgpu_clock *clock = NULL;
    for (struct vgpu_track *track = list; track; track = track->next) {
        if (track->clock->context != context) continue;
        clock = track->clock;
        pthread_mutex_lock(track->lock);
        for (uint32_t i = 0; i < track->count; i++) {
            struct vgpu_mark *mark = &track->marks[(track->first + i) % VGPU_MARK_QUEUE];
            if (mark->trial) vgpu_store_relaxed(&mark->trial->in_flight, (uint16_t)0);
        }
        vgpu_store_seq_cst(&track->gone, true);
        track->count = 0;
        if (track->done_ns != track->submitted_ns) track->drained_ns = vgpu_now_ns();
        track->done_ns = track->submitted_ns;
        track->group_start = NULL;
        track->group_out = track->group_opening = false;
        pthread_mutex_unlock(track->lock);
    }
    if (!clock) return;
    pthread_mutex_lock(&clock->lock);
    vgpu_store_seq_cst(&clock->context, NULL);
    clock->anchor = NULL;
    clock->free_count[0] = clock->free_count[1] = 0;
    pthread_mutex_unlock(&clock->lock);
    vgpu_capture_await_records();
    for (struct vgpu_track *track = list; track; track = track->next)
        if (track->clock == clock) vgpu_wait_unused(&track->polling);
}
