#include "turn.h"

#include "atomics.h"
#include "slot.h"
#include "times.h"
#include "wait.h"

#define TICK_NS UINT64_C(100)
#define TICKS (UINT64_C(1) << 36)
#define MOMENT (UINT64_C(5000000000) / TICK_NS)
#define EPOCHS (1U << 20)
#define LEAST_SHARE_PPM UINT64_C(10000)
#define LEAST_WEIGHT_PPM UINT64_C(5000)

/* ---- the word ---------------------------------------------------------------------------------
 */

static uint32_t holder_of(uint64_t word) { return (uint32_t)word & 0xff; } /* seat + 1 */
static uint32_t epoch_of(uint64_t word) { return (uint32_t)(word >> 8) & (EPOCHS - 1); }
static uint64_t since(uint64_t word, uint64_t now_ns) {
    uint64_t ago = (now_ns / TICK_NS - (word >> 28)) & (TICKS - 1);
    /* A word written a moment after now_ns was taken, by a thread that was stopped between. No long
     * one: the dead leave words behind, which come round every two hours. */
    return ago > TICKS - MOMENT ? now_ns : minus(now_ns, ago * TICK_NS);
}

static uint64_t make_word(uint64_t now_ns, uint32_t epoch, uint32_t holder) {
    return (now_ns / TICK_NS) << 28 | (uint64_t)epoch << 8 | holder;
}

static uint32_t next_epoch(uint32_t epoch) { return epoch + 1 < EPOCHS ? epoch + 1 : 1; }

static struct vgpu_seat *seat_of(const struct vgpu_place_on_board *place) {
    return &place->board->seats[place->seat];
}

static uint64_t bit_of(uint32_t seat) { return UINT64_C(1) << seat; }

static uint64_t wishes(const struct vgpu_place_on_board *place) {
    return vgpu_load_seq_cst(&place->board->turn.turn_wanted);
}

static uint64_t others(const struct vgpu_place_on_board *place) {
    return wishes(place) & ~bit_of(place->seat);
}

static void clear_wish(const struct vgpu_place_on_board *place, uint32_t seat) {
    __atomic_fetch_and(&place->board->turn.turn_wanted, ~bit_of(seat), __ATOMIC_SEQ_CST);
}

/* ---- weight and company ------------------------------------------------------------------------
 */

static bool is_live(const struct vgpu_seat *seat) {
    return vgpu_slot_state(vgpu_load_acquire(&seat->owner)) == VGPU_SLOT_LIVE;
}

static uint32_t seats_used(const struct vgpu_place_on_board *place) {
    uint32_t used = vgpu_load_acquire(&place->board->header.seats_used);
    return used < VGPU_MAX_SEATS ? used : VGPU_MAX_SEATS;
}

/* What the shares of the others leave. */
static uint64_t rest(const struct vgpu_place_on_board *place) {
    uint64_t taken = 0;
    for (uint32_t i = 0; i < seats_used(place); i++) {
        const struct vgpu_seat *seat = &place->board->seats[i];
        uint32_t ppm = vgpu_load_relaxed(&seat->share_ppm);
        if (i != place->seat && is_live(seat) && ppm < VGPU_WHOLE_GPU) taken += ppm;
    }
    return later(minus(VGPU_WHOLE_GPU, taken), LEAST_SHARE_PPM);
}

uint64_t vgpu_turn_weight(const struct vgpu_place_on_board *place) {
    uint64_t share = vgpu_load_relaxed(&seat_of(place)->share_ppm);
    uint64_t factor = vgpu_load_relaxed(&seat_of(place)->weight_ppm);
    if (share == 0 || share >= VGPU_WHOLE_GPU) share = rest(place);
    return later(share * (factor ? factor : 1000000) / 1000000, LEAST_WEIGHT_PPM);
}

static uint64_t weighed(const struct vgpu_place_on_board *place, uint64_t ns) {
    return ns * 1000000 / vgpu_turn_weight(place);
}

static bool is_active(const struct vgpu_seat *seat, uint64_t now_ns) {
    return vgpu_load_relaxed(&seat->active_ns) + VGPU_TURN_COMPANY_NS > now_ns;
}

bool vgpu_turn_has_company(const struct vgpu_place_on_board *place, bool always, uint64_t now_ns) {
    for (uint32_t i = 0; i < seats_used(place); i++) {
        const struct vgpu_seat *seat = &place->board->seats[i];
        if (i == place->seat || !is_live(seat)) continue;
        if (always || is_active(seat, now_ns)) return true;
    }
    return false;
}

