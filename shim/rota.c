#include "rota.h"

#include <string.h>

#include "atomics.h"
#include "seat.h"
#include "slot.h"
#include "wait.h"

static const struct vgpu_header *header_of(const struct vgpu_rota *rota) {
    return &rota->session->region->header;
}

/* On a card in spatial mode sessions have SMs of their own and run side by side. */
static bool takes_turns(const struct vgpu_rota *rota) {
    return rota->place.board &&
           vgpu_load_relaxed(&rota->place.board->header.mode) != VGPU_BOARD_SPATIAL &&
           vgpu_load_relaxed(&header_of(rota)->throttle) != VGPU_THROTTLE_STRICT;
}

static uint64_t quantum_ns(const struct vgpu_rota *rota) {
    uint32_t us = vgpu_load_relaxed(&header_of(rota)->quantum_us);
    return us ? us * UINT64_C(1000) : VGPU_TURN_QUANTUM_NS << (rota->ganged ? 1 : 0);
}

void vgpu_rota_join(struct vgpu_rota *rota, struct vgpu_session *session, uint32_t device) {
    uint64_t flags;
    char state;
    rota->session = session;
    rota->device = device;
    rota->bell = &session->region->devices[device].gate_bell;
    vgpu_process_stat(session->pid, &rota->start_time, &state, &flags);
    /* Who has SMs of its own takes no turns. */
    if (!session->region->devices[device].sm_count && vgpu_seat_take(session, device, &rota->place))
        rota->bell = &rota->place.board->turn.turn_bell;
}

struct vgpu_gate vgpu_rota_gate(struct vgpu_rota *rota, struct vgpu_gate gate, uint64_t now_ns) {
    /* Whoever took us for dead has freed our seat. */
    if (rota->place.board && !vgpu_seat_is_ours(&rota->place))
        vgpu_seat_take(rota->session, rota->device, &rota->place);
    bool always = vgpu_load_relaxed(&header_of(rota)->throttle) == VGPU_THROTTLE_COOPERATIVE;
    rota->company = takes_turns(rota) && vgpu_turn_has_company(&rota->place, always, now_ns);
    gate.quantum_ns = rota->company ? quantum_ns(rota) : 0;
    gate.may_burst = takes_turns(rota) || !rota->place.board;
    return gate;
}

/* ---- getting on --------------------------------------------------------------------------------
 */

static void publish_theft(struct vgpu_rota *rota, const struct vgpu_turn_holder *holder) {
    char session[16] = "";
    memcpy(session, rota->place.board->seats[holder->seat].session, sizeof session - 1);
    const struct vgpu_event event = {
        .kind = VGPU_EVENT_COMPUTE_STOLEN,
        .device = rota->device,
        .api = session, /* whose turn it was */
        .value = {holder->epoch, holder->held_ns, holder->pid},
    };
    vgpu_session_event(rota->session, &event);
}

static bool is_dead(const struct vgpu_turn_holder *holder) {
    enum vgpu_life life = vgpu_process_life(holder->pid, holder->start_time);
    return life == VGPU_GONE || life == VGPU_EXITING;
}

/* Somebody else has the turn: sees that it is still alive. */
static void watch_holder(struct vgpu_rota *rota, uint64_t now_ns) {
    struct vgpu_turn_holder holder;
    uint64_t wanted = vgpu_load_relaxed(&rota->place.board->seats[rota->place.seat].wants_ns);
    enum vgpu_turn_doubt doubt = vgpu_turn_doubt(&rota->place, wanted, now_ns, &holder);
    if (doubt == VGPU_TURN_FINE) return;
    if (doubt == VGPU_TURN_OVERDUE && rota->overdue_epoch == holder.epoch) return;
    rota->overdue_epoch = holder.epoch;
    bool dead = doubt != VGPU_TURN_UNTAKEN && is_dead(&holder);
    if (doubt <= VGPU_TURN_SILENT && !dead) return;
    bool overlaps = doubt == VGPU_TURN_ENDLESS && !dead;
    if (!vgpu_turn_rob(&rota->place, &holder, overlaps, now_ns)) return;
    if (!vgpu_turn_was_left_behind(&rota->place, &holder)) publish_theft(rota, &holder);
    vgpu_wake_word(rota->bell, VGPU_ALL_EARS);
}

void vgpu_rota_reclaim(struct vgpu_rota *rota, uint64_t before_ns, uint64_t now_ns) {
    struct vgpu_turn_holder holder;
    if (!rota->place.board) return;
    vgpu_turn_doubt(&rota->place, now_ns, now_ns, &holder);
    if (!holder.pid || holder.seat != rota->place.seat) return;
    if (now_ns < before_ns + holder.held_ns && vgpu_turn_rob(&rota->place, &holder, false, now_ns))
        vgpu_wake_word(rota->bell, VGPU_ALL_EARS);
}

