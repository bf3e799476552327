/* The turn: whose session may submit work to a GPU now. Pure: works on a mapped board, takes the
 * time as an argument, calls no driver and no clock, never waits.
 *
 * Glossary
 *   turn     covers one slice of one session. Held by one seat at a time, or free.
 *   epoch    the turn's number. Only who holds the epoch may act on it.
 *   wish     a bit in turn_wanted: the seat's session could open a slice now, if it had the turn.
 *   v        what a seat was charged ÷ its weight: the least v is next (start-time fair queueing).
 *   V        the greatest v that the turn was granted at. Who comes back starts at V − credit at
 *            the earliest: it does not save up more than that.
 *   weight   share × priority. A session without a share has what the others leave, at least 1 %.
 *   company  another session that held or wanted the turn within the last second.
 *
 * The turn is ONE word:   ticks of 100 ns, modulo 2^36 << 28 | epoch << 8 | seat + 1
 * ticks since when it is held (or free, with seat + 1 = 0). A grant is the waiter's own
 * compare-and-swap on a free word: nothing is ever granted to somebody who is not there. All else
 * (wishes, v, times) are hints: a wish whose owner does not come is passed over after 2 ms, and a
 * live owner renews it.
 *
 * A gang of GPUs takes one turn on each board for one slice: gang_turns.h.
 */
#ifndef VGPU_TURN_H
#define VGPU_TURN_H

#include <stdbool.h>
#include <stdint.h>

#include "board.h"

#define VGPU_TURN_QUANTUM_NS UINT64_C(20000000)
#define VGPU_TURN_CREDIT_NS UINT64_C(50000000)
#define VGPU_TURN_HOLD_NS UINT64_C(250000)   /* nobody's turn is cut shorter than this */
#define VGPU_TURN_SWITCH_NS UINT64_C(300000) /* v's price of giving a turn up by draining */
#define VGPU_TURN_TAKE_UP_NS UINT64_C(2000000)
#define VGPU_TURN_COMPANY_NS UINT64_C(1000000000)
/* Waiters look after a holder that is silent for so long, or so much later than it said. */
#define VGPU_TURN_LISTEN_NS UINT64_C(10000000)
#define VGPU_TURN_OVERDUE_NS UINT64_C(200000)
/* A waiter is not woken in time by a bell (a CPU that sleeps deeply takes 0.3 ms), but by its own
 * timer: shortly before the turn is expected to be free it begins to look, every few µs. After a
 * long sleep the timer itself is late by up to VGPU_TURN_LATE_NS, after a short one by little. */
#define VGPU_TURN_LEAD_NS UINT64_C(40000)
#define VGPU_TURN_LATE_NS UINT64_C(250000)
#define VGPU_TURN_NEXT_NS UINT64_C(150000) /* who is not next looks so much later */
#define VGPU_TURN_SAID_NS UINT64_C(500000) /* by then the holder has said when that is */
#define VGPU_TURN_POLL_NS UINT64_C(16000)
#define VGPU_TURN_POLL_FOR_NS UINT64_C(1000000) /* … but no longer than that beyond it */
#define VGPU_TURN_DEAF_NS UINT64_C(64000000)
#define VGPU_TURN_ENDLESS_NS UINT64_C(250000000)

/* Who asks. */
struct vgpu_turn_claim {
    uint32_t pid;
    uint64_t start_time; /* of the pid */
    bool bursting;       /* above the share: only if nobody inside its own share waits */
};

/* Asks for the turn and leaves a wish if it is not to be had. Returns its epoch (never 0). 0: wait
 * until the board's bell or *until_ns, whichever is first, and ask again. *call: ring the bell, the
 * holder should know that somebody waits. */
uint32_t vgpu_turn_ask(const struct vgpu_place_on_board *place, const struct vgpu_turn_claim *claim,
                       uint64_t now_ns, uint64_t *until_ns, bool *call);

/* Ears at the board's bell (wait.h): of all who wait for the turn, and of whoever looks after the
 * turn of a session: its watchers, and threads that drain. */
#define VGPU_TURN_EAR_WAITS 1U
uint32_t vgpu_turn_ear(const struct vgpu_place_on_board *place);
/* Of the holder's session; all, if nobody holds the turn. */
uint32_t vgpu_turn_holders_ear(const struct vgpu_place_on_board *place);

/* Takes the wish back: the session's schedule does not allow a slice now. */
void vgpu_turn_withdraw(const struct vgpu_place_on_board *place);

