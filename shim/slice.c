#include "slice.h"

#include "atomics.h"
#include "slot.h"
#include "times.h"
#include "wait.h"

#define OPENING_NS UINT64_C(20000)  /* between opening a slice and saying who takes part */
#define YIELD_NS UINT64_C(250000)   /* head start for each process that was served less recently */
#define OTHERS_NS UINT64_C(2000000) /* between two looks at a holder whose slice is over */
#define TEND_NS UINT64_C(50000)     /* between two looks of the watcher while somebody waits */
#define BEAT_NS UINT64_C(16000000)  /* between two signs of life while another session waits */
/* So long before the predicted drain the turn is given up, where predictions err by less than
 * GOOD_NS: a waiter's wake-up takes part of that, and 50 to 400 us too early does no harm. Under
 * MPS, where kernels of two sessions run side by side, more does none either. */
#define HAND_OVER_NS UINT64_C(150000)
#define GOOD_NS UINT64_C(100000)
#define GOOD_MPS_NS UINT64_C(1000000)
#define DRAINED_NS UINT64_C(20000)    /* so long after a good prediction the slice has drained */
#define ASLEEP_NS UINT64_C(100000000) /* … and is found so at the latest */
#define BOUND_AHEAD_NS UINT64_C(500000)
#define EARLY_NS UINT64_C(8000000) /* a thread that starts cold is warm by then */
/* So long, and so often, an idle GPU is asked whether it has come to a mark: it takes 5 us. */
#define ANSWER_NS UINT64_C(20000)
#define ANSWER_LOOKS 64
#define SKIP_NS UINT64_C(2000000) /* pauses up to this do not end a slice */
/* Each pause that we were not told of counts so much, one that we were told of 1 less; and from so
 * much on we look ourselves: after two, and where every second one is untold … */
#define UNTOLD_EACH 2U
#define UNTOLD 3U
#define UNTOLD_MOST 8U
#define LISTEN_NS UINT64_C(2000000) /* … so often at most: it takes three wake-ups … */
#define QUIET_NS UINT64_C(50000)    /* … when no launch has come for so long */
#define STRETCHES 4U                /* so many alike, and the next one's end is taken for granted */
#define OVERLAP_MIN 64U
#define OVERLAP_MAX 16384U
#define OVERLAP_ONE 1024U
#define OVERLAP_ALONE_MIN 896U /* of one stream */

static uint32_t slots_used(const struct vgpu_pace *pace) {
    uint32_t used = vgpu_load_acquire(&pace->session->region->header.slots_used);
    return used < VGPU_MAX_SLOTS ? used : VGPU_MAX_SLOTS;
}

/* The i-th slot if a live process holds it, else NULL. */
static struct vgpu_slot *live_slot(const struct vgpu_pace *pace, uint32_t i) {
    struct vgpu_slot *slot = &pace->session->region->slots[i];
    bool live = vgpu_slot_state(vgpu_load_acquire(&slot->owner)) == VGPU_SLOT_LIVE;
    return live ? slot : NULL;
}

/* True if another process of the session waits for the slice to end. */
static bool is_wanted_inside(const struct vgpu_pace *pace, uint32_t epoch) {
    return vgpu_load_seq_cst(&pace->gate.device->gate_wanted) == epoch;
}

static bool is_open(const struct vgpu_pace *pace, uint32_t epoch) {
    struct vgpu_gate_slice slice;
    return vgpu_gate_look(pace->gate, &slice) && slice.epoch == epoch;
}

static bool peer_is_stuck(const struct vgpu_pace *pace) {
    return pace->turns.count > 1 &&
           vgpu_gang_peer_is_stuck(pace->gate.device, pace->slice.epoch, pace->device) &&
           is_open(pace, pace->slice.epoch);
}

static bool has_formed(const struct vgpu_pace *pace) {
    return vgpu_gang_members(pace->session->region, pace->device) == pace->turns.members;
}

bool vgpu_slice_holds(const struct vgpu_pace *pace) {
    bool open = vgpu_gate_holds(pace->gate, pace->slice.epoch) || peer_is_stuck(pace);
    return open && vgpu_gang_turns_hold(&pace->turns) && has_formed(pace);
}

bool vgpu_slice_helps(const struct vgpu_pace *pace) {
    return pace->joined && !pace->helped && peer_is_stuck(pace) &&
           vgpu_gang_turns_hold(&pace->turns) && has_formed(pace);
}

uint64_t vgpu_slice_end_ns(const struct vgpu_pace *pace, uint64_t now_ns) {
    if (vgpu_slice_helps(pace)) return UINT64_MAX;
    bool inside = is_wanted_inside(pace, pace->slice.epoch);
    uint64_t end = inside ? pace->slice.end_shared_ns : pace->slice.end_ns;
    return earlier(end, vgpu_gang_turns_end_ns(&pace->turns, now_ns));
}

bool vgpu_slice_is_shared(const struct vgpu_pace *pace) {
    return vgpu_gang_turns_have_company(&pace->turns) || vgpu_gang_turns_are_wanted(&pace->turns);
}

/* ---- what the last slices tell of the next one ------------------------------------------------
 */

static uint64_t good_ns(const struct vgpu_pace *pace) { return pace->mps ? GOOD_MPS_NS : GOOD_NS; }

/* True if drains are known to come when they are predicted, give or take so much. */
static bool predicts_well(const struct vgpu_pace *pace, uint64_t good) {
    return pace->drain_error_ns && pace->drain_error_ns < good; /* 0: not known yet */
}

bool vgpu_slice_is_calm(const struct vgpu_pace *pace) { return predicts_well(pace, GOOD_NS); }

/* ---- sessions inside ours ---------------------------------------------------------------------
 */

/* When the inner sessions' shares allow a slice. */
static uint64_t inner_next(const struct vgpu_pace *pace, uint64_t now_ns) {
    uint64_t next = 0;
    bool bursting;
    for (uint32_t i = 0; i < pace->inner_count; i++)
        next = later(next, vgpu_gate_next(pace->inner[i].gate, now_ns, &bursting));
    return next;
}

