/* A gang's turns: one on the board of each of its GPUs, for one slice. Whoever opens the slice
 * takes them all, in the order of the UUIDs, so that two gangs never wait for each other in a ring;
 * whoever leaves it last gives them up. Without a gang: the one turn of rota.h. */
#ifndef VGPU_GANG_TURNS_H
#define VGPU_GANG_TURNS_H

#include "gang.h"
#include "rota.h"

struct vgpu_gang_turns {
    uint64_t members; /* of the gang as it is to us; 0 = not formed */
    uint32_t count;
    uint32_t order[VGPU_MAX_DEVICES];
    struct vgpu_rota *rotas[VGPU_MAX_DEVICES]; /* in the same order */
    struct vgpu_rota peers[VGPU_MAX_DEVICES];  /* by device; ours is the pace's own */
    uint64_t since_ns;                         /* we hold some turns, not all; 0 = we do not */
};

/* Brings the members up to date: our turns are given back, if they have changed. True if so. */
bool vgpu_gang_turns_form(struct vgpu_gang_turns *turns, struct vgpu_rota *own, uint64_t members,
                          uint64_t now_ns);

/* The gate as it is to be asked now: see vgpu_rota_gate. */
struct vgpu_gate vgpu_gang_turns_gate(struct vgpu_gang_turns *turns, struct vgpu_gate gate,
                                      uint64_t now_ns);

/* Takes all turns: true. False: *until_ns and *bell say what to wait for; the turns that we have
 * are kept for a quantum at most. */
bool vgpu_gang_turns_take(struct vgpu_gang_turns *turns, bool bursting, uint64_t now_ns,
                          uint64_t *until_ns, uint32_t **bell);

/* Tells the peers which turns cover the slice; takes what a peer has told. */
void vgpu_gang_turns_publish(const struct vgpu_gang_turns *turns, uint32_t slice_epoch);
void vgpu_gang_turns_adopt(struct vgpu_gang_turns *turns, uint32_t slice_epoch);

/* We have left the slice, peers are still in it. */
void vgpu_gang_turns_forget(struct vgpu_gang_turns *turns);

/* Rings for every process of the members' sessions. */
void vgpu_gang_turns_ring(const struct vgpu_gang_turns *turns);

/* As in rota.h, for all members. */
void vgpu_gang_turns_withdraw(struct vgpu_gang_turns *turns, uint64_t now_ns);
bool vgpu_gang_turns_hold(const struct vgpu_gang_turns *turns);
bool vgpu_gang_turns_are_wanted(const struct vgpu_gang_turns *turns);
bool vgpu_gang_turns_have_company(const struct vgpu_gang_turns *turns);
uint64_t vgpu_gang_turns_end_ns(const struct vgpu_gang_turns *turns, uint64_t now_ns);
void vgpu_gang_turns_beat(const struct vgpu_gang_turns *turns, uint64_t now_ns);
uint64_t vgpu_gang_turns_settle(struct vgpu_gang_turns *turns, uint64_t begun_ns,
                                uint64_t drained_ns);
void vgpu_gang_turns_leave(struct vgpu_gang_turns *turns, uint64_t now_ns);
void vgpu_gang_turns_reclaim(struct vgpu_gang_turns *turns, uint64_t before_ns, uint64_t now_ns);

#endif
