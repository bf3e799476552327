#define _GNU_SOURCE
#include "pace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "capture.h"
#include "device.h"
#include "include/vgpu.h"
#include "interpose.h"
#include "seat.h"
#include "slice.h"
#include "stall.h"
#include "times.h"
#include "wait.h"
#include "watch.h"

/* Predicted work that may run ahead of the GPU: alone, in a turn that nobody can cut short, and
 * while one may be, or ends. */
#define WINDOW_NS UINT64_C(2000000)
#define SETTLED_WINDOW_NS UINT64_C(8000000)
#define SHARED_WINDOW_NS UINT64_C(500000)
#define MIXED_NS UINT64_C(100000000)    /* since another thread launched: it may again */
#define CAREFUL_NS UINT64_C(1000000000) /* since a thread overslept: it may again */
#define CLOSE_LEAD_NS UINT64_C(60000)   /* before a slice's end its last marks are put */

static struct vgpu_pace *paces[VGPU_MAX_DEVICES];
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
/* ---- which launches are gated ------------------------------------------------------------- */

/* Unlimited launches compare two words: the region's limits_version, and the version at which no
 * device had a share. A process without session compares two constants. */
static uint32_t no_session;
static struct {
    const uint32_t *version;
    uint32_t open_version, limited_version;
    /* Raised whenever a context or a stream ends: the handle may come back as another's. */
    uint32_t handles_ended;
    uint32_t frees; /* raised when shares have been lifted, and when they come back: launches have
                       gone by the gate */
} known __attribute__((aligned(64))) = {&no_session, 1, 1, 0, 0};

/* By device: another session has a seat there. Then we take turns, with or without a share. */
static bool company[VGPU_MAX_DEVICES];

/* Brings our seats up to date with the region. True if a launch may have to wait for its turn. */
static bool look_around(struct vgpu_region *region) {
    bool any = false;
    for (uint32_t i = 0; i < VGPU_MAX_DEVICES; i++) {
        struct vgpu_place_on_board place = vgpu_seat_taken(i);
        vgpu_seat_update(&place, region, i);
        bool others = vgpu_seat_has_company(&place) &&
                      vgpu_load_relaxed(&place.board->header.mode) != VGPU_BOARD_SPATIAL &&
                      vgpu_load_relaxed(&region->header.throttle) != VGPU_THROTTLE_STRICT;
        vgpu_store_relaxed(&company[i], others);
        any |= others;
    }
    return any;
}

/* True if some device of the session may have a share. */
static bool has_share(const struct vgpu_region *region) {
    bool limited = region->header.default_share_ppm < VGPU_WHOLE_GPU;
    for (int i = 0; i < VGPU_MAX_DEVICES; i++)
        limited |= vgpu_load_acquire(&region->devices[i].state) == VGPU_DEVICE_READY &&
                   (vgpu_gate_share(&region->devices[i]) < VGPU_WHOLE_GPU ||
                    vgpu_load_relaxed(&region->devices[i].enclosed));
    return limited;
}

/* Of sessions inside each other the outermost one's version counts. */
static bool find_out(void) {
    struct vgpu_session *session = vgpu_session_get();
    if (!session) {
        vgpu_store_release(&known.open_version, 0U); /* == no_session, for good */
        return false;
    }
    struct vgpu_session *outermost = session;
    while (outermost->outer) outermost = outermost->outer;
    struct vgpu_region *region = outermost->region;
    uint32_t seen = vgpu_load_acquire(&region->header.limits_version);
    bool limited = look_around(region);
    for (; session; session = session->outer) limited |= has_share(session->region);
    /* On both sides: a thread that still waited may have opened a slice after it was lifted. */
    bool was_open = (int32_t)(vgpu_load_relaxed(&known.open_version) -
                              vgpu_load_relaxed(&known.limited_version)) > 0;
    if (!limited || was_open) vgpu_add_relaxed(&known.frees, 1U);
    vgpu_store_release(limited ? &known.limited_version : &known.open_version, seen);
    vgpu_store_release(limited ? &known.open_version : &known.limited_version, seen - 1);
    vgpu_store_release(&known.version, &region->header.limits_version);
    return limited;
}

VGPU_HOT bool vgpu_pace_gated(void) {
    uint32_t now = vgpu_load_relaxed(vgpu_load_acquire(&known.version));
    if (__builtin_expect(now == vgpu_load_relaxed(&known.open_version), 1)) return false;
    return now == vgpu_load_relaxed(&known.limited_version) || find_out();
}

static void forget_in_child(void) {
    vgpu_store_release(&known.version, &no_session);
    vgpu_store_release(&known.open_version, 1U);
    vgpu_store_release(&known.limited_version, 1U);
    pthread_mutex_init(&making, NULL);
    vgpu_add_relaxed(&known.handles_ended, 1U);
    for (int i = 0; i < VGPU_MAX_DEVICES; i++)
        paces[i] = NULL; /* the parent's: leaked in the child */
}