/* The slice is no longer than their shares have it. */
static void follow_inner(const struct vgpu_pace *pace, const struct vgpu_gate *outer,
                         struct vgpu_gate_slice *slice, uint64_t now_ns, uint64_t request_ns) {
    for (uint32_t i = 0; i < pace->inner_count; i++) {
        struct vgpu_gate gate = pace->inner[i].gate;
        gate.quantum_ns = outer->quantum_ns;
        gate.period_ns = outer->period_ns;
        vgpu_gate_follow(gate, now_ns, request_ns, slice);
    }
}

/* Not told if we die first: the outer session's share is what the neighbours were promised. */
static void charge_inner(const struct vgpu_pace *pace, uint64_t busy_ns) {
    for (uint32_t i = 0; i < pace->inner_count; i++) {
        const struct vgpu_inner *inner = &pace->inner[i];
        vgpu_gate_charge(inner->gate,
                         vgpu_class_weigh(inner->header, pace->slice_class_ns, busy_ns));
        vgpu_add_relaxed(&inner->gate.device->slices, UINT64_C(1));
    }
    vgpu_slice_tell_inner(pace);
}

void vgpu_slice_tell_inner(const struct vgpu_pace *pace) {
    for (uint32_t i = 0; i < pace->inner_count; i++) {
        struct vgpu_use *use = pace->inner[i].use;
        vgpu_store_relaxed(&use->launches, vgpu_load_relaxed(&pace->use->launches));
        vgpu_store_relaxed(&use->busy_ns, vgpu_load_relaxed(&pace->use->busy_ns));
        vgpu_store_relaxed(&use->throttled_ns, vgpu_load_relaxed(&pace->use->throttled_ns));
        vgpu_store_relaxed(&use->waits, vgpu_load_relaxed(&pace->use->waits));
    }
}

/* ---- taking a slice -------------------------------------------------------------------------- */

/* Other processes of the session that wait for a slice: all, and those served before us. */
struct waiting {
    uint64_t all, before_us;
};

static struct waiting count_waiting(const struct vgpu_pace *pace) {
    uint64_t ours = vgpu_load_relaxed(&pace->use->gate_drained_ns);
    struct waiting waiting = {0};
    for (uint32_t i = 0; i < slots_used(pace); i++) {
        const struct vgpu_slot *slot = live_slot(pace, i);
        if (!slot || slot == pace->session->slot) continue;
        const struct vgpu_use *use = &slot->use[pace->device];
        if (!vgpu_load_relaxed(&use->gate_wants_ns)) continue;
        waiting.all++;
        waiting.before_us += vgpu_load_relaxed(&use->gate_drained_ns) < ours;
    }
    return waiting;
}

static void publish_theft(struct vgpu_pace *pace, const struct vgpu_slot *slot, uint32_t epoch,
                          uint64_t overdue_ns) {
    const struct vgpu_event event = {
        .kind = VGPU_EVENT_COMPUTE_STOLEN,
        .device = pace->device,
        .value = {epoch, overdue_ns, vgpu_slot_pid(vgpu_load_relaxed(&slot->owner))},
    };
    vgpu_session_event(pace->session, &event);
}

/* Takes the part of a slice that is overdue from the process in this slot, if it has it and is
 * dead, deaf or endless. False if it keeps it. */
static bool rob_part(struct vgpu_pace *pace, struct vgpu_slot *slot, struct vgpu_use *use,
                     uint32_t epoch, uint64_t overdue_ns, uint64_t now_ns, uint64_t *drained_ns) {
    if (vgpu_load_seq_cst(&use->gate_busy) != epoch) return true;
    enum vgpu_life life = vgpu_slot_life(slot);
    bool dead = life == VGPU_GONE || life == VGPU_EXITING;
    bool deaf =
        overdue_ns > VGPU_DEAF_NS && now_ns > vgpu_load_relaxed(&use->gate_seen_ns) + VGPU_DEAF_NS;
    if (!dead && !deaf && overdue_ns <= VGPU_ENDLESS_NS) return false;
    uint64_t busy = epoch;
    if (!dead && !deaf) *drained_ns = now_ns; /* endless: it runs to this moment */
    vgpu_store_release(&use->gate_drained_ns, *drained_ns);
    if (vgpu_cas_seq_cst(&use->gate_busy, &busy, UINT64_C(0)) && !dead)
        publish_theft(pace, slot, epoch, overdue_ns);
    return true;
}

/* The slice is over and its holders have not closed it: takes it from the dead, the deaf and the
 * endless. A holder that dies between opening and saying so leaves a slice that nobody holds. */
static void rob(struct vgpu_pace *pace, const struct vgpu_gate_slice *slice, uint64_t now_ns) {
    uint64_t overdue = minus(now_ns, later(pace->wanted_since_ns, slice->end_shared_ns));
    uint64_t drained = earlier(now_ns, slice->end_shared_ns);
    bool held = false;
    for (uint32_t i = 0; i < slots_used(pace) * pace->turns.count; i++) {
        struct vgpu_slot *slot = live_slot(pace, i / pace->turns.count);
        if (!slot) continue;
        struct vgpu_use *use = &slot->use[pace->turns.order[i % pace->turns.count]];
        if (use == pace->use) continue;
        held |= !rob_part(pace, slot, use, slice->epoch, overdue, now_ns, &drained);
    }
    if (held) return;
    if (!vgpu_gate_close(pace->gate, slice->epoch, drained)) return;
    vgpu_gang_turns_reclaim(&pace->turns, slice->end_shared_ns, now_ns);
    vgpu_gang_turns_ring(&pace->turns);
}

/* Another process's slice is open: have its watcher know that somebody waits, and see that it ends.
 */
static uint64_t wait_for_other(struct vgpu_pace *pace, const struct vgpu_gate_slice *slice,
                               uint64_t now_ns) {
    struct vgpu_device *device = pace->gate.device;
    if (pace->wanted_epoch != slice->epoch) {
        pace->wanted_epoch = slice->epoch;
        pace->wanted_since_ns = now_ns;
        vgpu_store_seq_cst(&device->gate_wanted, slice->epoch);
        vgpu_gang_turns_ring(&pace->turns);
    }
    if (now_ns < slice->end_shared_ns) return slice->end_shared_ns;
    vgpu_gate_begin_close(pace->gate, slice->epoch);
    if (now_ns > slice->end_shared_ns + OTHERS_NS) rob(pace, slice, now_ns);
    return now_ns + OTHERS_NS;
}

