#include "slice.h"

#include "atomics.h"
#include "slot.h"
#include "wait.h"

static uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }
static uint64_t later(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

uint64_t vgpu_slice_flight(struct vgpu_pace *pace, uint64_t now_ns) {
    uint64_t flight = 0, head = 0, drained = 0;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        pthread_mutex_lock(&track->lock);
        uint64_t left = track->submitted_ns - track->done_ns;
        flight += left;
        head += track->count ? minus(track->marks[track->first].covers_ns, track->done_ns) : left;
        drained = later(drained, track->drained_ns);
        pthread_mutex_unlock(&track->lock);
    }
    /* Between two marks only the prediction knows how far the GPU has come. */
    pace->flight_end_ns = earlier(later(pace->flight_end_ns, now_ns + flight - head), now_ns + flight);
    if (flight)
        pace->drained_ns = 0;
    else if (!pace->drained_ns)
        pace->drained_ns = drained ? drained : now_ns;
    return flight;
}

void vgpu_slice_look(struct vgpu_pace *pace, bool tails) {
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        if (tails && vgpu_load_relaxed(&track->unmarked_ns)) vgpu_track_mark(track, false, NULL, NULL);
        vgpu_track_poll(track);
    }
}

static bool alone_in(const struct vgpu_pace *pace, uint32_t epoch) {
    struct vgpu_region *region = pace->session->region;
    uint32_t used = vgpu_load_acquire(&region->header.slots_used);
    for (uint32_t i = 0; i < used && i < VGPU_MAX_SLOTS; i++) {
        struct vgpu_slot *slot = &region->slots[i];
        if (slot == pace->session->slot) continue;
        if (vgpu_slot_state(vgpu_load_acquire(&slot->owner)) != VGPU_SLOT_LIVE) continue;
        if (vgpu_load_seq_cst(&slot->use[pace->device].gate_busy) == epoch) return false;
    }
    return true;
}

bool vgpu_slice_alone(struct vgpu_pace *pace) {
    pthread_mutex_lock(&pace->lock);
    uint32_t epoch = pace->slice.epoch;
    pthread_mutex_unlock(&pace->lock);
    return alone_in(pace, epoch);
}

static bool others_attached(const struct vgpu_pace *pace) {
    return vgpu_load_relaxed(&pace->session->region->header.slots_used) > 1;
}

/* The latest drain that any process reported for the slice; 0 if none did. */
static uint64_t latest_drain(const struct vgpu_pace *pace, uint64_t open_ns) {
    struct vgpu_region *region = pace->session->region;
    uint64_t latest = 0;
    uint32_t used = vgpu_load_acquire(&region->header.slots_used);
    for (uint32_t i = 0; i < used && i < VGPU_MAX_SLOTS; i++) {
        struct vgpu_use *use = &region->slots[i].use[pace->device];
        uint64_t drained = vgpu_load_acquire(&use->gate_drained_ns);
        if (drained >= open_ns) latest = later(latest, drained);
    }
    return latest;
}

/* Closes the slice if nobody is busy in it any more. */
static void settle(struct vgpu_pace *pace, const struct vgpu_gate_slice *slice, uint64_t now_ns) {
    if (vgpu_load_seq_cst(&pace->use->gate_busy) == slice->epoch) return;
    if (!alone_in(pace, slice->epoch)) return;
    uint64_t drained = latest_drain(pace, slice->open_ns);
    /* Only the dead were in it: their work ended somewhere before the slice did. */
    if (!drained) drained = earlier(now_ns, slice->end_ns);
    vgpu_gate_close(pace->gate, slice->epoch, drained);
    if (others_attached(pace)) vgpu_wake_word(&pace->gate.device->gate_bell);
}