bool vgpu_turn_all_wait(const struct vgpu_place_on_board *place, uint64_t now_ns) {
    uint64_t waiting = others(place);
    for (uint32_t i = 0; i < seats_used(place); i++) {
        const struct vgpu_seat *seat = &place->board->seats[i];
        if (i == place->seat || !is_live(seat) || (waiting & bit_of(i))) continue;
        if (is_active(seat, now_ns)) return false;
    }
    return true;
}

/* ---- asking ------------------------------------------------------------------------------------
 */

static void wish(const struct vgpu_place_on_board *place, bool bursting, uint64_t now_ns,
                 bool *call) {
    struct vgpu_seat *seat = seat_of(place);
    vgpu_store_relaxed(&seat->active_ns, now_ns);
    vgpu_store_relaxed(&seat->bursting, (uint64_t)bursting);
    if (wishes(place) & bit_of(place->seat)) return;
    uint64_t start = minus(vgpu_load_relaxed(&place->board->turn.turn_v), VGPU_TURN_CREDIT_NS);
    vgpu_max_relaxed(&seat->turn_v, start);
    if (!vgpu_load_relaxed(&seat->wants_ns)) vgpu_store_relaxed(&seat->wants_ns, now_ns);
    __atomic_fetch_or(&place->board->turn.turn_wanted, bit_of(place->seat), __ATOMIC_SEQ_CST);
    *call = true;
}

/* True if seat a goes before seat b: inside its share before bursting, then the lesser v. */
static bool goes_before(const struct vgpu_board *board, uint32_t a, uint32_t b) {
    const struct vgpu_seat *one = &board->seats[a], *other = &board->seats[b];
    uint64_t burst_one = vgpu_load_relaxed(&one->bursting);
    uint64_t burst_other = vgpu_load_relaxed(&other->bursting);
    if (burst_one != burst_other) return burst_one < burst_other;
    uint64_t v_one = vgpu_load_relaxed(&one->turn_v), v_other = vgpu_load_relaxed(&other->turn_v);
    return v_one != v_other ? v_one < v_other : a < b;
}

/* The other seats whose wishes go before ours. */
static uint64_t preferred(const struct vgpu_place_on_board *place) {
    uint64_t left = others(place), found = 0;
    while (left) {
        uint32_t seat = (uint32_t)__builtin_ctzll(left);
        left &= left - 1;
        if (goes_before(place->board, seat, place->seat)) found |= bit_of(seat);
    }
    return found;
}

/* The turn has just become ours. */
static void note_grant(const struct vgpu_place_on_board *place, const struct vgpu_turn_claim *claim,
                       uint32_t epoch, uint64_t now_ns) {
    struct vgpu_seat *seat = seat_of(place);
    vgpu_store_relaxed(&seat->seen_ns, now_ns);
    vgpu_store_relaxed(&seat->frees_ns, UINT64_C(0));
    vgpu_store_relaxed(&seat->bursting, (uint64_t)claim->bursting);
    vgpu_store_relaxed(&seat->holder_start, claim->start_time);
    vgpu_store_seq_cst(&seat->holder, (uint64_t)claim->pid << 32 | epoch);
    clear_wish(place, place->seat);
    uint64_t wanted = vgpu_load_relaxed(&seat->wants_ns);
    if (wanted) vgpu_add_relaxed(&seat->waited_ns, minus(now_ns, wanted));
    vgpu_store_relaxed(&seat->wants_ns, UINT64_C(0));
    vgpu_store_relaxed(&seat->active_ns, now_ns);
    uint64_t start = minus(vgpu_load_relaxed(&place->board->turn.turn_v), VGPU_TURN_CREDIT_NS);
    vgpu_max_relaxed(&seat->turn_v, start);
    vgpu_max_relaxed(&place->board->turn.turn_v, vgpu_load_relaxed(&seat->turn_v));
    vgpu_add_relaxed(&seat->turns, UINT64_C(1));
}

/* When the holder, who has the turn since then, last gave a sign of life. What its seat says may be
 * wrong: a moment to come would have us sleep until then. */
static uint64_t seen_at(const struct vgpu_seat *holder, uint64_t since_ns, uint64_t now_ns) {
    return later(earlier(vgpu_load_relaxed(&holder->seen_ns), now_ns), since_ns);
}