/* The gang as it is now: its leader's gate is ours. */
static void form_gang(struct vgpu_pace *pace, uint64_t now_ns) {
    struct vgpu_region *region = pace->session->region;
    if (vgpu_load_relaxed(&region->header.gang) == VGPU_GANG_ON)
        vgpu_gang_enter(region, pace->device);
    uint64_t members = vgpu_gang_members(region, pace->device);
    if (vgpu_gang_turns_form(&pace->turns, &pace->rota, members, now_ns)) pace->wanted_epoch = 0;
    pace->gate.device = &region->devices[pace->turns.order[0]];
    bool alone = pace->turns.count == 1;
    pace->gate.share_ppm = alone ? 0 : vgpu_gang_share(region, members);
    bool bound = vgpu_slice_is_bound(pace);
    pace->gate.period_ns = !alone ? VGPU_GANG_PERIOD_NS : bound ? VGPU_GATE_PERIOD_BOUND_NS : 0;
}

/* A slice is open. Takes our device's part of it, if it is to be had. */
static bool join_slice(struct vgpu_pace *pace, const struct vgpu_gate_slice *slice, uint64_t now_ns,
                       uint64_t *until_ns) {
    bool over = now_ns >= slice->end_ns || !vgpu_gate_holds(pace->gate, slice->epoch);
    if (vgpu_gang_join(pace->gate.device, slice->epoch, pace->device, over)) {
        vgpu_gang_turns_adopt(&pace->turns, slice->epoch);
        pace->joined_ns = now_ns;
        return true;
    }
    bool opening = vgpu_gang_is_opening(pace->gate.device, slice->epoch);
    if (opening && now_ns < slice->open_ns + OTHERS_NS) *until_ns = now_ns + OPENING_NS;
    else *until_ns = wait_for_other(pace, slice, now_ns);
    return false;
}

/* Opens a slice if the schedule, the other processes and the other sessions allow it now, or takes
 * part in the one that is open. */
static bool open_slice(struct vgpu_pace *pace, struct vgpu_gate_slice *slice, uint64_t now_ns,
                       uint64_t request_ns, uint64_t *until_ns) {
    form_gang(pace, now_ns);
    const struct vgpu_gate gate = vgpu_gang_turns_gate(&pace->turns, pace->gate, now_ns);
    bool bursting;
    uint64_t next = vgpu_gate_next(gate, now_ns, &bursting);
    struct waiting waiting = slots_used(pace) > 1 ? count_waiting(pace) : (struct waiting){0};
    *until_ns = later(next, inner_next(pace, now_ns)) + YIELD_NS * earlier(waiting.before_us, 8);
    if (next == 0 || *until_ns > now_ns) {
        vgpu_gang_turns_withdraw(&pace->turns, now_ns);
        if (next) return false;
        *until_ns = 0;
        if (!vgpu_gate_look(gate, slice) || !join_slice(pace, slice, now_ns, until_ns))
            return false;
        follow_inner(pace, &gate, slice, now_ns, request_ns);
        return true;
    }
    uint32_t *bell;
    if (!vgpu_gang_turns_take(&pace->turns, bursting, now_ns, until_ns, &bell)) {
        vgpu_store_relaxed(&pace->waits_on, bell);
        return false;
    }
    if (vgpu_gate_ask(gate, now_ns, request_ns, slice) != VGPU_GATE_OPENED) {
        vgpu_gang_turns_leave(&pace->turns, now_ns);
        *until_ns = now_ns;
        return false;
    }
    pace->joined_ns = slice->open_ns;
    vgpu_gang_turns_publish(&pace->turns, slice->epoch);
    vgpu_gang_open(gate.device, slice->epoch, pace->device);
    if (pace->turns.count > 1) vgpu_gang_turns_ring(&pace->turns);
    if (waiting.all) vgpu_store_seq_cst(&gate.device->gate_wanted, slice->epoch);
    follow_inner(pace, &gate, slice, now_ns, request_ns);
    return true;
}

bool vgpu_slice_take(struct vgpu_pace *pace, uint64_t now_ns, uint64_t request_ns,
                     uint64_t *until_ns) {
    struct vgpu_gate_slice slice;
    vgpu_store_relaxed(&pace->waits_on, (uint32_t *)NULL);
    if (pace->inner_count && pace->turns.count == 1 && inner_next(pace, now_ns) > now_ns) {
        *until_ns = inner_next(pace, now_ns); /* the outer session's others need not care */
        vgpu_store_relaxed(&pace->use->gate_wants_ns, UINT64_C(0));
        return false;
    }
    if (!open_slice(pace, &slice, now_ns, request_ns, until_ns)) {
        if (!vgpu_load_relaxed(&pace->use->gate_wants_ns))
            vgpu_store_relaxed(&pace->use->gate_wants_ns, now_ns);
        return false;
    }
    vgpu_store_seq_cst(&pace->use->gate_busy, (uint64_t)slice.epoch);
    vgpu_store_relaxed(&pace->use->gate_wants_ns, UINT64_C(0));
    pace->slice = slice;
    pace->joined = true;
    pace->started = pace->looked = pace->helped = false;
    pace->stuck = pace->was_stuck = false;
    pace->drain_due_ns = 0;
    pace->begun_ns = pace->slice_flight_ns = pace->promised_ns = pace->ahead_ns = 0;
    pace->skipped_ns = 0;
    pace->listens = false;
    pace->flight_end_ns = pace->planned_end_ns = now_ns;
    if (!pace->overlap) pace->overlap = OVERLAP_ONE;
    vgpu_store_relaxed(&pace->trusted, pace->drain_error_ns < GOOD_NS);
    pace->every = vgpu_slice_is_bound(pace)  ? VGPU_MARK_BOUND
                  : vgpu_slice_is_calm(pace) ? VGPU_MARK_CALM
                                             : VGPU_MARK_EVERY;
    return true;
}

/* ---- what is in flight ------------------------------------------------------------------------
 */

/* When all had ended that was submitted there, at the latest: a timed mark may say so long before a
 * poll finds it done. */