void vgpu_slice_leave(struct vgpu_pace *pace, uint64_t drained_ns) {
    uint64_t now = vgpu_now_ns();
    struct vgpu_use *use = pace->use;
    uint64_t robbed_ns = vgpu_load_acquire(&use->gate_drained_ns);
    drained_ns = later(earlier(drained_ns, now), pace->slice.open_ns);
    if (!pace->started) drained_ns = pace->slice.open_ns;
    pace->joined = false;
    vgpu_add_relaxed(&use->busy_ns, drained_ns - pace->slice.open_ns);
    uint64_t busy = pace->slice.epoch;
    vgpu_store_release(&use->gate_drained_ns, drained_ns);
    if (!vgpu_cas_seq_cst(&use->gate_busy, &busy, UINT64_C(0))) {
        /* Robbed: the slice was charged up to the robbery. While our work overlapped with the
         * session's next slices each pays half. */
        vgpu_gate_charge(pace->gate, minus(drained_ns, later(robbed_ns, pace->slice.open_ns)) / 2);
        return;
    }
    settle(pace, &pace->slice, now);
}

/* Puts the last, timed mark behind everything in flight. */
static void mark_tails(struct vgpu_pace *pace) {
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        pthread_mutex_lock(&track->lock);
        track->slice_end_ns = 0;
        bool flying = track->submitted_ns != track->done_ns;
        pthread_mutex_unlock(&track->lock);
        if (flying) vgpu_track_mark(track, true, NULL, NULL);
    }
}

/* Tails that could not be marked (the stream captures now, or is another thread's) end by prediction. */
static void assume_unmarkable(struct vgpu_pace *pace, uint64_t now_ns) {
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        pthread_mutex_lock(&track->lock);
        uint64_t submitted = track->submitted_ns;
        bool uncovered = submitted != track->done_ns && track->count == 0;
        pthread_mutex_unlock(&track->lock);
        if (uncovered) vgpu_track_synced(track, submitted, now_ns);
    }
}

/* When our work of the slice ended: by the GPU's clock where a timed mark says so. */
static uint64_t drain_time(struct vgpu_pace *pace) {
    uint64_t drained = 0;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        pthread_mutex_lock(&track->lock);
        uint64_t end = track->slice_end_ns ? track->slice_end_ns : track->drained_ns;
        if (track->epoch == pace->slice.epoch) drained = later(drained, end);
        pthread_mutex_unlock(&track->lock);
    }
    return drained;
}

/* The tails may be marked once no launch is between admission and the driver's return; one that
 * stays there (the queue is full, code is loaded) is not waited for. */
static bool may_mark_tails(struct vgpu_pace *pace, uint64_t now_ns, uint64_t last_submit_ns) {
    return vgpu_load_seq_cst(&pace->launching) == 0 ||
           now_ns > last_submit_ns + VGPU_GATE_PAUSE_NS * 10;
}

bool vgpu_slice_close_step(struct vgpu_pace *pace) {
    if (vgpu_exchange_acq_rel(&pace->closer, 1U)) return false;
    uint64_t now = vgpu_now_ns();
    vgpu_store_relaxed(&pace->use->gate_seen_ns, now);
    pthread_mutex_lock(&pace->lock);
    bool left = !pace->joined;
    uint32_t epoch = pace->slice.epoch;
    bool marked = pace->tails_marked == epoch;
    uint64_t idle_since = marked ? 0 : pace->drained_ns;
    uint64_t last_submit_ns = pace->last_submit_ns, flight_end_ns = pace->flight_end_ns;
    pthread_mutex_unlock(&pace->lock);
    if (!left) {
        vgpu_gate_begin_close(pace->gate, epoch);
        if (!marked && may_mark_tails(pace, now, last_submit_ns)) {
            mark_tails(pace);
            marked = true;
        }
        if (marked) vgpu_slice_look(pace, false);
        if (marked && now >= flight_end_ns) assume_unmarkable(pace, now);
        pthread_mutex_lock(&pace->lock);
        if (marked) pace->tails_marked = epoch;
        if (marked && pace->joined && vgpu_slice_flight(pace, now) == 0) {
            uint64_t drained = drain_time(pace);
            /* It had drained before anybody wanted the slice closed: a short pause is part of the
             * occupancy, a longer one is not. */
            if (idle_since) drained = now - idle_since <= VGPU_GATE_PAUSE_NS ? now : idle_since;
            vgpu_slice_leave(pace, drained);
        }
        left = !pace->joined;
        pthread_mutex_unlock(&pace->lock);
    }
    vgpu_store_release(&pace->closer, 0U);
    return left;
}