bool vgpu_turn_holds(const struct vgpu_place_on_board *place, uint32_t epoch);

/* True if another session waits. */
bool vgpu_turn_is_wanted(const struct vgpu_place_on_board *place);

/* True if every other session that was active of late waits: nobody can come and have our turn cut
 * short. */
bool vgpu_turn_all_wait(const struct vgpu_place_on_board *place, uint64_t now_ns);

/* True if another session that waits goes before us, our turn so far being charged: whoever hands
 * over before it has drained, and so does not ask again yet, must not give the turn to the wrong
 * one. */
bool vgpu_turn_passes(const struct vgpu_place_on_board *place, uint32_t epoch, uint64_t now_ns);

/* When our turn has to end: UINT64_MAX while nobody waits, 0 if it is not ours any more. */
uint64_t vgpu_turn_end_ns(const struct vgpu_place_on_board *place, uint32_t epoch,
                          uint64_t quantum_ns, uint64_t now_ns);

/* For those who wait: when we expect to give our turn up. */
void vgpu_turn_expect(const struct vgpu_place_on_board *place, uint64_t frees_ns);

/* A sign of life of the holder, for those who wait. */
void vgpu_turn_beat(const struct vgpu_place_on_board *place, uint64_t now_ns);

/* Frees our turn. drained: it ends because we have nothing to do, before it had to. True if
 * somebody waits: ring the bell. */
bool vgpu_turn_release(const struct vgpu_place_on_board *place, uint32_t epoch, bool drained,
                       uint64_t now_ns);

/* Adds to our v. */
void vgpu_turn_charge(const struct vgpu_place_on_board *place, uint64_t charge_ns);

/* When the work of those who had the turn has drained, as far as they have settled. */
uint64_t vgpu_turn_drained_ns(const struct vgpu_place_on_board *place);

/* Our slice ran from open_ns to drained_ns. before_ns: vgpu_turn_drained_ns as it was when we gave
 * the turn up; whoever comes next may settle before us. Returns what it is charged: not the end of
 * our predecessor's work, which it may have let us in before; and half of what ran beside a robbed
 * session's work, which pays the other half. Counts it in our v. robbed: we lost the turn. */
uint64_t vgpu_turn_settle(const struct vgpu_place_on_board *place, uint64_t before_ns,
                          uint64_t open_ns, uint64_t drained_ns, bool robbed);

/* What is wrong with whoever holds the turn, for a session that waits since wanted_ns. OVERDUE
 * (once a turn is enough), SILENT: ask the system whether its process (*pid, *start_time) lives.
 * All other doubts are reason enough. */
enum vgpu_turn_doubt {
    VGPU_TURN_FINE,
    VGPU_TURN_OVERDUE,
    VGPU_TURN_SILENT,
    VGPU_TURN_UNTAKEN, /* the winner died between taking the turn and saying so */
    VGPU_TURN_DEAF,    /* stopped */
    VGPU_TURN_ENDLESS, /* one submission that does not end */
};
struct vgpu_turn_holder {
    uint64_t word; /* of the turn, for vgpu_turn_rob */
    uint32_t seat, pid, epoch;
    uint64_t start_time, held_ns;
};
enum vgpu_turn_doubt vgpu_turn_doubt(const struct vgpu_place_on_board *place, uint64_t wanted_ns,
                                     uint64_t now_ns, struct vgpu_turn_holder *holder);

/* True if the turn is that of a dead session which had our seat before us: nobody's loss. */
static inline bool vgpu_turn_was_left_behind(const struct vgpu_place_on_board *place,
                                             const struct vgpu_turn_holder *holder) {
    return holder->seat == place->seat && !holder->pid;
}

/* Takes the turn from the holder; it is free then. False if it has changed meanwhile. overlaps: its
 * work goes on beside the next one's. */
bool vgpu_turn_rob(const struct vgpu_place_on_board *place, const struct vgpu_turn_holder *holder,
                   bool overlaps, uint64_t now_ns);

/* The process whose robbed work has not ended yet, 0 = none; and that it never will: it is dead. */
uint32_t vgpu_turn_overlapping(const struct vgpu_place_on_board *place);
void vgpu_turn_bury_overlap(const struct vgpu_place_on_board *place);

/* True if another session is active. always: also if it has only a seat. */
bool vgpu_turn_has_company(const struct vgpu_place_on_board *place, bool always, uint64_t now_ns);

/* share × priority, parts per million; at least 5,000. */
uint64_t vgpu_turn_weight(const struct vgpu_place_on_board *place);

#endif