static uint64_t ended_by(const struct vgpu_track *track) {
    return track->seen_to == track->submitted_ns ? earlier(track->seen_ns, track->drained_ns)
                                                 : track->drained_ns;
}

/* Streams are taken to run side by side: each has its own predicted end, the last one counts. */
uint64_t vgpu_slice_flight(struct vgpu_pace *pace, uint64_t now_ns) {
    uint64_t flight = 0, drained = 0, end = 0;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        uint64_t left = track->submitted_ns - track->done_ns, head = left;
        if (track->count) head = minus(track->marks[track->first].covers_ns, track->done_ns);
        /* Between two marks only the prediction knows how far the GPU has come; without one
         * nothing says that it has not ended. */
        if (left && track->count)
            track->flight_end_ns = later(track->flight_end_ns, now_ns + left - head);
        track->flight_end_ns = earlier(track->flight_end_ns, now_ns + left);
        flight += left;
        end = later(end, track->flight_end_ns);
        drained = later(drained, ended_by(track));
    }
    pace->flight_end_ns = end;
    if (flight) pace->drained_ns = 0;
    else if (!pace->drained_ns) pace->drained_ns = drained ? drained : now_ns;
    if (!flight) vgpu_grant_revoke(&pace->grant); /* the next launch ends the pause */
    return flight;
}

bool vgpu_slice_look(struct vgpu_pace *pace, bool tails) {
    bool marked = false;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        pthread_mutex_lock(track->lock);
        bool mark = tails && track->unmarked_ns;
        pthread_mutex_unlock(track->lock);
        if (mark) marked |= vgpu_track_mark(track, false, NULL, NULL);
        vgpu_track_poll(track);
    }
    return marked;
}

/* ---- closing -----------------------------------------------------------------------------------
 */

/* True if more than one stream was used in the slice. */
static bool used_streams_side_by_side(const struct vgpu_pace *pace) {
    int used = 0;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next)
        used += track->epoch == pace->slice.epoch;
    return used > 1;
}

bool vgpu_slice_is_steady(const struct vgpu_pace *pace) {
    return vgpu_slice_is_calm(pace) && !used_streams_side_by_side(pace);
}

/* Predictions take each stream to have the GPU for itself. Kernels that fill it make each other
 * wait, so a slice takes longer than planned; the ratio is learnt from each slice. One stream takes
 * longer only if we were late, and waiting for it by a longer prediction would make us late again;
 * but it may take less, for timed groups are longer by their own events. */
static void learn_overlap(struct vgpu_pace *pace, uint64_t drained_ns) {
    /* It took as long as a peer made it wait, or the first launch is not made yet. */
    if (pace->was_stuck || !pace->begun_ns) return;
    uint64_t planned = minus(pace->planned_end_ns, pace->joined_ns + pace->skipped_ns);
    uint64_t took_ns = minus(drained_ns, pace->begun_ns + pace->skipped_ns);
    if (planned < VGPU_GATE_PAUSE_NS || took_ns == 0) return;
    uint64_t measured = took_ns * pace->overlap / planned;
    if (!used_streams_side_by_side(pace)) {
        measured = later(earlier(measured, OVERLAP_ONE), OVERLAP_ALONE_MIN);
        uint64_t before = later(earlier(pace->overlap, OVERLAP_ONE), OVERLAP_ALONE_MIN);
        pace->overlap = (uint32_t)((3 * before + measured) / 4);
        return;
    }
    /* At worst all ran one after the other: what it took beyond that, the GPU was idle; or the
     * predictions are far from right, and this is what corrects them soonest. */
    uint64_t serial = pace->slice_flight_ns * OVERLAP_ONE / planned;
    if (measured < 2 * serial) measured = earlier(measured, serial);
    measured = later(earlier(measured, OVERLAP_MAX), OVERLAP_MIN);
    pace->overlap = (uint32_t)((3 * pace->overlap + measured) / 4);
}

/* A thread that sleeps while it is held back finds cold caches when it goes on. Where launches
 * never get far ahead of the GPU that is time lost, so such a program is to be held back seldom. */
static void learn_bound(struct vgpu_pace *pace, uint64_t took_ns) {
    if (took_ns < VGPU_GATE_PAUSE_NS) return;
    bool bound = pace->ahead_ns < earlier(took_ns / 8, BOUND_AHEAD_NS);
    /* A host that is slow for a moment, or a wrong prediction, does not change what a program is.
     */
    if (bound) pace->bound_slices += pace->bound_slices < 2 * VGPU_BOUND_SLICES;
    else pace->bound_slices -= pace->bound_slices < 2 ? pace->bound_slices : 2;
}

void vgpu_slice_note_pace(struct vgpu_pace *pace, uint64_t now_ns) {
    if (!pace->started) pace->slice_from = pace->admitted;
    if (pace->started && now_ns > pace->joined_ns + EARLY_NS) return;
    pace->early_ns = now_ns;
    pace->early_skipped_ns = pace->skipped_ns;
    pace->early_admitted = pace->admitted;
}

/* How much longer the launches of the slice's beginning took than as many of the rest. */
static void learn_cold(struct vgpu_pace *pace, uint64_t begun_ns, uint64_t drained_ns) {
    if (drained_ns < begun_ns + 2 * EARLY_NS) return;
    uint64_t skipped_late = pace->skipped_ns - pace->early_skipped_ns;
    uint64_t took_late = minus(drained_ns, pace->early_ns + skipped_late);
    uint64_t took_early = minus(drained_ns - begun_ns, took_late);
    uint32_t early = pace->early_admitted - pace->slice_from;
    uint32_t late = pace->admitted - pace->early_admitted;
    if (!early || !late || !took_early || !took_late) return;
    double each = (double)took_late / late;
    int64_t lost = (int64_t)((double)took_early - each * early);
    pace->cold_ns += (lost - pace->cold_ns) / 8;
}

/* What is not charged of a slice: a program that is bound by its launches, and was held back, loses
 * it again whenever it goes on, while the GPU waits for it. Beside others that is their time, too.
 */
static uint64_t forgiven(const struct vgpu_pace *pace, uint64_t took_ns) {
    bool alone = pace->turns.count == 1 && !vgpu_slice_is_shared(pace);
    if (!alone || !vgpu_slice_is_bound(pace) || pace->cold_ns <= 0) return 0;
    return earlier((uint64_t)pace->cold_ns, took_ns / 8);
}