/* ---- having the turn ---------------------------------------------------------------------------
 */

uint32_t vgpu_rota_ear(const struct vgpu_rota *rota) {
    return rota->place.board ? vgpu_turn_ear(&rota->place) : VGPU_ALL_EARS;
}

bool vgpu_rota_take(struct vgpu_rota *rota, bool bursting, uint64_t now_ns, uint64_t *until_ns) {
    rota->epoch = 0;
    rota->in_turn = rota->expected = false;
    if (!takes_turns(rota)) return true;
    const struct vgpu_turn_claim claim = {rota->session->pid, rota->start_time, bursting};
    bool call;
    rota->epoch = vgpu_turn_ask(&rota->place, &claim, now_ns, until_ns, &call);
    rota->in_turn = rota->epoch != 0;
    if (rota->in_turn) {
        /* Who waits already will not call again. */
        if (vgpu_turn_is_wanted(&rota->place)) vgpu_wake_word(rota->bell, vgpu_rota_ear(rota));
        return true;
    }
    if (call) vgpu_wake_word(rota->bell, vgpu_turn_holders_ear(&rota->place));
    else watch_holder(rota, now_ns);
    return false;
}

void vgpu_rota_withdraw(const struct vgpu_rota *rota) {
    if (rota->place.board) vgpu_turn_withdraw(&rota->place);
}

bool vgpu_rota_holds(const struct vgpu_rota *rota) {
    return !rota->epoch || vgpu_turn_holds(&rota->place, rota->epoch);
}

bool vgpu_rota_is_wanted(const struct vgpu_rota *rota) {
    return rota->epoch && vgpu_turn_is_wanted(&rota->place);
}

bool vgpu_rota_is_settled(const struct vgpu_rota *rota, uint64_t now_ns) {
    return rota->epoch && vgpu_turn_all_wait(&rota->place, now_ns);
}

bool vgpu_rota_passes(const struct vgpu_rota *rota, uint64_t now_ns) {
    return rota->epoch && vgpu_turn_passes(&rota->place, rota->epoch, now_ns);
}

uint64_t vgpu_rota_end_ns(const struct vgpu_rota *rota, uint64_t now_ns) {
    if (!rota->epoch) return UINT64_MAX;
    uint64_t end = vgpu_turn_end_ns(&rota->place, rota->epoch, quantum_ns(rota), now_ns);
    if (end && end != UINT64_MAX && !rota->expected) vgpu_turn_expect(&rota->place, end);
    return end;
}

void vgpu_rota_expect(struct vgpu_rota *rota, uint64_t frees_ns) {
    if (!rota->epoch) return;
    rota->expected = true;
    vgpu_turn_expect(&rota->place, frees_ns);
}

void vgpu_rota_beat(const struct vgpu_rota *rota, uint64_t now_ns) {
    if (rota->epoch) vgpu_turn_beat(&rota->place, now_ns);
}

static void release(struct vgpu_rota *rota, bool drained, uint64_t now_ns) {
    if (rota->epoch) rota->before_ns = vgpu_turn_drained_ns(&rota->place);
    if (rota->epoch && vgpu_turn_release(&rota->place, rota->epoch, drained, now_ns))
        vgpu_wake_word(rota->bell, VGPU_TURN_EAR_WAITS);
    rota->epoch = 0;
}

void vgpu_rota_hand_over(struct vgpu_rota *rota, uint64_t now_ns) { release(rota, false, now_ns); }

/* Its process may have died meanwhile, and will never say that its work has ended. */
static void bury_overlap(const struct vgpu_rota *rota) {
    uint32_t pid = vgpu_turn_overlapping(&rota->place);
    uint64_t start, flags;
    char state;
    if (pid && !vgpu_process_stat(pid, &start, &state, &flags))
        vgpu_turn_bury_overlap(&rota->place);
}

uint64_t vgpu_rota_settle(struct vgpu_rota *rota, uint64_t begun_ns, uint64_t drained_ns) {
    if (!rota->in_turn) return drained_ns - begun_ns;
    bool robbed = rota->epoch && !vgpu_turn_holds(&rota->place, rota->epoch);
    if (!robbed) bury_overlap(rota);
    uint64_t before = rota->epoch ? vgpu_turn_drained_ns(&rota->place) : rota->before_ns;
    return vgpu_turn_settle(&rota->place, before, begun_ns, drained_ns, robbed);
}

void vgpu_rota_leave(struct vgpu_rota *rota, uint64_t now_ns) {
    uint64_t end = vgpu_rota_end_ns(rota, now_ns);
    release(rota, end != UINT64_MAX && now_ns + VGPU_GATE_PAUSE_NS < end, now_ns);
    rota->in_turn = false;
}
