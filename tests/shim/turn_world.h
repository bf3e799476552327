/* A GPU and its sessions in virtual time: the real gate.c and turn.c, driven as slice.c and rota.c
 * drive them, by programs with drawn kernel lengths and wake-up delays. No clock, no threads: who
 * wakes first, moves first. */
#ifndef TURN_WORLD_H
#define TURN_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/atomics.h"
#include "../../shim/gate.h"
#include "../../shim/slot.h"
#include "../../shim/turn.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define START (UINT64_C(4321) * SECOND)
#define NEVER UINT64_MAX
#define MAX_TENANTS 8

#define SWITCH_NS (148 * US) /* the card changes from one process to another */
#define LAUNCH_NS (3 * US)
#define HAND_OVER_NS (150 * US)
#define WINDOW_NS (500 * US)

enum state { IDLE, ASKING, RUNNING, DRAINING, DEAD };

struct tenant {
    /* The program. */
    uint64_t kernel_ns;         /* drawn ± 10 % */
    uint64_t work_ns, every_ns; /* so much is due that often; work 0: it always has work */
    uint64_t from_ns;           /* … and begins then */
    uint64_t endless_ns;        /* its next kernel takes that long */
    /* Its process. */
    uint32_t pid;
    uint64_t stopped_until;
    enum state state;
    uint64_t wake_ns;
    bool on_bell; /* wakes when it rings */
    /* What slice.c and rota.c know. */
    struct vgpu_device device;
    struct vgpu_gate gate;
    struct vgpu_place_on_board place;
    struct vgpu_gate_slice slice;
    uint32_t epoch;
    bool handed_over, started, company;
    uint64_t request_ns, flight_end_ns, due_ns, backlog_ns, before_ns;
    /* What came of it. */
    uint64_t done_ns, steps_due, steps_done, slow_steps, step_from_ns;
    uint64_t ready_ns;   /* since when its schedule allows a slice that it does not get */
    uint64_t longest_ns; /* and the longest time it had to wait so */
    unsigned long wakes; /* while it waited for its turn, or to drain */
};

struct world {
    struct vgpu_board board;
    struct tenant tenant[MAX_TENANTS];
    int tenants;
    uint64_t now;
    uint64_t late_ns;       /* a timer rings up to so much too late */
    uint64_t gaps_us[1000]; /* hand-overs by how long the GPU did no work for anybody */
    unsigned long hand_overs;
    const struct tenant *gpu_user;
    uint64_t gpu_end_ns;
    uint64_t busy_from_ns, busy_until_ns; /* of the slices not robbed, the last to drain */
    unsigned long overlaps, thefts, unfair_thefts;
    uint64_t seed;
    bool (*strike)(struct world *, struct tenant *); /* may kill it the moment it has its turn */
};

static inline uint64_t draw(struct world *world, uint64_t bound) {
    world->seed ^= world->seed << 13;
    world->seed ^= world->seed >> 7;
    world->seed ^= world->seed << 17;
    return bound ? world->seed % bound : 0;
}

static inline uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

static inline void seat_down(struct world *world, struct tenant *tenant, uint32_t pid) {
    struct vgpu_seat *seat = &world->board.seats[tenant->place.seat];
    tenant->pid = pid;
    seat->owner = (uint64_t)pid << 32 | VGPU_SLOT_LIVE;
    tenant->place.owner = seat->owner;
    seat->share_ppm = tenant->device.share_ppm;
    seat->burst_ppm = tenant->device.burst_ppm;
    tenant->state = tenant->work_ns ? IDLE : ASKING;
    tenant->wake_ns = tenant->due_ns = world->now + tenant->from_ns;
    tenant->request_ns = tenant->ready_ns = 0;
    tenant->backlog_ns = 0;
    tenant->epoch = 0;
    tenant->stopped_until = 0;
}

static inline struct world *new_world(uint64_t seed) {
    struct world *world = calloc(1, sizeof *world);
    world->now = START;
    world->late_ns = 9 * US;
    world->seed = seed * 2654435761U + 88172645463325252U;
    world->board.header.seats_used = MAX_TENANTS;
    return world;
}