static struct vgpu_gate gate_of(const struct vgpu_session *session, uint32_t device) {
    return (struct vgpu_gate){.device = &session->region->devices[device],
                              .start_ns = session->region->header.start_mono_ns};
}

static bool has_inner_share(const struct vgpu_pace *pace) {
    for (uint32_t i = 0; i < pace->inner_count; i++)
        if (vgpu_gate_share(pace->inner[i].gate.device) < VGPU_WHOLE_GPU) return true;
    return false;
}

/* Beside work that takes no slices an inner session's share would not be of the whole GPU's time.
 */
static void enclose(struct vgpu_region *region, uint32_t device) {
    if (vgpu_load_relaxed(&region->devices[device].enclosed)) return;
    vgpu_store_relaxed(&region->devices[device].enclosed, 1U);
    vgpu_add_seq_cst(&region->header.limits_version, 1U);
}

/* True if the contexts of our process are clients of an MPS server. */
static bool is_mps_client(CUdevice ordinal) {
    int enabled = 0;
    CALL(cuDeviceGetAttribute)(&enabled, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, ordinal);
    return enabled;
}

static struct vgpu_pace *make_pace(struct vgpu_session *session, uint32_t device,
                                   CUdevice ordinal) {
    struct vgpu_pace *pace = aligned_alloc(64, (sizeof *pace + 63) / 64 * 64);
    struct vgpu_book *book = aligned_alloc(64, sizeof *book);
    if (!pace || !book) {
        free(pace);
        free(book);
        return NULL;
    }
    memset(pace, 0, sizeof *pace);
    memset(book, 0, sizeof *book);
    pace->book = book;
    for (; session->outer; session = session->outer) {
        pace->inner[pace->inner_count++] = (struct vgpu_inner){
            gate_of(session, device), &session->region->header, &session->slot->use[device]};
        device = session->outer_accounts[device].device;
    }
    pace->session = session;
    pace->device = device;
    pace->use = &session->slot->use[device];
    pace->gate = gate_of(session, device);
    pace->mps = is_mps_client(ordinal);
    if (has_inner_share(pace)) enclose(session->region, device);
    vgpu_rota_join(&pace->rota, session, device);
    /* Held for moments: a thread that spins gets it sooner than one that sleeps. */
    pace->lock = (pthread_mutex_t)PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
    return pace;
}

static struct vgpu_pace *pace_of(uint32_t device, CUdevice ordinal) {
    struct vgpu_session *session = vgpu_session_get();
    struct vgpu_pace *pace = vgpu_load_acquire(&paces[device]);
    if (pace || !session) return pace;
    pthread_mutex_lock(&making);
    if (!paces[device]) vgpu_store_release(&paces[device], make_pace(session, device, ordinal));
    pace = paces[device];
    pthread_mutex_unlock(&making);
    return pace;
}

/* The pace of the current context's device. */
static struct vgpu_pace *current_pace(void) {
    struct vgpu_session *session = vgpu_session_get();
    CUdevice ordinal;
    if (!session || CALL(cuCtxGetDevice)(&ordinal) != CUDA_SUCCESS) return NULL;
    uint32_t device = vgpu_device_index(session, ordinal);
    return device < VGPU_MAX_DEVICES ? pace_of(device, ordinal) : NULL;
}

static bool is_limited(const struct vgpu_pace *pace) {
    const struct vgpu_device *device = &pace->session->region->devices[pace->device];
    return vgpu_gate_share(device) < VGPU_WHOLE_GPU || vgpu_load_relaxed(&device->enclosed) ||
           vgpu_load_relaxed(&company[pace->device]) || has_inner_share(pace);
}

static struct vgpu_pace *if_limited(struct vgpu_pace *pace) {
    return pace && is_limited(pace) ? pace : NULL;
}

/* Where a thread's work goes, as it last found out. */
struct lane {
    struct vgpu_pace *pace; /* NULL: not known */
    struct vgpu_track *track;
    CUstream stream;
    bool per_thread;
    uint32_t ended; /* handles_ended, then */
};
static __thread struct lane lane __attribute__((tls_model("initial-exec")));

/* True if that is this thread's lane; a default stream needs the current context. */
static inline bool is_my_lane(CUstream stream, bool per_thread) {
    bool same = lane.pace && lane.stream == stream && lane.per_thread == per_thread &&
                lane.ended == vgpu_load_acquire(&known.handles_ended);
    if (!same || !vgpu_track_is_default(stream)) return same;
    CUcontext context = NULL;
    return CALL(cuCtxGetCurrent)(&context) == CUDA_SUCCESS && context &&
           vgpu_track_context(lane.track) == context;
}

/* Makes it this thread's lane. False without a context. */
static bool change_lane(CUstream stream, bool per_thread) {
    uint32_t ended = vgpu_load_acquire(&known.handles_ended);
    CUcontext context = NULL;
    lane.pace = NULL;
    if (CALL(cuCtxGetCurrent)(&context) != CUDA_SUCCESS || !context) return false;
    struct vgpu_pace *pace = current_pace();
    if (!pace) return false;
    lane.track = vgpu_track_find(&pace->tracks, &pace->lock, context, stream, per_thread);
    if (!lane.track) return false;
    lane.stream = stream;
    lane.per_thread = per_thread;
    lane.ended = ended;
    lane.pace = pace;
    return true;
}