/* When the last part of the slice had drained, ours at drained_ns. */
static uint64_t last_drain(const struct vgpu_pace *pace, uint64_t drained_ns) {
    for (uint32_t i = 0; pace->turns.count > 1 && i < slots_used(pace); i++) {
        const struct vgpu_slot *slot = live_slot(pace, i);
        for (uint32_t k = 0; slot && k < pace->turns.count; k++) {
            const struct vgpu_use *use = &slot->use[pace->turns.order[k]];
            drained_ns = later(drained_ns, vgpu_load_acquire(&use->gate_drained_ns));
        }
    }
    return drained_ns;
}

/* Books the slice and gives its turns up: all parts of it have drained. In a gang an inner session
 * pays for its own parts alone, when it leaves them. */
static void close_gate(struct vgpu_pace *pace, uint64_t begun_ns, uint64_t drained_ns,
                       uint64_t now_ns) {
    uint64_t took = vgpu_gang_turns_settle(&pace->turns, begun_ns, drained_ns), charge = took;
    if (pace->turns.count == 1) charge_inner(pace, took);
    charge = vgpu_class_weigh(&pace->session->region->header, pace->slice_class_ns, charge);
    vgpu_gate_close(pace->gate, pace->slice.epoch, pace->slice.open_ns + charge);
    for (uint32_t i = 1; i < pace->turns.count; i++) {
        struct vgpu_device *peer = &pace->session->region->devices[pace->turns.order[i]];
        vgpu_add_relaxed(&peer->charged_ns, charge); /* told there as well; the schedule is one */
    }
    vgpu_gang_turns_leave(&pace->turns, now_ns);
}

/* The charge begins when the first launch call has returned: until then the GPU stood idle, waiting
 * for a thread that had just been woken. Pauses have been taken out. */
static uint64_t charged_from(const struct vgpu_pace *pace) {
    uint64_t lead = minus(pace->begun_ns, pace->joined_ns);
    return pace->joined_ns + earlier(lead, VGPU_GATE_PAUSE_NS) + pace->skipped_ns;
}

bool vgpu_slice_skip(struct vgpu_pace *pace, uint64_t now_ns) {
    uint64_t pause = now_ns - pace->drained_ns;
    uint64_t length = pace->slice.end_ns - pace->slice.open_ns - pace->skipped_ns;
    bool alone = pace->turns.count == 1 && !vgpu_slice_is_shared(pace) &&
                 !is_wanted_inside(pace, pace->slice.epoch);
    if (!alone || !vgpu_slice_holds(pace) || pace->drained_ns >= pace->slice.end_ns) return false;
    if (pause > SKIP_NS || pace->skipped_ns + pause > length) return false;
    pace->skipped_ns += pause;
    pace->slice.end_ns += pause;
    pace->slice.end_shared_ns += pause;
    pace->drained_ns = now_ns;
    return true;
}

/* All had drained by now_ns, and only predicted_ns tells when. How several streams share the GPU a
 * measured drain alone tells: here they are taken to have run one after the other. */
static uint64_t assume_drain(const struct vgpu_pace *pace, uint64_t predicted_ns, uint64_t now_ns) {
    uint64_t end = later(later(predicted_ns, pace->last_submit_ns), pace->busy_ns);
    if (used_streams_side_by_side(pace))
        end = later(end, charged_from(pace) + pace->slice_flight_ns * OVERLAP_ONE / pace->overlap);
    return earlier(end, now_ns);
}

/* True if a timed mark has told when all that was submitted there had ended. */
static bool is_measured(const struct vgpu_track *track) {
    return track->measured_to == track->submitted_ns;
}

/* The same, by timed marks where these were behind all that was submitted: some may have come too
 * late to tell more than that it had ended by then. */
static uint64_t tell_drain(const struct vgpu_pace *pace, uint64_t predicted_ns, uint64_t now_ns) {
    uint64_t least = 0, most = 0;
    bool assumed = false;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        if (track->epoch != pace->slice.epoch) continue;
        bool measured = is_measured(track);
        assumed |= !measured;
        if (measured) least = later(least, track->measured_ns);
        most = later(most, track->seen_to == track->submitted_ns ? track->seen_ns : now_ns);
    }
    if (!least || assumed)
        least = later(least, earlier(assume_drain(pace, predicted_ns, now_ns),
                                     later(most, pace->last_submit_ns)));
    return earlier(least, now_ns);
}

/* True while a launch is between admission and the driver's return. Caller holds the lock. */
static bool is_launching(const struct vgpu_pace *pace) {
    return pace->admitted != vgpu_load_seq_cst(&pace->returned);
}

/* Puts a timed mark behind everything in flight. */
static void mark_flying(struct vgpu_pace *pace) {
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        pthread_mutex_lock(track->lock);
        bool flying = track->submitted_ns != track->done_ns;
        pthread_mutex_unlock(track->lock);
        if (flying) vgpu_track_mark(track, true, NULL, NULL);
    }
}

bool vgpu_slice_has_drained(struct vgpu_pace *pace, uint64_t predicted_ns, uint64_t now_ns) {
    const uint64_t asked = now_ns;
    uint64_t answered_ns = 0; /* at the latest, since the marks were put */
    bool marked = false, waits = true;
    for (int looks = 0; waits; looks++) {
        marked |= vgpu_slice_look(pace, looks == 0);
        pthread_mutex_lock(&pace->lock);
        if (vgpu_slice_flight(pace, now_ns) == 0) return true;
        /* Waited for in vain once, it is waited for again when there are new marks. */
        bool idle = predicted_ns <= asked && (marked || pace->asked_after != pace->admitted);
        now_ns = vgpu_now_ns();
        if (!answered_ns) answered_ns = now_ns + ANSWER_NS;
        waits = idle && looks < ANSWER_LOOKS && now_ns < answered_ns;
        if (idle && !waits) pace->asked_after = pace->admitted;
        if (!waits) pace->busy_ns = now_ns;
        pthread_mutex_unlock(&pace->lock);
    }
    return false;
}