static inline struct tenant *add_tenant(struct world *world, double share, uint64_t kernel_ns) {
    uint32_t index = (uint32_t)world->tenants++;
    struct tenant *tenant = &world->tenant[index];
    tenant->kernel_ns = kernel_ns;
    tenant->device.share_ppm = (uint32_t)(share * 10000);
    tenant->gate = (struct vgpu_gate){.device = &tenant->device, .start_ns = START - SECOND};
    tenant->place = (struct vgpu_place_on_board){.board = &world->board, .seat = index};
    seat_down(world, tenant, index + 1);
    return tenant;
}

/* ---- one step of one tenant --------------------------------------------------------------------
 */

static inline void sleep_until(struct world *world, struct tenant *tenant, uint64_t ns,
                               bool on_bell) {
    tenant->wake_ns = most(ns, world->now) + draw(world, world->late_ns);
    tenant->on_bell = on_bell;
}

/* A futex wakes in 12 us as a rule, and in 160 to 340 where the CPU sleeps deeply: on the card's
 * machine one in ten. */
static inline uint64_t bell_delay(struct world *world) {
    return draw(world, 10) ? 8 * US + draw(world, 8 * US) : 160 * US + draw(world, 180 * US);
}

static inline void ring(struct world *world) {
    for (int i = 0; i < world->tenants; i++) {
        struct tenant *tenant = &world->tenant[i];
        if (tenant->on_bell)
            tenant->wake_ns = least(tenant->wake_ns, world->now + bell_delay(world));
    }
}

static inline bool has_turn(const struct tenant *tenant) {
    return vgpu_turn_holds(&tenant->place, tenant->epoch);
}

/* As rota.c's watch_holder; the process table is the world's. True if it took the turn from the
 * holder: the bell has rung. */
static inline bool watch_holder(struct world *world, struct tenant *tenant) {
    for (int i = 0; i < world->tenants; i++) {
        struct tenant *other = &world->tenant[i];
        if (other->epoch && other->state != DEAD && other->stopped_until <= world->now &&
            has_turn(other))
            vgpu_turn_beat(&other->place, world->now); /* its watcher does */
    }
    struct vgpu_turn_holder holder;
    uint64_t wanted = world->board.seats[tenant->place.seat].wants_ns;
    enum vgpu_turn_doubt doubt = vgpu_turn_doubt(&tenant->place, wanted, world->now, &holder);
    if (doubt == VGPU_TURN_FINE) return false;
    const struct tenant *victim = &world->tenant[holder.seat];
    bool dead = victim->state == DEAD || victim->pid != holder.pid;
    if (doubt <= VGPU_TURN_SILENT && !dead) return false;
    bool stopped = victim->stopped_until > world->now;
    bool endless = doubt == VGPU_TURN_ENDLESS;
    if (!vgpu_turn_rob(&tenant->place, &holder, endless && !dead, world->now)) return false;
    world->thefts++;
    world->unfair_thefts += !dead && !stopped && !endless;
    ring(world);
    return true;
}

/* Closes the slice: its work had ended at drained_ns. */
static inline void leave(struct world *world, struct tenant *tenant, uint64_t drained_ns) {
    bool robbed = !tenant->handed_over && !has_turn(tenant);
    uint64_t before =
        tenant->handed_over ? tenant->before_ns : vgpu_turn_drained_ns(&tenant->place);
    uint64_t charge =
        vgpu_turn_settle(&tenant->place, before, tenant->slice.open_ns, drained_ns, robbed);
    if (!robbed) {
        /* Nobody else's work ran between this slice's beginning and its end. Who was stopped after
         * it had handed over comes here after the next. */
        uint64_t from = most(tenant->slice.open_ns, world->busy_from_ns);
        world->overlaps += from + HAND_OVER_NS + world->late_ns + 20 * US <
                           least(drained_ns, world->busy_until_ns);
        if (drained_ns > world->busy_until_ns) {
            world->busy_from_ns = tenant->slice.open_ns;
            world->busy_until_ns = drained_ns;
        }
    }
    vgpu_gate_close(tenant->gate, tenant->slice.epoch, tenant->slice.open_ns + charge);
    uint64_t end =
        vgpu_turn_end_ns(&tenant->place, tenant->epoch, VGPU_TURN_QUANTUM_NS, world->now);
    bool early = end != UINT64_MAX && world->now + VGPU_GATE_PAUSE_NS < end;
    if (!tenant->handed_over && !robbed &&
        vgpu_turn_release(&tenant->place, tenant->epoch, early, world->now))
        ring(world);
    tenant->epoch = 0;
}