/* The lane of a stream: for one used twice in a row, no driver call. NULL without a context, or if
 * its device has no share. */
static struct lane *find_lane(CUstream stream, bool per_thread) {
    bool found = is_my_lane(stream, per_thread) || change_lane(stream, per_thread);
    return found && if_limited(lane.pace) ? &lane : NULL;
}

uint32_t *vgpu_pace_bell(struct vgpu_pace *pace) { return pace->rota.bell; }
uint32_t vgpu_pace_ear(const struct vgpu_pace *pace) { return vgpu_rota_ear(&pace->rota); }

/* ---- admission ---------------------------------------------------------------------------- */

enum step { ASK_NAME, ADMIT, LOOK, WAIT_TURN, WAIT_GPU, WAIT_OTHERS, CLOSE };

/* True if more than one thread launches. */
static bool others_launch(const struct vgpu_pace *pace, uint64_t now) {
    return pace->mixed_ns && now < pace->mixed_ns + MIXED_NS;
}

/* This thread's stream is full to the slice's end. Where other threads launch too, theirs may not
 * be: they wake one after another, and closing now would turn them away. True, with when to look
 * again, until the slice is nearly over. */
static bool fills_late(const struct vgpu_pace *pace, uint64_t now, uint64_t end, uint64_t *until) {
    if (!others_launch(pace, now) || now + CLOSE_LEAD_NS + CLOSE_LEAD_NS / 2 > end) return false;
    *until = later(end - CLOSE_LEAD_NS - (end - CLOSE_LEAD_NS - now) / 2, now + CLOSE_LEAD_NS / 2);
    return true;
}

/* The first result of an unknown kernel decides how many of it may be in flight. In another stream
 * it may be waiting for this one: rather than that, more and more rarely, one more. */
static uint64_t trial_patience(const struct vgpu_passage *passage) {
    const struct vgpu_book_entry *entry = passage->entry;
    if (entry->trial_on == passage->track) return VGPU_STALL_ONE_NS;
    return VGPU_STALL_NS << earlier(entry->in_flight - 1U, 6);
}

static uint64_t window_of(const struct vgpu_pace *pace, uint64_t now, uint64_t end) {
    if (vgpu_slice_helps(pace)) return VGPU_GANG_HELP_NS;
    if (!vgpu_slice_is_shared(pace)) return WINDOW_NS;
    bool settled = pace->turns.count == 1 && now + 2 * SHARED_WINDOW_NS < end &&
                   vgpu_rota_is_settled(&pace->rota, now);
    return settled ? earlier(end - now, SETTLED_WINDOW_NS) : SHARED_WINDOW_NS;
}

/* What one launch adds to what is in flight. */
static uint64_t flight_of(const struct vgpu_pace *pace, uint64_t predicted_ns) {
    return predicted_ns * (pace->overlap ? pace->overlap : 1024) / 1024;
}

/* How long a thread sleeps for room in the window, with `ahead` ns of work, which is more, before
 * its launch. Where predictions are right, and it wakes in time, until little is left. Else until
 * half of it is, or half-way at the latest: if that ends sooner than predicted, or the thread wakes
 * late, the GPU would stand idle. Caller holds the lock. */
static uint64_t nap(const struct vgpu_pace *pace, uint64_t ahead, uint64_t window, uint64_t now) {
    bool by_itself = pace->turns.count == 1 && !others_launch(pace, now);
    bool in_time = now > vgpu_load_relaxed(&pace->overslept_ns) + CAREFUL_NS;
    if (by_itself && in_time && vgpu_slice_is_steady(pace)) return ahead - SHARED_WINDOW_NS;
    uint64_t keep = by_itself ? later(window / 2, SHARED_WINDOW_NS) : window;
    return earlier(earlier(ahead - keep, ahead / 2), VGPU_STALL_NS);
}

/* What to do with a launch predicted to take `flight` ns while we hold a slice, or (holds false)
 * while it is being closed. Caller holds the lock. */
static enum step find_room(struct vgpu_pace *pace, const struct vgpu_passage *passage, bool holds,
                           uint64_t flight, uint64_t now, uint64_t request, uint64_t *until) {
    const struct vgpu_book_entry *entry = passage->entry;
    if (!entry->timed && entry->in_flight && now < request + trial_patience(passage)) {
        *until = now + 12000;
        return WAIT_GPU;
    }
    uint64_t start = later(now, passage->track->flight_end_ns);
    uint64_t end = vgpu_slice_end_ns(pace, now);
    /* What a kernel already runs over, others beside it may use as well. */
    bool beside = pace->overrun_ns && start + flight - flight / 8 <= pace->overrun_ns;
    if (pace->started && (!holds || (start + flight / 2 > end && !beside))) {
        if (!holds || !fills_late(pace, now, earlier(end, pace->flight_end_ns), until))
            return CLOSE;
        return WAIT_OTHERS;
    }
    if (now > request + VGPU_STALL_ONE_NS) return ADMIT;
    uint64_t window = window_of(pace, now, end);
    pace->room_end_ns = earlier(pace->slice.end_ns, end);
    pace->room_window_ns = window;
    if (vgpu_slice_is_shared(pace) && !entry->timed && now < pace->flight_end_ns) {
        *until = earlier(pace->flight_end_ns + 12000, now + VGPU_STALL_NS);
        return WAIT_GPU;
    }
    if (start - now > window) {
        *until = now + nap(pace, start - now, window, now) + 12000;
        return WAIT_GPU;
    }
    return ADMIT;
}