bool vgpu_slice_look_after_pause(struct vgpu_pace *pace, uint64_t now_ns) {
    pthread_mutex_lock(&pace->lock);
    uint64_t predicted = pace->flight_end_ns;
    bool known = pace->drained_ns != 0;
    pthread_mutex_unlock(&pace->lock);
    if (known || !vgpu_slice_has_drained(pace, predicted, now_ns)) return false;
    pace->drained_ns = tell_drain(pace, predicted, now_ns);
    pthread_mutex_unlock(&pace->lock);
    return true;
}

void vgpu_slice_note_pause(struct vgpu_pace *pace, bool told) {
    pace->untold = told ? (uint32_t)minus(pace->untold, 1)
                        : (uint32_t)earlier(pace->untold + UNTOLD_EACH, UNTOLD_MOST);
}

bool vgpu_slice_listens(struct vgpu_pace *pace, uint64_t now_ns) {
    if (pace->untold < UNTOLD || now_ns < pace->listened_ns + LISTEN_NS) return false;
    pace->listens = true;
    pace->listened_ns = now_ns;
    return true;
}

/* Predictions alone would say when it ended: puts timed marks behind what is in flight as soon as
 * no launch has come for a while, since it may end sooner than predicted; and once more before
 * that, if more has come. Each look comes as long after the last one as that after the beginning: a
 * program that goes on launching has few. Returns when to look again, 0 = not at all. */
static uint64_t listen(struct vgpu_pace *pace, uint64_t now_ns) {
    pthread_mutex_lock(&pace->lock);
    uint64_t quiet = pace->last_submit_ns + QUIET_NS;
    uint64_t next = now_ns + later(minus(now_ns, pace->listened_ns), QUIET_NS / 2);
    bool ended = !pace->started || pace->drained_ns || pace->listened_to == pace->admitted;
    pace->listens &= !ended;
    bool listens = pace->listens;
    bool mark = listens && now_ns >= quiet && !is_launching(pace);
    if (mark) pace->listened_to = pace->admitted;
    uint64_t again = mark ? minus(pace->flight_end_ns, VGPU_GATE_PAUSE_NS) : quiet;
    pthread_mutex_unlock(&pace->lock);
    if (mark) mark_flying(pace);
    return listens ? later(again, next) : 0;
}

void vgpu_slice_leave(struct vgpu_pace *pace, uint64_t drained_ns) {
    struct vgpu_use *use = pace->use;
    const struct vgpu_gate_slice slice = pace->slice;
    uint64_t robbed_ns = vgpu_load_acquire(&use->gate_drained_ns), now = vgpu_now_ns();
    uint64_t begun = charged_from(pace);
    uint64_t drained = later(earlier(drained_ns, now), begun);
    if (!pace->started) drained = begun;
    pace->joined = false;
    vgpu_grant_revoke(&pace->grant);
    vgpu_add_relaxed(&use->busy_ns, drained - begun);
    learn_bound(pace, drained - begun);
    learn_cold(pace, begun, drained);
    vgpu_store_release(&use->gate_drained_ns, drained);
    uint64_t busy = slice.epoch;
    if (!vgpu_cas_seq_cst(&use->gate_busy, &busy, UINT64_C(0))) {
        /* Robbed: the slice was charged up to the robbery. While our work overlapped with the
         * session's next slices each pays half. A process that was stopped finds out long after. */
        uint64_t overlapped = minus(drained, later(robbed_ns, begun));
        uint64_t half = earlier(overlapped, pace->slice_flight_ns) / 2;
        vgpu_gate_charge(pace->gate, half);
        charge_inner(pace, minus(drained - begun, overlapped) + half);
        vgpu_gang_turns_forget(&pace->turns); /* who robbed us has freed them */
        return;
    }
    bool wanted = is_wanted_inside(pace, slice.epoch);
    if (pace->turns.count > 1) charge_inner(pace, drained - begun);
    if (vgpu_gang_leave(pace->gate.device, slice.epoch, pace->device)) {
        if (pace->joined_ns != slice.open_ns) begun = slice.open_ns;
        begun += forgiven(pace, drained - begun);
        close_gate(pace, begun, last_drain(pace, drained), now);
    } else {
        vgpu_gang_turns_forget(&pace->turns); /* peers go on: who leaves last frees them */
    }
    if (wanted) vgpu_gang_turns_ring(&pace->turns);
}

/* ---- programs that rest ---------------------------------------------------------------- */

/* True if the stretch has come to where the last ones ended. */
static bool rests_now(const struct vgpu_pace *pace) {
    return pace->stretches_alike >= STRETCHES &&
           pace->admitted - pace->stretch_from >= pace->stretch_usual;
}

void vgpu_slice_note_rest(struct vgpu_pace *pace, uint64_t request_ns) {
    if (!pace->drained_ns || pace->rested) return;
    pace->rested = true;
    if (request_ns <= pace->drained_ns + VGPU_GATE_PAUSE_NS) {
        if (pace->gave_up) pace->stretches_alike = 0;
        return;
    }
    uint32_t launches = pace->admitted - pace->stretch_from, usual = pace->stretch_usual;
    bool alike = launches <= usual + usual / 8 && launches + usual / 8 >= usual;
    pace->stretches_alike = alike ? pace->stretches_alike + (pace->stretches_alike < STRETCHES) : 0;
    pace->stretch_usual = alike && usual > launches ? usual : launches;
    pace->stretch_from = pace->admitted;
}

void vgpu_slice_rest(struct vgpu_pace *pace, uint64_t drained_ns) {
    if (!pace->joined || !pace->started || !rests_now(pace)) return;
    /* What another thread launches this moment is not marked yet, or somebody closes already. */
    if (is_launching(pace) || vgpu_load_acquire(&pace->closer)) return;
    bool wanted =
        vgpu_gang_turns_are_wanted(&pace->turns) || is_wanted_inside(pace, pace->slice.epoch);
    if (!wanted) return;
    pace->gave_up = true;
    vgpu_slice_leave(pace, drained_ns);
    /* Who drains it sleeps for longer. */
    if (vgpu_load_acquire(&pace->closing))
        vgpu_wake_word(pace->rota.bell, vgpu_rota_ear(&pace->rota));
}

