#include "stall.h"

#include "atomics.h"

#define DOUBLINGS 6U
#define LOOK_NS UINT64_C(250000) /* of the time between two looks, so much counts */

static const struct vgpu_track *first_track(const struct vgpu_pace *pace) {
    return vgpu_load_acquire(&pace->tracks);
}

static bool is_flying(const struct vgpu_track *track) {
    return track->submitted_ns != track->done_ns;
}

/* Blames what is in flight on the track: the oldest, if it is known to be that. A kernel that was
 * not yet known may just be long. */
static void blame(const struct vgpu_track *track) {
    struct vgpu_recent oldest = {0};
    unsigned flying = 0;
    for (unsigned i = 0; i < VGPU_RECENT; i++) {
        const struct vgpu_recent *recent = &track->recent[i];
        if (!recent->entry || recent->end_ns <= track->done_ns) continue;
        if (!oldest.entry || recent->end_ns < oldest.end_ns) oldest = *recent;
        flying++;
    }
    if (!oldest.entry || !oldest.known || oldest.entry->talks) return;
    if (flying == 1 || (flying < VGPU_RECENT && oldest.marked)) {
        oldest.entry->spins = true;
        return;
    }
    for (unsigned i = 0; i < VGPU_RECENT; i++)
        if (track->recent[i].entry && track->recent[i].end_ns > track->done_ns)
            track->recent[i].entry->suspect = true;
}

bool vgpu_stall_lasts(struct vgpu_stall *stall, struct vgpu_pace *pace,
                      const struct vgpu_track *own, uint64_t now_ns) {
    uint64_t done = 0, left = 0;
    bool others = false;
    for (const struct vgpu_track *track = first_track(pace); track; track = track->next) {
        done += track->done_ns;
        left += track->submitted_ns - track->done_ns;
        others |= track != own && is_flying(track);
    }
    /* After so long a wait: it still waits for something that the program has yet to launch. */
    if (done && done == pace->stalled_at_ns) return true;
    if (!stall->due_ns || done != stall->done_ns)
        *stall = (struct vgpu_stall){done, now_ns + 2 * left, now_ns, 0};
    /* A thread that did not run for a while has not seen a stall. */
    uint64_t unseen = now_ns - stall->look_ns;
    if (now_ns > stall->due_ns) stall->stalled_ns += unseen < LOOK_NS ? unseen : LOOK_NS;
    stall->look_ns = now_ns;
    uint64_t patience = (others ? VGPU_STALL_NS : VGPU_STALL_ONE_NS) << pace->stalls;
    if (stall->stalled_ns <= patience) return false;
    pace->stall_ns = now_ns;
    if (pace->stalls < DOUBLINGS) pace->stalls++;
    pace->stalled_at_ns = others ? 0 : done;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        track->spinner_tested = false;
        if ((track != own || !others) && is_flying(track)) blame(track);
    }
    return true;
}

bool vgpu_stall_spinner_flies(struct vgpu_pace *pace, uint64_t now_ns, uint64_t end_ns) {
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        bool spins = track->spinner && track->spinner->spins;
        if (!spins || track->spinner_end_ns <= track->done_ns) continue;
        /* What a stall has let through so late is as good as launched in time. */
        uint64_t end = pace->stall_ns > end_ns ? pace->stall_ns : end_ns;
        if (now_ns <= end + VGPU_STALL_SPINNER_NS) return true;
        track->spinner_tested = true;
    }
    return false;
}

void vgpu_stall_drained(struct vgpu_pace *pace) {
    if (pace->stalls) pace->stalls--;
    for (struct vgpu_track *track = vgpu_load_acquire(&pace->tracks); track; track = track->next) {
        if (track->spinner_tested) track->spinner->spins = track->spinner->suspect = false;
        track->spinner_tested = false;
    }
}

void vgpu_stall_note_spinner(struct vgpu_pace *pace, struct vgpu_track *track,
                             struct vgpu_book_entry *entry) {
    uint64_t elsewhere = pace->admitted - track->launches;
    bool alone = track->spinner == entry && track->spinner_end_ns <= track->done_ns &&
                 track->spinner_elsewhere == elsewhere;
    if (alone) entry->spins = entry->suspect = false;
    track->spinner = entry;
    track->spinner_end_ns = track->submitted_ns; /* the launch itself is in it */
    track->spinner_elsewhere = elsewhere;
}
