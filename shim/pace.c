#include "pace.h"

#include <stdlib.h>

#include "atomics.h"
#include "device.h"
#include "interpose.h"
#include "slice.h"
#include "wait.h"
#include "watch.h"

#define WINDOW_NS UINT64_C(2000000)      /* predicted work that may run ahead of the GPU */
#define OTHERS_NS UINT64_C(2000000)      /* between two looks at processes that hold a slice up */
#define TRIAL_PATIENCE_NS UINT64_C(250000000)

static struct vgpu_pace *paces[VGPU_MAX_DEVICES];
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

/* ---- which launches are gated ------------------------------------------------------------- */

/* Unlimited launches compare two words: the region's limits_version, and the version at which no
 * device had a share. A process without session compares two constants. */
static uint32_t no_session;
static const uint32_t *version = &no_session;
static uint32_t open_version = 1;

static bool find_out(void) {
    struct vgpu_session *session = vgpu_session_get();
    if (!session) {
        vgpu_store_release(&open_version, 0U); /* == no_session, for good */
        return false;
    }
    struct vgpu_region *region = session->region;
    uint32_t seen = vgpu_load_acquire(&region->header.limits_version);
    bool limited = region->header.default_share_ppm < VGPU_WHOLE_GPU;
    for (int i = 0; i < VGPU_MAX_DEVICES; i++)
        limited |= vgpu_load_acquire(&region->devices[i].state) == VGPU_DEVICE_READY &&
                   vgpu_load_relaxed(&region->devices[i].share_ppm) < VGPU_WHOLE_GPU;
    vgpu_store_release(&open_version, limited ? seen - 1 : seen);
    vgpu_store_release(&version, &region->header.limits_version);
    return limited;
}

bool vgpu_pace_gated(void) {
    const uint32_t *word = vgpu_load_acquire(&version);
    if (__builtin_expect(vgpu_load_relaxed(word) == vgpu_load_relaxed(&open_version), 1)) return false;
    return find_out();
}

static void forget_in_child(void) {
    vgpu_store_release(&version, &no_session);
    vgpu_store_release(&open_version, 1U);
    pthread_mutex_init(&making, NULL);
    for (int i = 0; i < VGPU_MAX_DEVICES; i++) paces[i] = NULL; /* the parent's: leaked in the child */
}

static struct vgpu_pace *make_pace(struct vgpu_session *session, uint32_t device) {
    struct vgpu_pace *pace = calloc(1, sizeof *pace);
    if (!pace || !(pace->book = calloc(1, sizeof *pace->book))) {
        free(pace);
        return NULL;
    }
    pace->session = session;
    pace->device = device;
    pace->use = &session->slot->use[device];
    pace->gate = (struct vgpu_gate){.device = &session->region->devices[device],
                                    .start_ns = session->region->header.start_mono_ns};
    pthread_mutex_init(&pace->lock, NULL);
    return pace;
}

/* The pace of the current context's device; NULL if that device has no share. */
static struct vgpu_pace *current_pace(void) {
    struct vgpu_session *session = vgpu_session_get();
    CUdevice ordinal;
    if (!session || CALL(cuCtxGetDevice)(&ordinal) != CUDA_SUCCESS) return NULL;
    uint32_t device = vgpu_device_index(session, ordinal);
    if (device >= VGPU_MAX_DEVICES) return NULL;
    if (vgpu_load_relaxed(&session->region->devices[device].share_ppm) >= VGPU_WHOLE_GPU) return NULL;
    struct vgpu_pace *pace = vgpu_load_acquire(&paces[device]);
    if (pace) return pace;
    pthread_mutex_lock(&making);
    if (!paces[device]) vgpu_store_release(&paces[device], make_pace(session, device));
    pace = paces[device];
    pthread_mutex_unlock(&making);
    return pace;
}

uint32_t *vgpu_pace_bell(struct vgpu_pace *pace) { return &pace->gate.device->gate_bell; }

/* ---- admission ---------------------------------------------------------------------------- */

enum step { ADMIT, LOOK, WAIT_NEXT, WAIT_OTHERS, WAIT_GPU, CLOSE };

