/* Kills, stops, stalls and late wake-ups, thousands of them, in virtual time: the turn is never
 * held twice, nobody waits for ever, and only who does not answer is robbed. Then, in real time,
 * threads over two mappings of one board. Sources: shim/gate.c shim/turn.c. */
#define _GNU_SOURCE
#include "turn_world.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOUND (1200 * MS) /* four tenants, each robbed after 250 ms, and their quanta */

static int failures;
static unsigned long kills, stops, stalls, strikes;
static uint32_t next_pid = 1000;

static void check(bool good, const char *name, double got, double wanted) {
    printf("%s %s (got %.0f, wanted %.0f)\n", good ? "ok" : "not ok", name, got, wanted);
    failures += !good;
}

static void die(struct world *world, struct tenant *tenant) {
    tenant->state = DEAD;
    tenant->wake_ns = NEVER;
    if (world->gpu_user == tenant) world->gpu_end_ns = world->now; /* its work goes with it */
    kills++;
}

/* Now and then a tenant dies with the turn just taken, before or after it could say so. */
static bool strike(struct world *world, struct tenant *tenant) {
    if (draw(world, 40)) return false;
    struct vgpu_seat *seat = &world->board.seats[tenant->place.seat];
    if (draw(world, 2)) seat->holder = 0; /* as it was before the grant */
    die(world, tenant);
    strikes++;
    return true;
}

/* One of them is killed, stopped, given an endless kernel or made anew. */
static void disturb(struct world *world) {
    struct tenant *tenant = &world->tenant[draw(world, (uint64_t)world->tenants)];
    if (tenant->state == DEAD) {
        tenant->device.gate_word &= ~UINT64_C(1); /* a session of its own, with a gate of its own */
        seat_down(world, tenant, next_pid++);
        return;
    }
    switch (draw(world, 4)) {
    case 0:
        die(world, tenant);
        break;
    case 1:
        tenant->stopped_until = world->now + draw(world, 400 * MS);
        stops++;
        break;
    case 2:
        tenant->endless_ns = 100 * MS + draw(world, 600 * MS);
        stalls++;
        break;
    default:
        tenant->wake_ns += draw(world, 5 * MS);
        break; /* the machine is busy */
    }
}

static uint64_t longest_wait(struct world *world) {
    uint64_t longest = 0;
    for (int i = 0; i < world->tenants; i++) {
        const struct tenant *tenant = &world->tenant[i];
        bool waits = tenant->state == ASKING && tenant->ready_ns && tenant->stopped_until == 0;
        if (waits) longest = most(longest, world->now - tenant->ready_ns);
    }
    return longest;
}

/* Sessions whose slices were neither robbed nor killed never ran at the same time: `overlaps`. */
static void test_disasters(void) {
    unsigned long overlaps = 0, thefts = 0, unfair = 0;
    uint64_t longest = 0, grants = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct world *world = new_world(seed);
        int tenants = 2 + (int)draw(world, 3);
        const uint64_t kernels[] = {20, 200, 3000, 50000};
        for (int i = 0; i < tenants; i++)
            add_tenant(world, 100.0 / tenants, kernels[draw(world, 4)] * US);
        world->strike = strike;
        world->late_ns = 20 * US + draw(world, 400 * US);
        for (int round = 0; round < 100; round++) {
            uint64_t until = world->now + draw(world, 150 * MS);
            while (world->now < until) {
                run_world(world, least(until, world->now + 10 * MS), NULL);
                longest = most(longest, longest_wait(world));
            }
            disturb(world);
        }
        overlaps += world->overlaps;
        thefts += world->thefts;
        unfair += world->unfair_thefts;
        for (int i = 0; i < tenants; i++) grants += world->board.seats[i].turns;
        free(world);
    }
    printf("# %lu kills (%lu with a turn just taken), %lu stops, %lu endless kernels, %lu thefts, "
           "%lu turns\n",
           kills, strikes, stops, stalls, thefts, (unsigned long)grants);
    check(kills + stops + stalls >= 1000, "kills, stops and stalls",
          (double)(kills + stops + stalls), 1000);
    check(overlaps == 0, "slices of sessions in turn that overlapped", (double)overlaps, 0);
    check(unfair == 0, "turns taken from somebody who answers", (double)unfair, 0);
    check(longest <= BOUND, "longest wait of a live session whose schedule allows a slice, ms",
          (double)longest / 1e6, (double)BOUND / 1e6);
}

/* From the holder's end to the next one's turn. */
static uint64_t recovery(int disaster, uint64_t kernel_ns) {
    uint64_t worst = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct world *world = new_world(seed);
        struct tenant *victim = add_tenant(world, 50, kernel_ns);
        struct tenant *other = add_tenant(world, 50, kernel_ns);
        run_world(world, START + 300 * MS + draw(world, 50 * MS), NULL);
        while (!has_turn(victim) || other->state != ASKING || !other->ready_ns) {
            run_world(world, world->now + 100 * US, NULL);
            if (world->now > START + 10 * SECOND) return NEVER; /* they do not alternate */
        }
        uint64_t from = world->now, turns = world->board.seats[1].turns;
        if (disaster == 0) die(world, victim);
        if (disaster == 1) victim->stopped_until = NEVER - SECOND;
        if (disaster == 2) victim->endless_ns = 10 * SECOND;
        while (world->board.seats[1].turns == turns && world->now < from + SECOND)
            run_world(world, world->now + 100 * US, NULL);
        worst = most(worst, world->now - from);
        free(world);
    }
    return worst;
}