/* The slice that was open when the share was lifted ended with what had been let into it: what has
 * run since is nobody's charge. Caller holds the lock. */
static void end_freed_slice(struct vgpu_pace *pace) {
    uint32_t frees = vgpu_load_relaxed(&known.frees);
    bool freed = pace->frees != frees || vgpu_load_relaxed(&pace->freed);
    if (!freed) return;
    uint64_t now = vgpu_now_ns();
    pace->frees = frees;
    vgpu_store_relaxed(&pace->freed, false);
    if (pace->joined) vgpu_slice_leave(pace, earlier(pace->flight_end_ns, now));
    /* Nor does what was let into it lie ahead any more. */
    pace->flight_end_ns = earlier(pace->flight_end_ns, now);
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        track->flight_end_ns = earlier(track->flight_end_ns, now);
        track->done_ns = track->submitted_ns;
        track->unmarked_ns = track->unmarked_launches = 0;
        track->group_void = true;
    }
}

/* What to do with a launch predicted to take `flight` ns. Caller holds the lock. */
static enum step decide(struct vgpu_pace *pace, const struct vgpu_passage *passage, uint64_t flight,
                        uint64_t now, uint64_t request, uint64_t *until) {
    if (vgpu_load_acquire(&pace->closer)) {
        *until = now + 20000;
        return WAIT_GPU;
    }
    end_freed_slice(pace);
    vgpu_slice_note_rest(pace, request);
    if (pace->joined && pace->started) {
        bool quiet = now > pace->last_submit_ns + VGPU_GATE_PAUSE_NS;
        if (quiet && !pace->drained_ns && !pace->looked) return LOOK;
        bool paused = pace->drained_ns && now > pace->drained_ns + VGPU_GATE_PAUSE_NS;
        if (paused && !vgpu_slice_skip(pace, now)) vgpu_slice_leave(pace, pace->drained_ns);
    }
    bool holds = pace->joined && vgpu_slice_holds(pace);
    if (pace->joined && !holds && !pace->started)
        vgpu_slice_leave(pace, 0); /* taken from us before we could use it */
    if (!pace->joined) {
        if (!vgpu_slice_take(pace, now, request, until)) return WAIT_TURN;
        holds = true;
    }
    enum step step = find_room(pace, passage, holds, flight, now, request, until);
    bool spins = step != ADMIT && vgpu_stall_spinner_flies(pace, now, pace->slice.end_ns);
    return spins ? ADMIT : step;
}

/* Counts a launch that is being submitted, of `flight` ns. Caller holds the lock. */
static inline void count(struct vgpu_pace *pace, struct vgpu_track *track,
                         const struct vgpu_book_entry *entry, uint64_t flight, uint64_t now) {
    track->flight_end_ns = later(now, track->flight_end_ns) + flight;
    track->planned_end_ns = later(later(now, pace->slice.open_ns), track->planned_end_ns) + flight;
    pace->flight_end_ns = later(pace->flight_end_ns, track->flight_end_ns);
    pace->planned_end_ns = later(pace->planned_end_ns, track->planned_end_ns);
    pace->ahead_ns = later(pace->ahead_ns, track->planned_end_ns - now);
    pace->slice_flight_ns += flight;
    pace->slice_class_ns[entry->talks ? VGPU_CLASS_COMMUNICATION : track->class] += flight;
    if (pace->last_submit_ns && pace->last_lane != &lane) pace->mixed_ns = now;
    pace->last_lane = &lane;
    pace->last_submit_ns = now;
    pace->admitted++;
    vgpu_store_relaxed(&pace->use->launches, pace->use->launches + 1);
}