uint64_t vgpu_slice_next_look(struct vgpu_pace *pace, uint64_t now_ns, uint64_t *end_ns) {
    pthread_mutex_lock(&pace->lock);
    const struct vgpu_gate_slice slice = pace->slice;
    uint64_t end = *end_ns = pace->flight_end_ns;
    pthread_mutex_unlock(&pace->lock);
    if (alone_in(pace, slice.epoch)) {
        /* Nobody waits for the drain: look when the next slice may open, which is later. */
        uint32_t ppm = vgpu_load_relaxed(&pace->gate.device->share_ppm);
        uint64_t next = slice.base_ns + minus(end, slice.open_ns) * VGPU_WHOLE_GPU / (ppm ? ppm : 1);
        if (next > now_ns && next > end) return next;
    }
    if (end > now_ns + 20000) return end - 15000;
    /* Poll, 12 µs apart, rarer the longer it is overdue. */
    return now_ns + earlier(12000 + minus(now_ns, end) / 16, 1000000);
}

static void rob(struct vgpu_pace *pace, struct vgpu_slot *slot, uint32_t epoch, uint64_t now_ns,
                bool dead) {
    struct vgpu_use *use = &slot->use[pace->device];
    uint64_t busy = epoch;
    if (!dead) vgpu_store_release(&use->gate_drained_ns, now_ns);
    if (!vgpu_cas_seq_cst(&use->gate_busy, &busy, UINT64_C(0)) || dead) return;
    const struct vgpu_event event = {
        .kind = VGPU_EVENT_COMPUTE_STOLEN,
        .device = pace->device,
        .value = {epoch, now_ns - pace->wanted_since_ns, vgpu_slot_pid(slot->owner)},
    };
    vgpu_session_event(pace->session, &event);
}

void vgpu_slice_nudge(struct vgpu_pace *pace, const struct vgpu_gate_slice *slice, uint64_t now_ns) {
    if (pace->wanted_epoch != slice->epoch) {
        pace->wanted_epoch = slice->epoch;
        pace->wanted_since_ns = now_ns;
        vgpu_gate_begin_close(pace->gate, slice->epoch);
        vgpu_wake_word(&pace->gate.device->gate_bell);
    }
    uint64_t waited = now_ns - pace->wanted_since_ns;
    struct vgpu_region *region = pace->session->region;
    uint32_t used = vgpu_load_acquire(&region->header.slots_used);
    for (uint32_t i = 0; i < used && i < VGPU_MAX_SLOTS; i++) {
        struct vgpu_slot *slot = &region->slots[i];
        struct vgpu_use *use = &slot->use[pace->device];
        if (slot == pace->session->slot || vgpu_load_seq_cst(&use->gate_busy) != slice->epoch) continue;
        if (vgpu_slot_state(vgpu_load_acquire(&slot->owner)) != VGPU_SLOT_LIVE) continue;
        enum vgpu_life life = waited > 2000000 ? vgpu_slot_life(slot) : VGPU_ALIVE;
        bool dead = life == VGPU_GONE || life == VGPU_EXITING;
        bool deaf = waited > VGPU_DEAF_NS && now_ns > vgpu_load_relaxed(&use->gate_seen_ns) + VGPU_DEAF_NS;
        if (dead || deaf || waited > VGPU_ENDLESS_NS) rob(pace, slot, slice->epoch, now_ns, dead);
    }
    settle(pace, slice, now_ns);
}