/* Puts the last, timed mark behind everything in flight. */
static void mark_tails(struct vgpu_pace *pace) {
    pthread_mutex_lock(&pace->lock);
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next)
        track->slice_end_ns = 0;
    pthread_mutex_unlock(&pace->lock);
    mark_flying(pace);
}

/* Tails that could not be marked (the stream captures now, or is another thread's) end by
 * prediction. */
static void assume_unmarkable(struct vgpu_pace *pace, uint64_t now_ns) {
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        pthread_mutex_lock(track->lock);
        uint64_t submitted = track->submitted_ns;
        bool uncovered = submitted != track->done_ns && track->count == 0;
        pthread_mutex_unlock(track->lock);
        if (uncovered) vgpu_track_synced(track, submitted, now_ns);
    }
}

/* When our work of the slice ended: by the GPU's clock where a timed mark says so. */
static uint64_t drain_time(const struct vgpu_pace *pace) {
    uint64_t drained = 0;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        uint64_t end = track->slice_end_ns ? track->slice_end_ns : track->drained_ns;
        if (track->epoch == pace->slice.epoch) drained = later(drained, end);
    }
    return drained;
}

/* The tails may be marked once no launch is on its way; one that stays there (the queue is full,
 * code is loaded) is not waited for. Caller holds the lock. */
static bool may_mark_tails(const struct vgpu_pace *pace, uint64_t now_ns) {
    return !is_launching(pace) || now_ns > pace->last_submit_ns + VGPU_GATE_PAUSE_NS * 10;
}

/* True if only the predictions say when that was. */
static bool drain_is_assumed(const struct vgpu_pace *pace) {
    bool assumed = false;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next)
        assumed |= track->epoch == pace->slice.epoch && track->slice_end_ns && !is_measured(track);
    return assumed;
}

/* True if one stream was used in the slice, and it is closed by a timed mark. */
static bool has_one_timed_tail(const struct vgpu_pace *pace) {
    bool timed = false;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next)
        if (track->epoch == pace->slice.epoch && track->count)
            timed = track->marks[(track->first + track->count - 1) % VGPU_MARK_QUEUE].timed;
    return timed && !used_streams_side_by_side(pace);
}

/* True if we have given our turn up before our work has drained. */
static bool has_handed_over(const struct vgpu_pace *pace) {
    return pace->rota.in_turn && !pace->rota.epoch;
}

/* How far the predicted end lies from the measured one, falling fast, rising at once. A neighbour
 * that we have let in before takes part of the GPU from our last kernels. */
static void learn_error(struct vgpu_pace *pace, uint64_t predicted_ns, uint64_t drained_ns) {
    uint64_t error = later(predicted_ns, drained_ns) - earlier(predicted_ns, drained_ns);
    if (has_handed_over(pace) && drained_ns > predicted_ns) error = minus(error, HAND_OVER_NS);
    pace->drain_error_ns = later(later(error, (pace->drain_error_ns + error) / 2), 1);
    if (error < good_ns(pace)) return;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next)
        if (track->epoch == pace->slice.epoch) vgpu_track_doubt(track);
}

/* The next holder's wake-up can hide behind the rest of our work, if we know how long that is. */
static void hand_over(struct vgpu_pace *pace, uint64_t now_ns) {
    if (!pace->started) return;
    uint64_t end = pace->flight_end_ns;
    if (!pace->promised_ns && now_ns + HAND_OVER_NS >= end) pace->promised_ns = end;
    if (pace->turns.count > 1 || !vgpu_rota_is_wanted(&pace->rota)) return;
    bool good = predicts_well(pace, good_ns(pace));
    uint64_t frees = minus(end, good ? HAND_OVER_NS : 0);
    vgpu_rota_expect(&pace->rota, frees);
    if (good && now_ns >= frees && vgpu_rota_passes(&pace->rota, now_ns))
        vgpu_rota_hand_over(&pace->rota, now_ns);
}

/* Caller holds the lock. */
static bool has_left(const struct vgpu_pace *pace, uint32_t epoch) {
    return !pace->joined || pace->slice.epoch != epoch;
}

/* A sign of life to the other sessions. Not on behalf of a peer that lets us wait: it may be
 * stopped. */
static void beat(const struct vgpu_pace *pace, uint64_t now_ns) {
    if (!pace->stuck) vgpu_gang_turns_beat(&pace->turns, now_ns);
}

/* Tells the peers if what we drain makes no progress: it may wait for what they have not launched.
 * Caller holds the lock. */
static void tell_peers(struct vgpu_pace *pace, uint64_t now_ns, uint32_t epoch) {
    if (pace->turns.count == 1 || has_left(pace, epoch)) return;
    uint64_t done = 0;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next)
        done += track->done_ns;
    if (!pace->drain_due_ns || done != pace->drain_done_ns) {
        pace->drain_done_ns = done;
        uint64_t left = earlier(minus(pace->flight_end_ns, now_ns), VGPU_GANG_DUE_NS);
        pace->drain_due_ns = now_ns + left + VGPU_GANG_STUCK_NS;
    }
    pace->stuck = now_ns > pace->drain_due_ns && pace->started;
    pace->was_stuck |= pace->stuck;
    bool news =
        vgpu_gang_say_stuck(pace->gate.device, pace->slice.epoch, pace->device, pace->stuck);
    if (news && pace->stuck) vgpu_gang_turns_ring(&pace->turns);
}

