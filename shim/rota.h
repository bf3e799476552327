/* The rota: one process's part in its session's turns on one board. Asking, telling whether we
 * still have the turn, giving it up, and getting on when the session that holds it does not answer.
 * The order itself is in turn.h. */
#ifndef VGPU_ROTA_H
#define VGPU_ROTA_H

#include "gate.h"
#include "session.h"
#include "turn.h"

struct vgpu_rota {
    struct vgpu_session *session;
    uint32_t device;
    struct vgpu_place_on_board place; /* board NULL: we gate alone */
    uint32_t *bell;         /* futex of all who wait here: the board's, or the session's alone */
    uint32_t epoch;         /* of the turn that covers our slice; 0 = none */
    uint64_t before_ns;     /* given up: when the work of those before us had drained */
    bool expected;          /* it is known when our work drains, and said so */
    bool in_turn;           /* our slice was opened with a turn: it is charged to our seat */
    bool ganged;            /* one of several turns of a slice: they are longer */
    bool company;           /* another session was active when our slice was opened */
    uint64_t start_time;    /* our process's, see turn.h */
    uint32_t overdue_epoch; /* of another's turn: its process was looked after */
};

/* Takes the session's seat on the board of the device, if there is a board. */
void vgpu_rota_join(struct vgpu_rota *rota, struct vgpu_session *session, uint32_t device);

/* `gate` as it is to be asked now: with others active a slice may be a quantum long, alone the
 * session may burst. */
struct vgpu_gate vgpu_rota_gate(struct vgpu_rota *rota, struct vgpu_gate gate, uint64_t now_ns);

/* Asks for the turn: true, or *until_ns says when to ask again unless the bell rings before. True
 * also where no turn is needed. Robs a holder that does not answer. */
bool vgpu_rota_take(struct vgpu_rota *rota, bool bursting, uint64_t now_ns, uint64_t *until_ns);

/* At the bell (wait.h): of whoever looks after our turns. */
uint32_t vgpu_rota_ear(const struct vgpu_rota *rota);

/* Our schedule does not allow a slice now. */
void vgpu_rota_withdraw(const struct vgpu_rota *rota);

/* False if our turn was taken from us. */
bool vgpu_rota_holds(const struct vgpu_rota *rota);

/* True if another session waits for our turn. */
bool vgpu_rota_is_wanted(const struct vgpu_rota *rota);

/* True if our turn has the length it has: see vgpu_turn_all_wait. */
bool vgpu_rota_is_settled(const struct vgpu_rota *rota, uint64_t now_ns);

/* True if another session is to have our turn next, also before we have drained. */
bool vgpu_rota_passes(const struct vgpu_rota *rota, uint64_t now_ns);

/* When our turn has to end; UINT64_MAX: nobody waits for it. */
uint64_t vgpu_rota_end_ns(const struct vgpu_rota *rota, uint64_t now_ns);

/* For those who wait: our slice is being closed, and the turn will be free at frees_ns. */
void vgpu_rota_expect(struct vgpu_rota *rota, uint64_t frees_ns);

/* For those who wait: this process answers. */
void vgpu_rota_beat(const struct vgpu_rota *rota, uint64_t now_ns);

/* Lets the next session in now, just before our work has drained: the slice stays open. */
void vgpu_rota_hand_over(struct vgpu_rota *rota, uint64_t now_ns);

/* Our slice ran from begun_ns to drained_ns. Returns how much of that is to be charged (turn.h).
 * Call before the gate's close. */
uint64_t vgpu_rota_settle(struct vgpu_rota *rota, uint64_t begun_ns, uint64_t drained_ns);

/* Gives the turn up, after the gate's close, and rings for those who wait. */
void vgpu_rota_leave(struct vgpu_rota *rota, uint64_t now_ns);

/* The turn that a dead or robbed process of our own session has left behind, if it has: one taken
 * before_ns. Since the slice was closed another of our processes may have taken the next one. */
void vgpu_rota_reclaim(struct vgpu_rota *rota, uint64_t before_ns, uint64_t now_ns);

#endif