/* Books the launch as submitted. Caller holds the lock. */
static void submit(struct vgpu_pace *pace, struct vgpu_passage *passage, uint64_t flight,
                   uint64_t now) {
    struct vgpu_book_entry *entry = passage->entry;
    /* A timed group that was open while the GPU stood idle between two slices tells nothing. */
    if (passage->track->epoch != pace->slice.epoch) passage->track->group_void = true;
    passage->epoch = passage->track->epoch = pace->slice.epoch;
    passage->first = !pace->started;
    passage->trial = vgpu_book_wants_trial(entry);
    if (passage->trial) entry->trial_on = passage->track;
    vgpu_book_note_launch(entry, passage->trial);
    if (pace->tails_marked == pace->slice.epoch) pace->tails_marked = 0; /* let in while closing */
    passage->mark = vgpu_track_submit(passage->track, entry, vgpu_book_predict(entry), flight,
                                      pace->every, &passage->group);
    struct vgpu_track *track = passage->track;
    if (entry->spins) vgpu_stall_note_spinner(pace, track, entry);
    vgpu_slice_note_pace(pace, now);
    if (passage->first) memset(pace->slice_class_ns, 0, sizeof pace->slice_class_ns);
    pace->helped |= entry->talks && vgpu_slice_helps(pace);
    count(pace, track, entry, flight, now);
    if (passage->first) pace->overrun_ns = 0;
    if (!pace->overrun_ns && track->flight_end_ns > pace->slice.end_ns)
        pace->overrun_ns = track->flight_end_ns;
    pace->drained_ns = 0;
    pace->looked = pace->rested = pace->gave_up = false;
    pace->started = true;
}

/* Lets a launch in by the grant, if it can be let in without a wait, and needs nothing but to be
 * counted. */
static inline bool submit_granted(struct vgpu_pace *pace, struct vgpu_track *track, uint64_t key) {
    if (!vgpu_grant_is_given(&pace->grant)) return false;
    /* The driver leaves little of us in the caches, and nothing is loaded ahead across a lock. */
    __builtin_prefetch(&pace->slice_flight_ns, 1);
    __builtin_prefetch(&pace->last_submit_ns, 1);
    __builtin_prefetch(&pace->slice);
    __builtin_prefetch(&track->per_thread, 1);
    __builtin_prefetch(&track->launches, 1);
    __builtin_prefetch(vgpu_book_home(pace->book, key));
    uint64_t ticks = vgpu_ticks();
    pthread_mutex_lock(&pace->lock);
    const uint64_t now = vgpu_grant_now(&pace->grant, ticks);
    struct vgpu_book_entry *entry = now ? vgpu_book_settled(pace->book, key) : NULL;
    bool good = false;
    if (entry) {
        uint64_t flight = flight_of(pace, entry->estimate_ns),
                 start = later(now, track->flight_end_ns);
        good = start + flight <= pace->grant.end_ns && start - now <= pace->grant.window_ns &&
               now <= pace->last_submit_ns + VGPU_GATE_PAUSE_NS &&
               track->epoch == pace->slice.epoch &&
               vgpu_track_has_room(track, entry->estimate_ns, flight, pace->every);
        if (good) {
            vgpu_track_count(track, entry, flight);
            if (track->group_start) vgpu_track_count_in_group(track, entry, entry->estimate_ns);
            count(pace, track, entry, flight, now);
        }
    }
    pthread_mutex_unlock(&pace->lock);
    return good;
}

/* Drains and leaves this slice of ours. False if the work in flight seems to wait for the launch on
 * `own`. */
static bool drain_slice(struct vgpu_pace *pace, uint32_t epoch, const struct vgpu_track *own) {
    struct vgpu_stall stall = {0};
    for (;;) {
        uint32_t heard = vgpu_load_acquire(vgpu_pace_bell(pace));
        if (vgpu_slice_close_step(pace, epoch)) break;
        uint64_t now = vgpu_now_ns();
        uint64_t look = vgpu_slice_next_look(pace, now);
        pthread_mutex_lock(&pace->lock);
        bool stalled = vgpu_stall_lasts(&stall, pace, own, now);
        bool helps = vgpu_slice_helps(pace);
        pthread_mutex_unlock(&pace->lock);
        if (stalled) return false;
        if (helps) return true; /* a peer may wait for the very launch */
        vgpu_wait_word(vgpu_pace_bell(pace), heard, look, vgpu_pace_ear(pace));
    }
    pthread_mutex_lock(&pace->lock);
    vgpu_stall_drained(pace);
    pthread_mutex_unlock(&pace->lock);
    return true;
}

/* The same, while the watcher leaves it to us. */
static bool close_slice(struct vgpu_pace *pace, uint32_t epoch, const struct vgpu_track *own) {
    vgpu_add_seq_cst(&pace->closing, 1U);
    bool drained = drain_slice(pace, epoch, own);
    vgpu_add_seq_cst(&pace->closing, UINT32_MAX);
    return drained;
}

/* Polls all tracks, since all flights are brought up to date. */
static void look(struct vgpu_pace *pace) {
    vgpu_slice_look(pace, false);
    pthread_mutex_lock(&pace->lock);
    vgpu_slice_flight(pace, vgpu_now_ns());
    pthread_mutex_unlock(&pace->lock);
}

/* What comes now was first wanted at request: until then the program paused, and not we. True if it
 * has been found out now when all had ended. */
static bool look_after_pause(struct vgpu_pace *pace, uint64_t now, uint64_t request) {
    if (!vgpu_slice_look_after_pause(pace, now)) return false;
    pthread_mutex_lock(&pace->lock);
    if (request > pace->drained_ns + VGPU_GATE_PAUSE_NS) vgpu_slice_note_pause(pace, false);
    pthread_mutex_unlock(&pace->lock);
    return true;
}

