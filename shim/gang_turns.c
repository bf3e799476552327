#include "gang_turns.h"

#include "atomics.h"
#include "times.h"
#include "wait.h"

/* While we wait for the next turn, what we have already lies idle. */
#define KEEP_NS UINT64_C(40000000)

static void give_back(struct vgpu_gang_turns *turns, uint64_t now_ns) {
    for (uint32_t i = 0; i < turns->count; i++)
        if (turns->rotas[i]->epoch) vgpu_rota_leave(turns->rotas[i], now_ns);
    turns->since_ns = 0;
}

bool vgpu_gang_turns_form(struct vgpu_gang_turns *turns, struct vgpu_rota *own, uint64_t members,
                          uint64_t now_ns) {
    if (turns->members == members) return false;
    give_back(turns, now_ns);
    turns->members = members;
    turns->count = vgpu_gang_order(own->session->region, members, turns->order);
    for (uint32_t i = 0; i < turns->count; i++) {
        uint32_t device = turns->order[i];
        struct vgpu_rota *peer = &turns->peers[device];
        turns->rotas[i] = device == own->device ? own : peer;
        if (!turns->rotas[i]->session) vgpu_rota_join(peer, own->session, device);
        turns->rotas[i]->ganged = turns->count > 1;
    }
    return true;
}

struct vgpu_gate vgpu_gang_turns_gate(struct vgpu_gang_turns *turns, struct vgpu_gate gate,
                                      uint64_t now_ns) {
    bool may_burst = true;
    uint64_t quantum_ns = 0;
    for (uint32_t i = 0; i < turns->count; i++) {
        gate = vgpu_rota_gate(turns->rotas[i], gate, now_ns);
        quantum_ns = later(quantum_ns, gate.quantum_ns);
        may_burst &= gate.may_burst;
    }
    gate.may_burst = may_burst;
    gate.quantum_ns = quantum_ns;
    return gate;
}

bool vgpu_gang_turns_take(struct vgpu_gang_turns *turns, bool bursting, uint64_t now_ns,
                          uint64_t *until_ns, uint32_t **bell) {
    for (uint32_t i = 0; i < turns->count; i++) {
        struct vgpu_rota *rota = turns->rotas[i];
        *bell = rota->bell;
        if (rota->epoch && vgpu_rota_holds(rota)) {
            vgpu_rota_beat(rota, now_ns);
        } else if (!vgpu_rota_take(rota, bursting, now_ns, until_ns)) {
            if (turns->since_ns && now_ns > turns->since_ns + KEEP_NS) give_back(turns, now_ns);
            return false;
        } else if (rota->epoch && !turns->since_ns) {
            turns->since_ns = now_ns;
        }
    }
    turns->since_ns = 0;
    return true;
}

static uint64_t *told(const struct vgpu_gang_turns *turns, uint32_t i) {
    return &turns->rotas[i]->session->region->devices[turns->order[i]].gang_turn;
}

void vgpu_gang_turns_publish(const struct vgpu_gang_turns *turns, uint32_t slice_epoch) {
    for (uint32_t i = 0; i < turns->count; i++)
        vgpu_store_relaxed(told(turns, i), (uint64_t)slice_epoch << 32 | turns->rotas[i]->epoch);
}

void vgpu_gang_turns_adopt(struct vgpu_gang_turns *turns, uint32_t slice_epoch) {
    for (uint32_t i = 0; i < turns->count; i++) {
        uint64_t word = vgpu_load_relaxed(told(turns, i));
        turns->rotas[i]->epoch = word >> 32 == slice_epoch ? (uint32_t)word : 0;
        turns->rotas[i]->in_turn = turns->rotas[i]->epoch != 0;
        turns->rotas[i]->expected = false;
    }
}

void vgpu_gang_turns_forget(struct vgpu_gang_turns *turns) {
    for (uint32_t i = 0; i < turns->count; i++) {
        turns->rotas[i]->epoch = 0;
        turns->rotas[i]->in_turn = false;
    }
}

void vgpu_gang_turns_ring(const struct vgpu_gang_turns *turns) {
    for (uint32_t i = 0; i < turns->count; i++)
        vgpu_wake_word(turns->rotas[i]->bell, VGPU_ALL_EARS);
}

void vgpu_gang_turns_withdraw(struct vgpu_gang_turns *turns, uint64_t now_ns) {
    give_back(turns, now_ns);
    for (uint32_t i = 0; i < turns->count; i++) vgpu_rota_withdraw(turns->rotas[i]);
}

bool vgpu_gang_turns_hold(const struct vgpu_gang_turns *turns) {
    for (uint32_t i = 0; i < turns->count; i++)
        if (!vgpu_rota_holds(turns->rotas[i])) return false;
    return true;
}

bool vgpu_gang_turns_are_wanted(const struct vgpu_gang_turns *turns) {
    for (uint32_t i = 0; i < turns->count; i++)
        if (vgpu_rota_is_wanted(turns->rotas[i])) return true;
    return false;
}

bool vgpu_gang_turns_have_company(const struct vgpu_gang_turns *turns) {
    for (uint32_t i = 0; i < turns->count; i++)
        if (turns->rotas[i]->company) return true;
    return false;
}

uint64_t vgpu_gang_turns_end_ns(const struct vgpu_gang_turns *turns, uint64_t now_ns) {
    uint64_t end = UINT64_MAX;
    for (uint32_t i = 0; i < turns->count; i++)
        end = earlier(end, vgpu_rota_end_ns(turns->rotas[i], now_ns));
    return end;
}

void vgpu_gang_turns_beat(const struct vgpu_gang_turns *turns, uint64_t now_ns) {
    for (uint32_t i = 0; i < turns->count; i++) vgpu_rota_beat(turns->rotas[i], now_ns);
}

uint64_t vgpu_gang_turns_settle(struct vgpu_gang_turns *turns, uint64_t begun_ns,
                                uint64_t drained_ns) {
    uint64_t charge = 0;
    for (uint32_t i = 0; i < turns->count; i++)
        charge = later(charge, vgpu_rota_settle(turns->rotas[i], begun_ns, drained_ns));
    return charge;
}

void vgpu_gang_turns_leave(struct vgpu_gang_turns *turns, uint64_t now_ns) {
    for (uint32_t i = 0; i < turns->count; i++) vgpu_rota_leave(turns->rotas[i], now_ns);
}

void vgpu_gang_turns_reclaim(struct vgpu_gang_turns *turns, uint64_t before_ns, uint64_t now_ns) {
    for (uint32_t i = 0; i < turns->count; i++)
        vgpu_rota_reclaim(turns->rotas[i], before_ns, now_ns);
}