/* When to look again at a turn that somebody else holds, if the bell does not ring before. */
static uint64_t next_look(const struct vgpu_place_on_board *place, uint64_t word, uint64_t now_ns) {
    if (holder_of(word) > VGPU_MAX_SEATS) return now_ns + VGPU_TURN_LISTEN_NS;
    const struct vgpu_seat *holder = &place->board->seats[holder_of(word) - 1];
    uint64_t seen = seen_at(holder, since(word, now_ns), now_ns);
    uint64_t silent = seen + VGPU_TURN_LISTEN_NS + VGPU_TURN_POLL_NS;
    uint64_t listen = silent > now_ns ? silent : now_ns + VGPU_TURN_LISTEN_NS;
    uint64_t frees = vgpu_load_relaxed(&holder->frees_ns);
    if (!frees) return now_ns + VGPU_TURN_SAID_NS;
    /* It will be held again. */
    if (preferred(place)) frees += VGPU_TURN_NEXT_NS;
    uint64_t left = minus(frees, now_ns);
    if (frees + VGPU_TURN_POLL_FOR_NS < now_ns) return listen;
    if (left <= VGPU_TURN_LEAD_NS) return now_ns + VGPU_TURN_POLL_NS;
    uint64_t lead = left > 2 * VGPU_TURN_LATE_NS ? VGPU_TURN_LATE_NS : VGPU_TURN_LEAD_NS / 2;
    return frees - lead < listen + VGPU_TURN_LISTEN_NS / 8 ? frees - lead : listen;
}

uint32_t vgpu_turn_ask(const struct vgpu_place_on_board *place, const struct vgpu_turn_claim *claim,
                       uint64_t now_ns, uint64_t *until_ns, bool *call) {
    uint64_t *shared = &place->board->turn.turn_word;
    uint64_t word = vgpu_load_seq_cst(shared);
    *call = false;
    if (holder_of(word)) {
        wish(place, claim->bursting, now_ns, call);
        *until_ns = next_look(place, word, now_ns);
        /* It may have been given up while our wish could not be seen yet. */
        if (vgpu_load_seq_cst(shared) != word) *until_ns = now_ns;
        return 0;
    }
    vgpu_store_relaxed(&seat_of(place)->bursting, (uint64_t)claim->bursting);
    uint64_t before = preferred(place);
    uint64_t until = since(word, now_ns) + VGPU_TURN_TAKE_UP_NS;
    if (before && now_ns < until) {
        wish(place, claim->bursting, now_ns, call);
        /* Nobody holds it, unless one of them has just taken it: who takes it looks at the wishes.
         */
        *call = vgpu_load_seq_cst(shared) != word;
        *until_ns = *call ? now_ns : until;
        return 0;
    }
    for (; before; before &= before - 1) clear_wish(place, (uint32_t)__builtin_ctzll(before));
    uint32_t epoch = next_epoch(epoch_of(word));
    if (!vgpu_cas_seq_cst(shared, &word, make_word(now_ns, epoch, place->seat + 1))) {
        wish(place, claim->bursting, now_ns, call);
        *until_ns = now_ns; /* somebody was faster: look again at once */
        return 0;
    }
    note_grant(place, claim, epoch, now_ns);
    return epoch;
}

static uint32_t ear_of(uint32_t seat) { return 2U << seat % 31; }

uint32_t vgpu_turn_ear(const struct vgpu_place_on_board *place) { return ear_of(place->seat); }

uint32_t vgpu_turn_holders_ear(const struct vgpu_place_on_board *place) {
    uint32_t holder = holder_of(vgpu_load_seq_cst(&place->board->turn.turn_word));
    return holder ? ear_of(holder - 1) : VGPU_ALL_EARS;
}

void vgpu_turn_withdraw(const struct vgpu_place_on_board *place) {
    if (wishes(place) & bit_of(place->seat)) clear_wish(place, place->seat);
    vgpu_store_relaxed(&seat_of(place)->wants_ns, UINT64_C(0));
}

/* ---- holding -----------------------------------------------------------------------------------
 */

static bool is_ours(const struct vgpu_place_on_board *place, uint64_t word, uint32_t epoch) {
    return holder_of(word) == place->seat + 1 && epoch_of(word) == epoch;
}

bool vgpu_turn_holds(const struct vgpu_place_on_board *place, uint32_t epoch) {
    return is_ours(place, vgpu_load_seq_cst(&place->board->turn.turn_word), epoch);
}

bool vgpu_turn_is_wanted(const struct vgpu_place_on_board *place) { return others(place) != 0; }