static void note_wait(struct vgpu_pace *pace, uint64_t waited_ns) {
    vgpu_add_relaxed(&pace->use->throttled_ns, waited_ns);
    vgpu_add_relaxed(&pace->use->waits, UINT64_C(1));
    vgpu_slice_tell_inner(pace);
}

/* Communication: a rank that waits would make all others wait. */
static bool talks(const struct vgpu_passage *passage) {
    return passage->entry->talks || passage->track->class == VGPU_CLASS_COMMUNICATION;
}

/* True if GPUs of the session that communicate are to form a gang by themselves. */
static bool makes_gangs(const struct vgpu_pace *pace) {
    return vgpu_load_relaxed(&pace->session->region->header.gang) == VGPU_GANG_AUTO;
}

/* Then communication waits with everything else: the ranks' slice is one, and a rank that spun for
 * its peers outside of it would take their neighbours' time. */
static bool is_in_gang(const struct vgpu_pace *pace) { return pace->turns.count > 1; }

static void enter_gang(struct vgpu_pace *pace) {
    if (vgpu_gang_enter(pace->session->region, pace->device))
        vgpu_wake_word(vgpu_pace_bell(pace), VGPU_ALL_EARS); /* our own slice ends */
}

/* What a thread that waits for a slice listens to. */
static uint32_t *bell_of_wait(const struct vgpu_pace *pace) {
    uint32_t *bell = vgpu_load_relaxed(&pace->waits_on);
    return bell ? bell : pace->rota.bell;
}

/* Returns when the launch may go, and has been booked. */
static void await(struct vgpu_pace *pace, struct vgpu_passage *passage, uint64_t key,
                  const void *function) {
    uint64_t request = 0, held_since = 0;
    bool forced = false;
    for (;;) {
        uint32_t *bell = bell_of_wait(pace), heard = vgpu_load_acquire(bell);
        uint64_t now = vgpu_now_ns(), until = now;
        if (!request) request = now;
        pthread_mutex_lock(&pace->lock);
        if (!passage->entry) passage->entry = vgpu_book_find(pace->book, key);
        uint64_t flight = flight_of(pace, vgpu_book_predict(passage->entry));
        bool named = passage->entry->named;
        pace->room_end_ns = 0;
        bool listens = false;
        enum step step = !named && makes_gangs(pace) ? ASK_NAME
                         : forced && pace->joined
                             ? ADMIT
                             : decide(pace, passage, flight, now, request, &until);
        bool never_waits = step > ADMIT && talks(passage) && !is_in_gang(pace);
        if (never_waits && pace->joined) step = ADMIT;
        if (step == ADMIT) {
            bool paused = !pace->started || pace->drained_ns;
            /* Where the watcher may put a mark. */
            bool open = !passage->track->per_thread;
            listens = paused && open && vgpu_slice_listens(pace, now);
            submit(pace, passage, flight, now);
            /* The next ones may be let in by what this one was. */
            vgpu_grant_give(&pace->grant, now, vgpu_ticks(), pace->room_end_ns,
                            pace->room_window_ns);
        }
        pace->looked |= step == LOOK;
        uint32_t epoch = pace->slice.epoch;
        pthread_mutex_unlock(&pace->lock);
        if (step == ADMIT) {
            if (held_since) note_wait(pace, now - held_since);
            if (listens) vgpu_wake_word(vgpu_pace_bell(pace), vgpu_pace_ear(pace));
            return;
        }
        if (never_waits) {
            /* Not our turn: it runs outside of any slice of ours, and is charged as predicted. */
            vgpu_gate_charge(pace->gate, flight);
            for (uint32_t i = 0; i < pace->inner_count; i++)
                vgpu_gate_charge(pace->inner[i].gate, flight);
            passage->pace = NULL;
            return;
        }
        if (!named) {
            /* Worth the question only if it is to be held back, or may tell that GPUs are a gang.
             */
            bool communicates = vgpu_class_is_communication(function);
            pthread_mutex_lock(&pace->lock);
            passage->entry->talks = communicates;
            passage->entry->named = true;
            pthread_mutex_unlock(&pace->lock);
            if (communicates && makes_gangs(pace)) enter_gang(pace);
            continue;
        }
        /* Only the share's own waits are throttling; a full window is what a full queue is
         * natively. */
        if (!held_since && (step == CLOSE || step == WAIT_TURN || step == WAIT_OTHERS))
            held_since = now;
        if (step == LOOK) {
            look_after_pause(pace, now, request);
        } else if (step == CLOSE) {
            /* Work that waits for the launch we hold back would never drain: let it through. */
            forced = !close_slice(pace, epoch, passage->track);
        } else if (step == WAIT_TURN) {
            if (bell == bell_of_wait(pace)) vgpu_wait_word(bell, heard, until, VGPU_TURN_EAR_WAITS);
        } else {
            vgpu_wait_until(until);
            uint64_t woken = vgpu_now_ns();
            if (woken > until + SHARED_WINDOW_NS) vgpu_store_relaxed(&pace->overslept_ns, woken);
            look(pace);
        }
    }
}