/* Joins or opens a slice. Caller holds the lock. */
static enum step join(struct vgpu_pace *pace, uint64_t now, uint64_t request, uint64_t *until) {
    struct vgpu_gate_slice slice;
    enum vgpu_gate_answer answer = vgpu_gate_ask(pace->gate, now, request, &slice);
    if (answer == VGPU_GATE_WAIT) {
        *until = slice.until_ns;
        return WAIT_NEXT;
    }
    bool over = answer == VGPU_GATE_JOINED && now >= slice.end_ns;
    if (!over) {
        /* Busy first, then look: a closer that missed us is seen by us, and the other way round. */
        vgpu_store_seq_cst(&pace->use->gate_busy, (uint64_t)slice.epoch);
        over = !vgpu_gate_holds(pace->gate, slice.epoch);
        if (over) vgpu_store_seq_cst(&pace->use->gate_busy, UINT64_C(0));
    }
    if (over) {
        vgpu_slice_nudge(pace, &slice, now);
        *until = now + OTHERS_NS;
        return WAIT_OTHERS;
    }
    pace->slice = slice;
    pace->joined = true;
    pace->started = false;
    pace->flight_end_ns = now;
    pace->looked = false;
    return ADMIT;
}

/* What to do with a launch predicted to take `predicted` ns. Caller holds the lock. */
static enum step decide(struct vgpu_pace *pace, struct vgpu_book_entry *entry, uint64_t now,
                        uint64_t request, uint64_t *until) {
    if (vgpu_load_acquire(&pace->closer)) {
        *until = now + 20000;
        return WAIT_GPU;
    }
    if (pace->joined && pace->started) {
        uint64_t quiet = now - pace->last_submit_ns;
        if (!pace->drained_ns && quiet > VGPU_GATE_PAUSE_NS && !pace->looked) return LOOK;
        if (pace->drained_ns && now > pace->drained_ns + VGPU_GATE_PAUSE_NS)
            vgpu_slice_leave(pace, pace->drained_ns);
    }
    if (pace->joined && !pace->started && !vgpu_gate_holds(pace->gate, pace->slice.epoch))
        vgpu_slice_leave(pace, 0); /* closed before we could use it */
    if (!pace->joined) {
        enum step step = join(pace, now, request, until);
        if (step != ADMIT) return step;
    }
    /* The first result of an unknown kernel decides how many of it may be in flight. */
    if (!entry->timed && vgpu_load_relaxed(&entry->in_flight) && now < request + TRIAL_PATIENCE_NS) {
        *until = now + 12000;
        return WAIT_GPU;
    }
    uint64_t start = now > pace->flight_end_ns ? now : pace->flight_end_ns;
    if (pace->started && (start + vgpu_book_predict(entry) / 2 > pace->slice.end_ns ||
                          !vgpu_gate_holds(pace->gate, pace->slice.epoch)))
        return CLOSE;
    if (start - now > WINDOW_NS) {
        *until = now + (start - now - WINDOW_NS) + 12000;
        return WAIT_GPU;
    }
    return ADMIT;
}

/* Books the launch as submitted. Caller holds the lock. */
static void submit(struct vgpu_pace *pace, struct vgpu_passage *passage, uint64_t now) {
    struct vgpu_track *track = passage->track;
    uint64_t predicted = passage->predicted_ns;
    vgpu_add_seq_cst(&pace->launching, 1U);
    pthread_mutex_lock(&track->lock);
    track->epoch = passage->epoch = pace->slice.epoch;
    track->submitted_ns += predicted;
    track->unmarked_ns += predicted;
    track->unmarked_launches++;
    track->launches++;
    pthread_mutex_unlock(&track->lock);
    pace->flight_end_ns = (now > pace->flight_end_ns ? now : pace->flight_end_ns) + predicted;
    pace->last_submit_ns = now;
    pace->drained_ns = 0;
    pace->looked = false;
    pace->started = true;
    passage->trial = vgpu_book_wants_trial(passage->entry);
    if (passage->trial) passage->entry->in_flight = 1;
}

/* Drains and leaves our slice, or gives up after `patience` (the valve). */
static bool close_slice(struct vgpu_pace *pace, uint64_t patience) {
    uint64_t give_up = vgpu_now_ns() + patience;
    bool rung = false;
    for (;;) {
        uint32_t heard = vgpu_load_acquire(vgpu_pace_bell(pace));
        if (vgpu_slice_close_step(pace)) return true;
        uint64_t now = vgpu_now_ns(), end;
        uint64_t look = vgpu_slice_next_look(pace, now, &end);
        if (now > give_up && now > end + patience) return false;
        /* Others of the session are in the slice: have their watchers drain them too. */
        if (!rung && !vgpu_slice_alone(pace)) {
            rung = true;
            vgpu_wake_word(vgpu_pace_bell(pace));
            continue;
        }
        vgpu_wait_word(vgpu_pace_bell(pace), heard, look);
    }
}