uint64_t vgpu_turn_end_ns(const struct vgpu_place_on_board *place, uint32_t epoch,
                          uint64_t quantum_ns, uint64_t now_ns) {
    uint64_t word = vgpu_load_seq_cst(&place->board->turn.turn_word);
    if (!is_ours(place, word, epoch)) return 0;
    uint64_t waiting = others(place);
    if (!waiting) return UINT64_MAX;
    uint64_t held = since(word, now_ns);
    uint64_t gap = earlier(weighed(place, quantum_ns), VGPU_TURN_CREDIT_NS / 2);
    uint64_t ours = vgpu_load_relaxed(&seat_of(place)->turn_v);
    bool bursting = vgpu_load_relaxed(&seat_of(place)->bursting);
    for (; waiting; waiting &= waiting - 1) {
        const struct vgpu_seat *seat = &place->board->seats[__builtin_ctzll(waiting)];
        bool inside = !vgpu_load_relaxed(&seat->bursting);
        if (bursting && inside) return held;
        if (inside && vgpu_load_relaxed(&seat->turn_v) + gap < ours)
            return held + VGPU_TURN_HOLD_NS;
    }
    return held + quantum_ns;
}

bool vgpu_turn_passes(const struct vgpu_place_on_board *place, uint32_t epoch, uint64_t now_ns) {
    uint64_t word = vgpu_load_seq_cst(&place->board->turn.turn_word);
    if (!is_ours(place, word, epoch)) return false;
    bool bursting = vgpu_load_relaxed(&seat_of(place)->bursting);
    uint64_t ours = vgpu_load_relaxed(&seat_of(place)->turn_v) +
                    weighed(place, minus(now_ns, since(word, now_ns)));
    for (uint64_t waiting = others(place); waiting; waiting &= waiting - 1) {
        const struct vgpu_seat *seat = &place->board->seats[__builtin_ctzll(waiting)];
        bool bursts = vgpu_load_relaxed(&seat->bursting);
        if (bursts != bursting ? bursting : vgpu_load_relaxed(&seat->turn_v) < ours) return true;
    }
    return false;
}

void vgpu_turn_expect(const struct vgpu_place_on_board *place, uint64_t frees_ns) {
    uint64_t *expected = &seat_of(place)->frees_ns;
    if (vgpu_load_relaxed(expected) != frees_ns) vgpu_store_relaxed(expected, frees_ns);
}

void vgpu_turn_beat(const struct vgpu_place_on_board *place, uint64_t now_ns) {
    vgpu_store_relaxed(&seat_of(place)->seen_ns, now_ns);
}

bool vgpu_turn_release(const struct vgpu_place_on_board *place, uint32_t epoch, bool drained,
                       uint64_t now_ns) {
    uint64_t *shared = &place->board->turn.turn_word;
    uint64_t word = vgpu_load_seq_cst(shared);
    if (!is_ours(place, word, epoch)) return false;
    vgpu_store_relaxed(&seat_of(place)->active_ns, now_ns);
    if (drained && others(place)) vgpu_turn_charge(place, VGPU_TURN_SWITCH_NS);
    if (!vgpu_cas_seq_cst(shared, &word, make_word(now_ns, epoch, 0))) return false;
    return others(place) != 0;
}

void vgpu_turn_charge(const struct vgpu_place_on_board *place, uint64_t charge_ns) {
    vgpu_add_relaxed(&seat_of(place)->turn_v, weighed(place, charge_ns));
}

/* ---- losing ------------------------------------------------------------------------------------
 */

enum vgpu_turn_doubt vgpu_turn_doubt(const struct vgpu_place_on_board *place, uint64_t wanted_ns,
                                     uint64_t now_ns, struct vgpu_turn_holder *holder) {
    uint64_t word = vgpu_load_seq_cst(&place->board->turn.turn_word);
    *holder = (struct vgpu_turn_holder){.word = word, .epoch = epoch_of(word)};
    if (!holder_of(word) || holder_of(word) > VGPU_MAX_SEATS) return VGPU_TURN_FINE;
    holder->seat = holder_of(word) - 1;
    const struct vgpu_seat *seat = &place->board->seats[holder->seat];
    uint64_t said = vgpu_load_seq_cst(&seat->holder);
    uint64_t held = since(word, now_ns);
    holder->held_ns = minus(now_ns, held);
    if ((uint32_t)said != epoch_of(word))
        return holder->held_ns > VGPU_TURN_TAKE_UP_NS ? VGPU_TURN_UNTAKEN : VGPU_TURN_FINE;
    holder->pid = (uint32_t)(said >> 32);
    holder->start_time = vgpu_load_relaxed(&seat->holder_start);
    if (minus(now_ns, later(held, wanted_ns)) > VGPU_TURN_ENDLESS_NS) return VGPU_TURN_ENDLESS;
    /* Its watcher was told by our wish: silence from before does not count. */
    uint64_t seen = seen_at(seat, held, now_ns);
    if (minus(now_ns, later(seen, wanted_ns)) > VGPU_TURN_DEAF_NS) return VGPU_TURN_DEAF;
    if (minus(now_ns, seen) > VGPU_TURN_LISTEN_NS) return VGPU_TURN_SILENT;
    uint64_t frees = vgpu_load_relaxed(&seat->frees_ns);
    bool overdue = frees && now_ns > frees + VGPU_TURN_OVERDUE_NS;
    return overdue ? VGPU_TURN_OVERDUE : VGPU_TURN_FINE;
}