static void start_watcher(struct vgpu_pace *pace) {
    pthread_mutex_lock(&pace->lock);
    bool start = !pace->watched;
    vgpu_store_relaxed(&pace->watched, true);
    pthread_mutex_unlock(&pace->lock);
    if (start) vgpu_watch_start(pace);
}

/* A launch in this thread's lane that no grant covers. */
static __attribute__((noinline, cold)) void enter_slowly(struct vgpu_passage *passage, uint64_t key,
                                                         const void *function) {
    struct vgpu_pace *pace = if_limited(lane.pace);
    if (!pace) {
        if (lane.pace) vgpu_store_relaxed(&lane.pace->freed, true);
        return;
    }
    passage->track = lane.track;
    if (!vgpu_load_relaxed(&pace->watched)) start_watcher(pace);
    passage->pace = pace;
    passage->entry = NULL;
    passage->trial_start = NULL;
    await(pace, passage, key, function);
    if (!passage->pace) return;

    vgpu_track_anchor(passage->track, passage->epoch, vgpu_load_relaxed(&pace->trusted));
    if (passage->trial) passage->trial_start = vgpu_track_start(passage->track);
    if (passage->group)
        vgpu_track_open_group(passage->track,
                              passage->trial ? NULL : vgpu_track_start(passage->track));
    passage->granted = false;
}

VGPU_HOT void vgpu_pace_enter(struct vgpu_passage *passage, CUstream stream, bool per_thread,
                              uint64_t key, const void *function) {
    passage->pace = NULL;
    if (vgpu_capture_is_open() && vgpu_capture_holds(stream, per_thread)) return;
    bool mine = is_my_lane(stream, per_thread);
    if (__builtin_expect(mine && submit_granted(lane.pace, lane.track, key), 1)) {
        passage->pace = lane.pace;
        passage->granted = true;
    } else if (mine || change_lane(stream, per_thread)) {
        enter_slowly(passage, key, function);
    }
}

static __attribute__((noinline, cold)) void leave_slowly(const struct vgpu_passage *passage) {
    struct vgpu_pace *pace = passage->pace;
    struct vgpu_track *track = passage->track;
    if (passage->first) {
        pthread_mutex_lock(&pace->lock);
        if (pace->slice.epoch == passage->epoch) pace->begun_ns = vgpu_now_ns();
        pthread_mutex_unlock(&pace->lock);
    }
    if (passage->trial) {
        vgpu_track_mark(track, true, passage->entry, passage->trial_start);
    } else if (passage->mark) {
        vgpu_track_mark(track, false, NULL, NULL);
        if (!vgpu_track_is_due(track, vgpu_now_ns())) return;
        look(pace);
    }
}

VGPU_HOT void vgpu_pace_leave(struct vgpu_passage *passage) {
    if (!passage->pace) return;
    if (!passage->granted) leave_slowly(passage);
    vgpu_add_seq_cst(&passage->pace->returned, 1U);
}

/* ---- what the program tells us by waiting itself ------------------------------------------- */

void vgpu_pace_sync_begin(struct vgpu_sync *sync, CUstream stream, bool per_thread, bool given) {
    sync->pace = NULL;
    if (!vgpu_pace_gated()) return;
    const struct lane *found = given ? find_lane(stream, per_thread) : NULL;
    struct vgpu_pace *pace = found ? found->pace : given ? NULL : if_limited(current_pace());
    if (!pace) return;
    sync->track = found ? found->track : NULL;
    sync->pace = pace;
    pthread_mutex_lock(&pace->lock);
    end_freed_slice(pace);
    sync->submitted_ns = given ? sync->track->submitted_ns : 0;
    sync->admitted = pace->admitted;
    sync->known = pace->drained_ns != 0;
    sync->context = NULL;
    bool launching = pace->admitted != vgpu_load_seq_cst(&pace->returned);
    uint64_t now = vgpu_now_ns();
    /* It did something else first: that was its pause, not the wait. */
    bool paused = pace->started && !pace->drained_ns && now > pace->flight_end_ns &&
                  now > pace->last_submit_ns + VGPU_GATE_PAUSE_NS &&
                  pace->asked_after != pace->admitted;
    pthread_mutex_unlock(&pace->lock);
    if (paused && !launching) sync->known |= look_after_pause(pace, now, now);
    if (!given && !launching) CALL(cuCtxGetCurrent)(&sync->context);
}

/* The program has waited: where all has ended, it knows. Caller holds the lock. */
static void note_drained(const struct vgpu_sync *sync, uint64_t now) {
    struct vgpu_pace *pace = sync->pace;
    if (vgpu_slice_flight(pace, now) || !pace->started) return;
    if (!sync->known) vgpu_slice_note_pause(pace, true);
    vgpu_slice_rest(pace, pace->drained_ns);
}