/* Waits until the launch may go. Returns the time of admission. */
static void await(struct vgpu_pace *pace, struct vgpu_passage *passage) {
    uint64_t request = 0, patience = VGPU_ENDLESS_NS;
    bool forced = false;
    for (;;) {
        uint32_t heard = vgpu_load_acquire(vgpu_pace_bell(pace));
        uint64_t now = vgpu_now_ns(), until = now;
        pthread_mutex_lock(&pace->lock);
        enum step step = forced && pace->joined ? ADMIT
                                                : decide(pace, passage->entry, now,
                                                         request ? request : now, &until);
        if (step == ADMIT) {
            passage->predicted_ns = vgpu_book_predict(passage->entry);
            submit(pace, passage, now);
        }
        pace->looked |= step == LOOK;
        pthread_mutex_unlock(&pace->lock);
        if (step == ADMIT) {
            if (request) {
                vgpu_add_relaxed(&pace->use->throttled_ns, now - request);
                vgpu_add_relaxed(&pace->use->waits, UINT64_C(1));
            }
            return;
        }
        if (step == LOOK) {
            /* The program was quiet and told us nothing: where the GPU has drained meanwhile, the
             * prediction says when. */
            vgpu_slice_look(pace, true);
            pthread_mutex_lock(&pace->lock);
            uint64_t predicted = pace->flight_end_ns;
            if (vgpu_slice_flight(pace, now) == 0) {
                if (predicted < pace->last_submit_ns) predicted = pace->last_submit_ns;
                pace->drained_ns = predicted < now ? predicted : now;
            }
            pthread_mutex_unlock(&pace->lock);
            continue;
        }
        if (!request) request = now;
        if (step == CLOSE) {
            /* Work that waits for the launch we hold back would never drain: let it through. */
            forced = !close_slice(pace, patience);
            if (forced) patience *= 2;
        } else if (step == WAIT_GPU) {
            vgpu_wait_until(until);
            vgpu_slice_look(pace, false);
            pthread_mutex_lock(&pace->lock);
            vgpu_slice_flight(pace, vgpu_now_ns());
            pthread_mutex_unlock(&pace->lock);
        } else {
            vgpu_wait_word(vgpu_pace_bell(pace), heard, until);
        }
    }
}

static void start_watcher(struct vgpu_pace *pace) {
    pthread_mutex_lock(&pace->lock);
    bool start = !pace->watched;
    pace->watched = true;
    pthread_mutex_unlock(&pace->lock);
    if (start) vgpu_watch_start(pace);
}

void vgpu_pace_enter(struct vgpu_passage *passage, CUstream stream, bool per_thread, uint64_t key) {
    passage->pace = NULL;
    struct vgpu_pace *pace = current_pace();
    if (!pace || vgpu_track_captures(stream, per_thread)) return;
    CUcontext context = NULL;
    CALL(cuCtxGetCurrent)(&context);
    passage->track = vgpu_track_find(&pace->tracks, context, stream, per_thread);
    if (!passage->track) return;
    if (!vgpu_load_relaxed(&pace->watched)) start_watcher(pace);
    passage->pace = pace;
    passage->trial_start = NULL;
    pthread_mutex_lock(&pace->lock);
    passage->entry = vgpu_book_find(pace->book, key);
    pthread_mutex_unlock(&pace->lock);
    await(pace, passage);

    struct vgpu_track *track = passage->track;
    vgpu_track_anchor(track, passage->epoch, vgpu_now_ns());
    if (passage->trial)
        passage->trial_start = vgpu_track_start(track);
    else if (vgpu_track_join_group(track, passage->entry, passage->predicted_ns))
        vgpu_track_open_group(track, vgpu_track_start(track));
}