bool vgpu_turn_rob(const struct vgpu_place_on_board *place, const struct vgpu_turn_holder *holder,
                   bool overlaps, uint64_t now_ns) {
    struct vgpu_turn *turn = &place->board->turn;
    uint64_t word = holder->word;
    if (!vgpu_cas_seq_cst(&turn->turn_word, &word, make_word(now_ns, holder->epoch, 0)))
        return false;
    if (!vgpu_turn_was_left_behind(place, holder))
        vgpu_add_relaxed(&place->board->seats[holder->seat].stolen, UINT64_C(1));
    if (!overlaps) return true;
    vgpu_store_relaxed(&turn->turn_overlap_end_ns, UINT64_C(0));
    vgpu_store_relaxed(&turn->turn_overlap_ns, now_ns);
    vgpu_store_relaxed(&turn->turn_overlap_pid, holder->pid);
    vgpu_store_release(&turn->turn_overlap_seat, (uint64_t)holder->seat + 1);
    return true;
}

/* How much of [from_ns, to_ns] a robbed session's work ran beside ours. */
static uint64_t overlap_of(const struct vgpu_place_on_board *place, uint64_t from_ns,
                           uint64_t to_ns) {
    const struct vgpu_turn *turn = &place->board->turn;
    uint64_t whose = vgpu_load_acquire(&turn->turn_overlap_seat);
    if (whose == 0 || whose == place->seat + 1 || whose > VGPU_MAX_SEATS) return 0;
    uint64_t end = vgpu_load_relaxed(&turn->turn_overlap_end_ns);
    if (!end) end = to_ns;
    return minus(earlier(end, to_ns), later(vgpu_load_relaxed(&turn->turn_overlap_ns), from_ns));
}

uint32_t vgpu_turn_overlapping(const struct vgpu_place_on_board *place) {
    const struct vgpu_turn *turn = &place->board->turn;
    bool ended = !vgpu_load_acquire(&turn->turn_overlap_seat) ||
                 vgpu_load_relaxed(&turn->turn_overlap_end_ns);
    return ended ? 0 : vgpu_load_relaxed(&turn->turn_overlap_pid);
}

void vgpu_turn_bury_overlap(const struct vgpu_place_on_board *place) {
    vgpu_store_release(&place->board->turn.turn_overlap_seat, UINT64_C(0));
}

/* Our own robbed work has ended. Returns for how long it overlapped. */
static uint64_t end_overlap(const struct vgpu_place_on_board *place, uint64_t drained_ns) {
    struct vgpu_turn *turn = &place->board->turn;
    if (vgpu_load_acquire(&turn->turn_overlap_seat) != place->seat + 1 ||
        vgpu_load_relaxed(&turn->turn_overlap_end_ns))
        return 0;
    vgpu_store_release(&turn->turn_overlap_end_ns, drained_ns);
    return minus(drained_ns, vgpu_load_relaxed(&turn->turn_overlap_ns));
}

uint64_t vgpu_turn_drained_ns(const struct vgpu_place_on_board *place) {
    return vgpu_load_relaxed(&place->board->turn.turn_drained_ns);
}

uint64_t vgpu_turn_settle(const struct vgpu_place_on_board *place, uint64_t before_ns,
                          uint64_t open_ns, uint64_t drained_ns, bool robbed) {
    uint64_t from = open_ns, overlap;
    if (robbed) {
        overlap = end_overlap(place, drained_ns);
    } else {
        from = later(open_ns, earlier(before_ns, drained_ns));
        overlap = overlap_of(place, from, drained_ns);
        vgpu_max_relaxed(&place->board->turn.turn_drained_ns, drained_ns);
    }
    uint64_t charge = minus(drained_ns, from);
    charge -= earlier(overlap, charge) / 2;
    vgpu_turn_charge(place, charge);
    return charge;
}