static inline void ask(struct world *world, struct tenant *tenant) {
    if (!tenant->request_ns) tenant->request_ns = world->now;
    tenant->company = vgpu_turn_has_company(&tenant->place, false, world->now);
    tenant->gate.quantum_ns = tenant->company ? VGPU_TURN_QUANTUM_NS : 0;
    tenant->gate.may_burst = true;
    bool bursting, call;
    uint64_t next = vgpu_gate_next(tenant->gate, world->now, &bursting), until;
    if (next == 0) { /* a process of ours died in its slice: the session goes on */
        struct vgpu_gate_slice old;
        vgpu_gate_look(tenant->gate, &old);
        vgpu_gate_close(tenant->gate, old.epoch, least(world->now, old.end_ns));
        next = vgpu_gate_next(tenant->gate, world->now, &bursting);
    }
    if (next > world->now) {
        vgpu_turn_withdraw(&tenant->place);
        tenant->ready_ns = 0;
        return sleep_until(world, tenant, next, tenant->device.burst_ppm != 0);
    }
    if (!tenant->ready_ns) tenant->ready_ns = world->now;
    const struct vgpu_turn_claim claim = {tenant->pid, 1, bursting};
    tenant->epoch = vgpu_turn_ask(&tenant->place, &claim, world->now, &until, &call);
    if (!tenant->epoch) {
        if (call) ring(world);
        else if (watch_holder(world, tenant)) until = world->now;
        return sleep_until(world, tenant, most(until, world->now + US), true);
    }
    tenant->longest_ns = most(tenant->longest_ns, world->now - tenant->ready_ns);
    tenant->ready_ns = 0;
    if (world->strike && world->strike(world, tenant)) return;
    if (vgpu_gate_ask(tenant->gate, world->now, tenant->request_ns, &tenant->slice) !=
        VGPU_GATE_OPENED)
        abort();
    tenant->state = RUNNING;
    tenant->started = tenant->handed_over = false;
    tenant->flight_end_ns = tenant->wake_ns = world->now;
}

static inline void submit(struct world *world, struct tenant *tenant) {
    uint64_t kernel = tenant->kernel_ns * 9 / 10 + draw(world, tenant->kernel_ns / 5 + 1);
    if (tenant->work_ns) kernel = least(kernel, tenant->backlog_ns);
    if (tenant->endless_ns) kernel = tenant->endless_ns;
    tenant->endless_ns = 0;
    uint64_t start = most(world->now + LAUNCH_NS, tenant->flight_end_ns);
    uint64_t free_ns = world->gpu_end_ns;
    bool hand_over = world->gpu_user && world->gpu_user != tenant;
    if (world->gpu_user != tenant) {
        bool robbed = world->gpu_user && world->gpu_user->epoch && !world->gpu_user->handed_over;
        if (world->gpu_user && !robbed) start = most(start, world->gpu_end_ns);
        start += world->gpu_user ? SWITCH_NS : 0;
        world->gpu_user = tenant;
    }
    if (hand_over && start >= free_ns) {
        world->gaps_us[least((start - free_ns) / US, 999)]++;
        world->hand_overs++;
    }
    tenant->flight_end_ns = world->gpu_end_ns = start + kernel;
    tenant->started = true;
    tenant->done_ns += kernel;
    if (!tenant->work_ns) return;
    tenant->backlog_ns -= kernel;
}

/* The program has nothing to submit: its watcher gives the turn up if somebody waits. */
static inline void rest(struct world *world, struct tenant *tenant) {
    if (world->now >= tenant->flight_end_ns && tenant->step_from_ns) {
        uint64_t took = tenant->flight_end_ns - tenant->step_from_ns;
        tenant->slow_steps += took > tenant->work_ns + 2 * MS;
        tenant->steps_done++;
        tenant->step_from_ns = 0;
    }
    bool drained = world->now >= tenant->flight_end_ns + VGPU_GATE_PAUSE_NS;
    if (drained && (vgpu_turn_is_wanted(&tenant->place) || world->now >= tenant->due_ns)) {
        leave(world, tenant, tenant->flight_end_ns);
        tenant->state = IDLE;
        return sleep_until(world, tenant, tenant->due_ns, false);
    }
    uint64_t look = drained ? tenant->due_ns : tenant->flight_end_ns + VGPU_GATE_PAUSE_NS;
    if (tenant->step_from_ns) look = tenant->flight_end_ns;
    sleep_until(world, tenant, look, true);
}