static void test_recovery(void) {
    uint64_t killed = recovery(0, 500 * US), stopped = recovery(1, 500 * US);
    uint64_t endless = recovery(2, 500 * US);
    check(killed <= 12 * MS, "the holder dies: the next has the turn after ms",
          (double)killed / 1e6, 12);
    check(stopped <= 100 * MS, "the holder is stopped", (double)stopped / 1e6, 100);
    check(endless <= 300 * MS, "the holder's kernel does not end", (double)endless / 1e6, 300);
    struct world *world = new_world(3);
    add_tenant(world, 50, 50 * MS);
    add_tenant(world, 50, 50 * MS);
    run_world(world, START + 60 * SECOND, NULL);
    check(world->thefts == 0, "kernels of 50 ms are never robbed", (double)world->thefts, 0);
    free(world);
}

/* A word that a session of long ago has left behind, and whoever comes gets its seat. */
static void test_left_behind(void) {
    uint64_t worst = 0, stolen = 0;
    for (uint64_t age = 1; age < 10000;
         age += age < 100 ? 7 : 97) { /* s; a word's time wraps at 6872 */
        struct world *world = new_world(age);
        add_tenant(world, 50, MS);
        uint64_t ticks = (world->now - age * SECOND) / 100;
        world->board.turn.turn_word = ticks << 28 | UINT64_C(4711) << 8 | 1;
        while (world->board.seats[0].turns == 0 && world->now < START + SECOND)
            run_world(world, world->now + 100 * US, NULL);
        worst = most(worst, world->now - START);
        stolen += world->board.seats[0].stolen;
        free(world);
    }
    check(stolen == 0, "… which is no theft from who has the seat now", (double)stolen, 0);
    check(worst <= 20 * MS, "a turn left behind by the dead of hours ago: taken after ms",
          (double)worst / 1e6, 20);
}

/* ---- real threads ------------------------------------------------------------------------------
 */

#define ROUNDS 20000
#define LEAST (ROUNDS / 50)    /* of each thread */
#define STARVED (ROUNDS * 500) /* in so many turns of others even a busy machine runs everybody */
static struct vgpu_board *mapping[2];
static uint32_t inside, twice;
static uint64_t taken;

static uint64_t real_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t fewest(void) {
    uint64_t turns = NEVER;
    for (int i = 0; i < 4; i++)
        turns = least(turns, vgpu_load_relaxed(&mapping[0]->seats[i].turns));
    return turns;
}

/* Counted in turns, not in time: which of four threads a busy machine runs is not ours to judge,
 * but whoever runs, and asks, must not be passed over for ever while the others go on. */
static bool goes_on(void) {
    uint64_t all = vgpu_load_relaxed(&taken);
    return all < ROUNDS || (fewest() < LEAST && all < STARVED);
}

static pthread_barrier_t all_here;
static void *take_turns(void *argument) {
    uint32_t index = (uint32_t)(uintptr_t)argument;
    const struct vgpu_place_on_board place = {.board = mapping[index & 1], .seat = index};
    const struct vgpu_turn_claim claim = {index + 1, 1, false};
    pthread_barrier_wait(&all_here);
    while (goes_on()) {
        uint64_t until;
        bool call;
        uint32_t epoch = vgpu_turn_ask(&place, &claim, real_ns(), &until, &call);
        if (!epoch) {
            sched_yield();
            continue;
        }
        if (vgpu_add_seq_cst(&inside, 1U) != 0) vgpu_add_seq_cst(&twice, 1U);
        vgpu_add_relaxed(&taken, UINT64_C(1));
        uint64_t end = vgpu_turn_end_ns(&place, epoch, VGPU_TURN_QUANTUM_NS, real_ns());
        if (end == 0) vgpu_add_seq_cst(&twice, 1U); /* nobody robs here */
        vgpu_turn_settle(&place, vgpu_turn_drained_ns(&place), real_ns() - 1000, real_ns(), false);
        vgpu_sub_seq_cst(&inside, 1U);
        vgpu_turn_release(&place, epoch, true, real_ns());
    }
    return NULL;
}

static void test_threads(void) {
    int fd = memfd_create("board", 0);
    if (fd < 0 || ftruncate(fd, sizeof(struct vgpu_board)) != 0) abort();
    for (int i = 0; i < 2; i++)
        mapping[i] =
            mmap(NULL, sizeof(struct vgpu_board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    mapping[0]->header.seats_used = 4;
    for (uint32_t i = 0; i < 4; i++) {
        mapping[0]->seats[i].owner = (uint64_t)(i + 1) << 32 | VGPU_SLOT_LIVE;
        mapping[0]->seats[i].share_ppm = 250000;
    }
    pthread_barrier_init(&all_here, NULL, 4);
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++) pthread_create(&threads[i], NULL, take_turns, (void *)i);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    check(twice == 0, "four threads over two mappings: turns held twice", twice, 0);
    printf("# %lu turns\n", (unsigned long)taken);
    check(fewest() >= LEAST, "each had turns, at least", (double)fewest(), LEAST);
}

int main(void) {
    test_disasters();
    test_recovery();
    test_left_behind();
    test_threads();
    return failures != 0;
}