bool vgpu_slice_close_step(struct vgpu_pace *pace, uint32_t epoch) {
    if (vgpu_exchange_acq_rel(&pace->closer, 1U)) return false;
    uint64_t now = vgpu_now_ns();
    vgpu_store_relaxed(&pace->use->gate_seen_ns, now);
    pthread_mutex_lock(&pace->lock);
    beat(pace, now);
    vgpu_grant_revoke(&pace->grant);
    bool left = has_left(pace, epoch);
    bool marked = pace->tails_marked == epoch;
    uint64_t idle_since = marked ? 0 : pace->drained_ns;
    bool may_mark = may_mark_tails(pace, now);
    uint64_t flight_end_ns = pace->flight_end_ns;
    pthread_mutex_unlock(&pace->lock);
    if (!left) {
        vgpu_gate_begin_close(pace->gate, epoch);
        if (!marked && may_mark) {
            mark_tails(pace);
            marked = true;
        }
        if (marked) vgpu_slice_look(pace, false);
        if (marked && now >= flight_end_ns) assume_unmarkable(pace, now);
        pthread_mutex_lock(&pace->lock);
        left = has_left(pace, epoch);
        if (left) marked = false;
        if (marked) pace->tails_marked = epoch;
        if (marked) hand_over(pace, now);
        if (marked && vgpu_slice_flight(pace, now) == 0) {
            uint64_t drained = drain_time(pace);
            bool assumed = drain_is_assumed(pace);
            if (!idle_since && !assumed) learn_overlap(pace, drained);
            if (!idle_since && pace->promised_ns) learn_error(pace, pace->promised_ns, drained);
            if (assumed) drained = assume_drain(pace, drained, now);
            /* It had drained before anybody wanted the slice closed. */
            if (idle_since) drained = idle_since;
            vgpu_slice_leave(pace, drained);
            left = true;
        }
        tell_peers(pace, now, epoch);
        pthread_mutex_unlock(&pace->lock);
    }
    vgpu_store_release(&pace->closer, 0U);
    return left;
}

uint64_t vgpu_slice_next_look(struct vgpu_pace *pace, uint64_t now_ns) {
    pthread_mutex_lock(&pace->lock);
    const struct vgpu_gate_slice slice = pace->slice;
    uint64_t end = pace->flight_end_ns;
    bool marked = pace->tails_marked == slice.epoch;
    bool wanted = vgpu_gang_turns_are_wanted(&pace->turns);
    bool inside = is_wanted_inside(pace, slice.epoch);
    bool handed = has_handed_over(pace) && !inside;
    bool alone = pace->turns.count == 1 && !vgpu_slice_is_shared(pace) && !inside;
    /* Of two streams one may wait for what is launched in the other: see stall.h. */
    bool once = alone && vgpu_slice_is_calm(pace) && end > now_ns && has_one_timed_tail(pace);
    uint64_t after = once ? vgpu_gate_after(pace->gate, &slice, charged_from(pace), end) : 0;
    pthread_mutex_unlock(&pace->lock);
    if (wanted && end > now_ns + HAND_OVER_NS + 10000)
        return earlier(end - HAND_OVER_NS, now_ns + BEAT_NS);
    if (!marked) return now_ns + 5000; /* a launch is on its way into the driver */
    /* Nobody waits, and the drain is timed by its mark: it need not be seen before the next slice
     * may open. One wake-up is then enough for both. */
    if (once) return later(end, earlier(after, end + ASLEEP_NS)) + DRAINED_NS;
    /* Nobody waits for it any more. */
    if (handed) return later(end + DRAINED_NS, now_ns + VGPU_GATE_PAUSE_NS);
    /* First when the slice was to end, then ever closer to the predicted end: predictions err both
     * ways, and a drain seen late is share lost. */
    if (end > now_ns + 20000) {
        if (slice.end_ns > now_ns + 20000 && slice.end_ns < end) return slice.end_ns;
        return now_ns + (end - now_ns) / 2;
    }
    /* Poll, 12 µs apart, rarer the longer it is overdue. */
    return now_ns + earlier(12000 + minus(now_ns, end) / 16, 1000000);
}

uint64_t vgpu_slice_tend(struct vgpu_pace *pace, uint64_t *listens_until_ns) {
    uint64_t now = vgpu_now_ns();
    *listens_until_ns = 0;
    pthread_mutex_lock(&pace->lock);
    bool joined = pace->joined;
    const struct vgpu_gate_slice slice = pace->slice;
    bool quiet = now > pace->last_submit_ns + VGPU_GATE_PAUSE_NS && pace->started;
    bool launching = is_launching(pace), calm = vgpu_slice_is_calm(pace);
    uint64_t busy_until_ns = pace->started ? pace->flight_end_ns : 0;
    bool outside = joined && vgpu_gang_turns_are_wanted(&pace->turns);
    uint64_t end = joined ? vgpu_slice_end_ns(pace, now) : 0;
    bool wanted = outside || is_wanted_inside(pace, slice.epoch);
    bool over = joined && (!vgpu_slice_holds(pace) || (wanted && now >= end));
    if (over || (joined && wanted)) {
        beat(pace, now);
        vgpu_grant_revoke(&pace->grant); /* the next launch sees that we are wanted */
    }
    pthread_mutex_unlock(&pace->lock);
    if (joined && !over && !wanted) *listens_until_ns = listen(pace, now);
    if (!joined || (!over && !wanted)) return 0;
    vgpu_store_relaxed(&pace->use->gate_seen_ns, now);
    if (over && vgpu_load_acquire(&pace->closing)) /* done by those */
        return earlier(later(now, busy_until_ns), now + BEAT_NS) + OTHERS_NS;
    if (over && vgpu_slice_close_step(pace, slice.epoch)) return 0;
    if (over) return later(calm ? vgpu_slice_next_look(pace, now) : 0, now + TEND_NS);
    bool closer = vgpu_load_acquire(&pace->closer);
    if (!closer && busy_until_ns > now && busy_until_ns < now + BEAT_NS) /* nothing to see yet */
        return earlier(busy_until_ns + VGPU_GATE_PAUSE_NS, end);
    if (launching || closer) return now + TEND_NS;
    if (quiet) vgpu_slice_look_after_pause(pace, now);
    else vgpu_slice_look(pace, false);
    pthread_mutex_lock(&pace->lock);
    uint64_t again = 0;
    if (pace->joined && pace->slice.epoch == slice.epoch) {
        bool drained = vgpu_slice_flight(pace, now) == 0 && pace->started;
        /* While the program goes on launching there is nothing to give up. */
        uint64_t pause = quiet ? 0 : VGPU_GATE_PAUSE_NS;
        again = drained ? pace->drained_ns + VGPU_GATE_PAUSE_NS
                        : later(pace->flight_end_ns + pause, now + TEND_NS + pause);
        if (drained && now >= again) {
            vgpu_slice_leave(pace, pace->drained_ns);
            again = 0;
            outside = false; /* there is nothing to look after any more */
        }
    }
    pthread_mutex_unlock(&pace->lock);
    if (outside) again = earlier(again ? again : end, now + BEAT_NS);
    return again ? earlier(later(again, now + 10000), end) : 0;
}