static inline void run(struct world *world, struct tenant *tenant) {
    if (tenant->work_ns && world->now >= tenant->due_ns) {
        tenant->backlog_ns += tenant->work_ns;
        tenant->due_ns += tenant->every_ns;
        tenant->steps_due++;
        if (!tenant->step_from_ns) tenant->step_from_ns = world->now;
    }
    if (tenant->work_ns && tenant->backlog_ns == 0) return rest(world, tenant);
    uint64_t end =
        vgpu_turn_end_ns(&tenant->place, tenant->epoch, VGPU_TURN_QUANTUM_NS, world->now);
    if (end && end != NEVER) vgpu_turn_expect(&tenant->place, end);
    end = least(end, tenant->slice.end_ns);
    uint64_t start = most(world->now, tenant->flight_end_ns);
    uint64_t kernel =
        tenant->work_ns ? least(tenant->kernel_ns, tenant->backlog_ns) : tenant->kernel_ns;
    if ((tenant->started || end == 0) && start + kernel / 2 > end) {
        tenant->state = DRAINING;
        return sleep_until(world, tenant, most(tenant->flight_end_ns, HAND_OVER_NS) - HAND_OVER_NS,
                           false);
    }
    bool shared = tenant->company || vgpu_turn_is_wanted(&tenant->place);
    uint64_t window = shared ? WINDOW_NS : 2 * MS;
    if (start - world->now > window) return sleep_until(world, tenant, start - window, true);
    submit(world, tenant);
    tenant->wake_ns = world->now + LAUNCH_NS;
}

static inline void drain(struct world *world, struct tenant *tenant) {
    if (world->now < tenant->flight_end_ns) {
        vgpu_turn_expect(&tenant->place, tenant->flight_end_ns - HAND_OVER_NS);
        /* The last stretch is polled. */
        bool near = world->now + HAND_OVER_NS >= tenant->flight_end_ns;
        if (near && !tenant->handed_over && has_turn(tenant) &&
            vgpu_turn_passes(&tenant->place, tenant->epoch, world->now)) {
            tenant->before_ns = vgpu_turn_drained_ns(&tenant->place);
            vgpu_turn_release(&tenant->place, tenant->epoch, false, world->now);
            tenant->handed_over = true;
            ring(world);
        }
        tenant->wake_ns = tenant->flight_end_ns + draw(world, 15 * US);
        tenant->wakes += HAND_OVER_NS / (24 * US);
        return;
    }
    leave(world, tenant, tenant->flight_end_ns);
    tenant->request_ns = world->now;
    tenant->state = ASKING;
    tenant->wake_ns = world->now;
}

static inline void step(struct world *world, struct tenant *tenant) {
    tenant->wakes += tenant->state == ASKING || tenant->state == DRAINING;
    switch (tenant->state) {
    case IDLE:
        tenant->state = ASKING;
        tenant->request_ns = world->now;
        if (!tenant->step_from_ns) tenant->step_from_ns = tenant->due_ns;
        break;
    case ASKING:
        ask(world, tenant);
        break;
    case RUNNING:
        run(world, tenant);
        break;
    case DRAINING:
        drain(world, tenant);
        break;
    case DEAD:
        tenant->wake_ns = NEVER;
        break;
    }
}

/* Lets the world run until `end`. `watch` is called after each step (NULL: nobody). */
static inline void run_world(struct world *world, uint64_t end, void (*watch)(struct world *)) {
    for (;;) {
        struct tenant *next = NULL;
        uint64_t first = NEVER;
        for (int i = 0; i < world->tenants; i++) {
            struct tenant *tenant = &world->tenant[i];
            if (tenant->state == DEAD) continue;
            uint64_t wake = most(tenant->wake_ns, tenant->stopped_until);
            if (wake < first) first = wake, next = tenant;
        }
        if (!next || first >= end) break;
        world->now = most(world->now, first);
        step(world, next);
        if (watch) watch(world);
    }
    world->now = end;
}

#endif