void vgpu_pace_sync_end(struct vgpu_sync *sync, CUresult result) {
    struct vgpu_pace *pace = sync->pace;
    if (!pace || result != CUDA_SUCCESS) return;
    uint64_t now = vgpu_now_ns();
    if (sync->track) {
        vgpu_track_synced(sync->track, sync->submitted_ns, now);
    } else {
        pthread_mutex_lock(&pace->lock);
        /* If nobody has launched meanwhile, that was all of the context. */
        if (sync->context && sync->admitted == pace->admitted)
            vgpu_tracks_synced(vgpu_load_acquire(&pace->tracks), sync->context, now);
        pthread_mutex_unlock(&pace->lock);
        vgpu_slice_look(pace, true);
    }
    pthread_mutex_lock(&pace->lock);
    note_drained(sync, now);
    pthread_mutex_unlock(&pace->lock);
}

void vgpu_pace_look(const struct vgpu_sync *sync) {
    struct vgpu_pace *pace = sync->pace;
    if (!pace) return;
    /* After a short wait, or long before all has drained, there is nothing to learn: pauses that
     * short are part of the occupancy. */
    pthread_mutex_lock(&pace->lock);
    uint64_t last = pace->last_submit_ns, predicted = pace->flight_end_ns;
    bool calm = vgpu_slice_is_calm(pace);
    pthread_mutex_unlock(&pace->lock);
    uint64_t now = vgpu_now_ns();
    bool soon = now + VGPU_GATE_PAUSE_NS > predicted || !calm;
    if (now <= last + VGPU_GATE_PAUSE_NS || !soon) return;
    if (!vgpu_slice_has_drained(pace, predicted, now)) return;
    note_drained(sync, now);
    pthread_mutex_unlock(&pace->lock);
}

uint64_t vgpu_pace_tend(struct vgpu_pace *pace, uint64_t *listens_until_ns) {
    pthread_mutex_lock(&pace->lock);
    end_freed_slice(pace);
    pthread_mutex_unlock(&pace->lock);
    CUstreamCaptureMode mode = vgpu_capture_relax();
    uint64_t again = vgpu_slice_tend(pace, listens_until_ns);
    vgpu_capture_restore(mode);
    return again;
}

/* ---- ends ----------------------------------------------------------------------------------- */

/* What ran in the context has ended, as far as the driver will say. */
static void drain_context(struct vgpu_pace *pace, CUcontext context) {
    bool flying = false;
    pthread_mutex_lock(&pace->lock);
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next)
        flying |= vgpu_track_context(track) == context && track->submitted_ns != track->done_ns;
    pthread_mutex_unlock(&pace->lock);
    if (!flying || REAL(cuCtxPushCurrent_v2)(context) != CUDA_SUCCESS) return;
    struct vgpu_sync sync;
    CUstreamCaptureMode mode = vgpu_capture_relax();
    vgpu_pace_sync_begin(&sync, NULL, false, false);
    vgpu_pace_sync_end(&sync, REAL(cuCtxSynchronize)());
    vgpu_capture_restore(mode);
    CALL(cuCtxPopCurrent_v2)(&context);
}

void vgpu_pace_forget_context(CUcontext context) {
    for (int i = 0; i < VGPU_MAX_DEVICES; i++) {
        struct vgpu_pace *pace = vgpu_load_acquire(&paces[i]);
        if (!pace) continue;
        drain_context(pace, context);
        vgpu_tracks_forget_context(vgpu_load_acquire(&pace->tracks), context);
    }
    vgpu_add_seq_cst(&known.handles_ended, 1U);
}

VGPU_EXPORT int vgpu_stream_class(void *stream, enum vgpu_class what) {
    const struct lane *found = find_lane(stream, false);
    errno = (unsigned)what > VGPU_CLASS_COMMUNICATION ? EINVAL : found ? errno : ENOENT;
    if ((unsigned)what > VGPU_CLASS_COMMUNICATION || !found) return -1;
    vgpu_store_relaxed(&found->track->class, (uint32_t)what);
    if (what == VGPU_CLASS_COMMUNICATION && makes_gangs(found->pace)) enter_gang(found->pace);
    return 0;
}

static void forget_stream(struct vgpu_pace *pace, CUstream stream) {
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        if (track->stream != stream || vgpu_load_acquire(&track->gone)) continue;
        pthread_mutex_lock(&pace->lock);
        bool flying = track->submitted_ns != track->done_ns;
        pthread_mutex_unlock(&pace->lock);
        if (flying) vgpu_track_mark(track, true, NULL, NULL);
        vgpu_track_end(track);
    }
}

void vgpu_pace_forget_stream(CUstream stream) {
    if (vgpu_track_is_default(stream)) return;
    for (int i = 0; i < VGPU_MAX_DEVICES; i++) {
        struct vgpu_pace *pace = vgpu_load_acquire(&paces[i]);
        if (pace) forget_stream(pace, stream);
    }
    vgpu_add_seq_cst(&known.handles_ended, 1U);
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

__attribute__((constructor)) static void register_fork(void) {
    vgpu_session_on_fork(forget_in_child);
}
