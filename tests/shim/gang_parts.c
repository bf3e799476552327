/* The parts of a gang's slice, and who leads it. Source: shim/gang.c. */
#include "../../shim/gang.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 20000U
#define MEMBERS 4U

static int failures;
static void check(bool good, const char *name) {
    printf("%s %s\n", good ? "ok" : "not ok", name);
    failures += !good;
}

static struct vgpu_region *region;

static void test_members(void) {
    static const uint8_t first_byte[] = {9, 3, 7, 5};
    uint32_t order[VGPU_MAX_DEVICES];
    for (uint32_t i = 0; i < MEMBERS; i++) {
        region->devices[i].uuid[0] = first_byte[i];
        region->devices[i].share_ppm = 900000 - 100000 * i;
    }
    check(vgpu_gang_members(region, 2) == 4, "without a gang a device is on its own");
    bool new = vgpu_gang_enter(region, 0) && vgpu_gang_enter(region, 3);
    check(new && !vgpu_gang_enter(region, 3), "a device joins once");
    check(vgpu_gang_members(region, 0) == 9 && vgpu_gang_members(region, 3) == 9 &&
              vgpu_gang_members(region, 2) == 4,
          "members know each other, others do not");
    vgpu_gang_enter(region, 1);
    vgpu_gang_enter(region, 2);
    uint32_t count = vgpu_gang_order(region, 15, order);
    check(count == 4 && order[0] == 1 && order[1] == 3 && order[2] == 2 && order[3] == 0,
          "in the order of their UUIDs");
    check(vgpu_gang_share(region, 15) == 600000, "the least share is the gang's");
}

static void test_parts(void) {
    struct vgpu_device *leader = &region->devices[1];
    check(vgpu_gang_is_opening(leader, 7), "nobody is in a slice that has just been opened");
    vgpu_gang_open(leader, 7, 0);
    check(!vgpu_gang_is_opening(leader, 7) && !vgpu_gang_join(leader, 7, 0, false),
          "a device has one part");
    check(!vgpu_gang_join(leader, 6, 1, false), "nobody joins another slice");
    check(!vgpu_gang_join(leader, 7, 1, true), "nor one that is over");
    check(vgpu_gang_join(leader, 7, 1, false), "a peer joins while it lasts");
    check(vgpu_gang_say_stuck(leader, 7, 0, true) && !vgpu_gang_say_stuck(leader, 7, 0, true),
          "being stuck is news once");
    check(vgpu_gang_peer_is_stuck(leader, 7, 1) && !vgpu_gang_peer_is_stuck(leader, 7, 0),
          "and the peers' business");
    check(vgpu_gang_join(leader, 7, 2, true), "who may join a slice that is over");
    check(!vgpu_gang_leave(leader, 7, 0) && !vgpu_gang_peer_is_stuck(leader, 7, 1),
          "who has drained is not stuck");
    check(!vgpu_gang_leave(leader, 7, 0) && !vgpu_gang_leave(leader, 6, 1),
          "nobody leaves twice, or another slice");
    check(!vgpu_gang_leave(leader, 7, 1) && vgpu_gang_leave(leader, 7, 2), "the last one is told");
    check(!vgpu_gang_join(leader, 7, 0, false), "and nobody joins after it");
}

static pthread_barrier_t barrier;
static unsigned last[ROUNDS];
static void *member(void *argument) {
    uint32_t device = (uint32_t)(uintptr_t)argument;
    struct vgpu_device *leader = &region->devices[1];
    for (uint32_t round = 0; round < ROUNDS; round++) {
        if (device == 0) vgpu_gang_open(leader, round + 1, 0);
        pthread_barrier_wait(&barrier);
        bool in = device == 0 || vgpu_gang_join(leader, round + 1, device, false);
        if (in && vgpu_gang_leave(leader, round + 1, device))
            __atomic_fetch_add(&last[round], 1, __ATOMIC_RELAXED);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void test_race(void) {
    pthread_t thread[MEMBERS];
    pthread_barrier_init(&barrier, NULL, MEMBERS);
    for (uint32_t i = 0; i < MEMBERS; i++)
        pthread_create(&thread[i], NULL, member, (void *)(uintptr_t)i);
    for (uint32_t i = 0; i < MEMBERS; i++) pthread_join(thread[i], NULL);
    bool once = true;
    for (uint32_t round = 0; round < ROUNDS; round++) once &= last[round] == 1;
    check(once, "of four that come and go together one is the last");
}

int main(void) {
    region = aligned_alloc(64, sizeof *region);
    if (!region) return 1;
    memset(region, 0, sizeof *region);
    test_members();
    test_parts();
    test_race();
    return failures != 0;
}