void vgpu_pace_leave(struct vgpu_passage *passage, CUresult result) {
    struct vgpu_pace *pace = passage->pace;
    if (!pace) return;
    struct vgpu_track *track = passage->track;
    if (result == CUDA_SUCCESS) vgpu_add_relaxed(&pace->use->launches, UINT64_C(1));
    if (passage->trial)
        vgpu_track_mark(track, true, passage->entry, passage->trial_start);
    else if (vgpu_track_mark_due(track)) {
        vgpu_track_mark(track, false, NULL, NULL);
        vgpu_track_poll(track);
        pthread_mutex_lock(&pace->lock);
        vgpu_slice_flight(pace, vgpu_now_ns());
        pthread_mutex_unlock(&pace->lock);
    }
    vgpu_sub_seq_cst(&pace->launching, 1U);
}

/* ---- what the program tells us by waiting itself ------------------------------------------- */

void vgpu_pace_sync_begin(struct vgpu_sync *sync, CUstream stream, bool per_thread, bool given) {
    sync->pace = NULL;
    if (!vgpu_pace_gated()) return;
    struct vgpu_pace *pace = current_pace();
    CUcontext context = NULL;
    CALL(cuCtxGetCurrent)(&context);
    if (!pace || !context || !vgpu_load_relaxed(&pace->tracks)) return;
    sync->context = context;
    sync->track = given ? vgpu_track_find(&pace->tracks, context, stream, per_thread) : NULL;
    if (given && !sync->track) return;
    sync->pace = pace;
    sync->submitted_ns = given ? vgpu_load_acquire(&sync->track->submitted_ns) : 0;
}

void vgpu_pace_sync_end(struct vgpu_sync *sync, CUresult result) {
    struct vgpu_pace *pace = sync->pace;
    if (!pace || result != CUDA_SUCCESS) return;
    uint64_t now = vgpu_now_ns();
    if (sync->track) {
        vgpu_track_synced(sync->track, sync->submitted_ns, now);
        vgpu_track_poll(sync->track);
    } else {
        vgpu_slice_look(pace, true);
    }
    pthread_mutex_lock(&pace->lock);
    if (vgpu_slice_flight(pace, now) == 0 && pace->started) pace->drained_ns = now;
    pthread_mutex_unlock(&pace->lock);
}

void vgpu_pace_look(void) {
    struct vgpu_sync sync;
    vgpu_pace_sync_begin(&sync, NULL, false, false);
    if (sync.pace) vgpu_pace_sync_end(&sync, CUDA_SUCCESS);
}

bool vgpu_pace_tend(struct vgpu_pace *pace) {
    pthread_mutex_lock(&pace->lock);
    bool wanted = pace->joined && !vgpu_gate_holds(pace->gate, pace->slice.epoch);
    pthread_mutex_unlock(&pace->lock);
    if (!wanted) return false;
    CUstreamCaptureMode mode = vgpu_capture_relax();
    bool left = vgpu_slice_close_step(pace);
    vgpu_capture_restore(mode);
    return !left;
}

/* ---- ends ----------------------------------------------------------------------------------- */

void vgpu_pace_forget_context(CUcontext context) {
    for (int i = 0; i < VGPU_MAX_DEVICES; i++) {
        struct vgpu_pace *pace = vgpu_load_acquire(&paces[i]);
        if (pace) vgpu_tracks_forget_context(vgpu_load_acquire(&pace->tracks), context);
    }
}

void vgpu_pace_forget_stream(CUstream stream) {
    struct vgpu_pace *pace = vgpu_pace_gated() ? current_pace() : NULL;
    if (!pace || !stream) return;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        if (track->stream != stream || track->gone) continue;
        bool flying = vgpu_load_relaxed(&track->submitted_ns) != vgpu_load_relaxed(&track->done_ns);
        if (flying) vgpu_track_mark(track, true, NULL, NULL);
        track->gone = true;
    }
}

/* A process that exits books its last slice; the driver may be gone by now, so by prediction. */
__attribute__((destructor)) static void leave_at_exit(void) {
    for (int i = 0; i < VGPU_MAX_DEVICES; i++) {
        struct vgpu_pace *pace = paces[i];
        if (!pace || pthread_mutex_trylock(&pace->lock)) continue;
        if (pace->joined) {
            uint64_t drained = pace->drained_ns ? pace->drained_ns : pace->flight_end_ns;
            vgpu_slice_leave(pace, drained);
        }
        pthread_mutex_unlock(&pace->lock);
    }
}

__attribute__((constructor)) static void register_fork(void) { vgpu_session_on_fork(forget_in_child); }
