/* The ledger alone. Sources: shim/ledger.c shim/slot.c. */
#include "memory_check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../../shim/ledger.h"
#include "../../shim/slot.h"

static struct vgpu_account account_of(struct vgpu_region *region, uint32_t pid) {
    int slot = vgpu_slot_claim(region, pid, "test");
    if (slot < 0) abort();
    return (struct vgpu_account){region, &region->slots[slot], 0, NULL};
}

static void limits(void) {
    struct vgpu_region *region = region_new(4 * GiB);
    equal(vgpu_ledger_limit(region, 0), 4 * GiB, "limit as set");
    region->devices[0].total_bytes = 3 * GiB;
    equal(vgpu_ledger_limit(region, 0), 3 * GiB, "a limit above the card is the card");
    region->devices[0].mem_limit = VGPU_NO_LIMIT;
    equal(vgpu_ledger_limit(region, 0), VGPU_NO_LIMIT, "no limit stays none");
    struct vgpu_account me = account_of(region, (uint32_t)getpid());
    check(vgpu_ledger_reserve(&me, 100 * GiB), "unlimited: anything is charged", 0, 0);
    equal(vgpu_ledger_used(region, 0), 100 * GiB, "unlimited: and accounted");
    equal(vgpu_ledger_left(region, 0), VGPU_NO_LIMIT, "unlimited: left");
    equal(region->devices[0].peak_bytes, 100 * GiB, "unlimited: peak");
}

static void exact(void) {
    struct vgpu_region *region = region_new(100 * MiB);
    struct vgpu_account me = account_of(region, (uint32_t)getpid());
    check(vgpu_ledger_reserve(&me, 60 * MiB), "60 of 100 fit", 0, 0);
    check(!vgpu_ledger_reserve(&me, 40 * MiB + 1), "one byte too many does not", 0, 0);
    equal(vgpu_ledger_used(region, 0), 60 * MiB, "a refusal leaves no trace");
    check(vgpu_ledger_reserve(&me, 40 * MiB), "the last byte fits", 0, 0);
    check(!vgpu_ledger_reserve(&me, 1), "full", 0, 0);
    equal(vgpu_ledger_left(region, 0), 0, "nothing left");
    check(!vgpu_ledger_reserve(&me, UINT64_MAX), "absurd size refused", 0, 0);
    vgpu_ledger_refund(&me, 30 * MiB);
    equal(vgpu_ledger_left(region, 0), 30 * MiB, "refund");
    equal(region->devices[0].peak_bytes, 100 * MiB, "peak stays");

    region->devices[0].mem_limit = 50 * MiB;
    equal(vgpu_ledger_left(region, 0), 0, "limit lowered below use: nothing left, no underflow");
    check(!vgpu_ledger_reserve(&me, 1), "limit lowered below use: refused", 0, 0);
    vgpu_ledger_refund(&me, 40 * MiB);
    check(vgpu_ledger_reserve(&me, 20 * MiB), "and granted once below it again", 0, 0);

    vgpu_ledger_refund(&me, 500 * MiB);
    equal(vgpu_ledger_used(region, 0), 0, "a refund too many is not 16 EiB");
}

static void drift(void) {
    struct vgpu_region *region = region_new(100 * MiB);
    struct vgpu_account me = account_of(region, (uint32_t)getpid());
    vgpu_ledger_reserve(&me, 50 * MiB);
    me.slot->use[0].drift_bytes = 20 * (int64_t)MiB;
    equal(vgpu_ledger_used(region, 0), 70 * MiB, "drift is charged");
    check(!vgpu_ledger_reserve(&me, 31 * MiB), "and refuses", 0, 0);
    me.slot->use[0].drift_bytes = -60 * (int64_t)MiB;
    equal(vgpu_ledger_used(region, 0), 0, "drift never makes it negative");
    vgpu_ledger_denied(&me);
    equal(me.slot->use[0].denials + region->devices[0].denials, 2,
          "a denial is counted twice over");
}

/* HAMi-core 3.8: a process whose name holds "Z)" was taken for a zombie. */
static void names_and_pids(void) {
    struct vgpu_region *region = region_new(100 * MiB);
    int ready[2];
    if (pipe(ready)) abort();
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_NAME, "a Zoo) Z");
        struct vgpu_account account = account_of(region, (uint32_t)getpid());
        vgpu_ledger_reserve(&account, 60 * MiB);
        if (write(ready[1], "", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char byte;
    if (read(ready[0], &byte, 1) != 1) abort();
    equal((uint64_t)vgpu_slot_reap(region), 0, "\"a Zoo) Z\" is alive");
    equal(vgpu_ledger_used(region, 0), 60 * MiB, "and keeps its bytes");

    struct vgpu_account reused = account_of(region, (uint32_t)getpid());
    vgpu_ledger_reserve(&reused, 20 * MiB);
    reused.slot->start_time -= 1; /* as if another process had had our pid */
    equal((uint64_t)vgpu_slot_reap(region), 1, "a reused pid does not keep the dead one's bytes");
    equal(vgpu_ledger_used(region, 0), 60 * MiB, "only its own are gone");

    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    equal((uint64_t)vgpu_slot_reap(region), 1, "killed: reaped");
    equal(vgpu_ledger_used(region, 0), 0, "killed: its bytes are back");
}

static void *lingers(void *unused) {
    for (;;) pause();
    return unused;
}

/* The first thread ends, another stays: the process holds what it holds. */
static void leaders(void) {
    struct vgpu_region *region = region_new(100 * MiB);
    pid_t child = fork();
    if (child == 0) {
        struct vgpu_account account = account_of(region, (uint32_t)getpid());
        pthread_t thread;
        vgpu_ledger_reserve(&account, 60 * MiB);
        pthread_create(&thread, NULL, lingers, NULL);
        pthread_exit(NULL);
    }
    uint64_t start_time, flags;
    char state = '?';
    for (double end = now_s() + 10; now_s() < end && state != 'Z'; usleep(1000))
        vgpu_process_stat((uint32_t)child, &start_time, &state, &flags);
    equal((uint64_t)state, 'Z', "a leader that has ended");
    equal((uint64_t)vgpu_slot_reap(region), 0, "does not take the process with it");
    equal(vgpu_ledger_used(region, 0), 60 * MiB, "nor its bytes");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    equal((uint64_t)vgpu_slot_reap(region), 1, "the last thread does");
}

/* A session inside another one: what is charged counts in both. */
static void nested(void) {
    struct vgpu_region *outer = region_new(100 * MiB), *inner = region_new(60 * MiB);
    struct vgpu_account around = account_of(outer, (uint32_t)getpid());
    struct vgpu_account me = account_of(inner, (uint32_t)getpid());
    struct vgpu_account neighbour = account_of(outer, (uint32_t)getppid());
    me.outer = &around;
    equal(vgpu_account_limit(&me), 60 * MiB, "nested: the least limit");
    check(vgpu_ledger_reserve(&me, 50 * MiB), "nested: fits in both", 0, 0);
    equal(vgpu_ledger_used(inner, 0), 50 * MiB, "nested: charged inside");
    equal(vgpu_ledger_used(outer, 0), 50 * MiB, "nested: and outside");
    equal(vgpu_account_left(&me), 10 * MiB, "nested: the least left");
    check(!vgpu_ledger_reserve(&me, 20 * MiB), "nested: too much inside", 0, 0);
    check(vgpu_ledger_refusal().where == &me, "nested: refused inside", 0, 0);
    check(vgpu_ledger_reserve(&neighbour, 45 * MiB), "nested: a neighbour outside", 0, 0);
    check(!vgpu_ledger_reserve(&me, 10 * MiB), "nested: too much outside", 0, 0);
    check(vgpu_ledger_refusal().where == &around, "nested: refused outside", 0, 0);
    equal(vgpu_ledger_refusal().used, 95 * MiB, "nested: by what is used there");
    equal(vgpu_ledger_used(inner, 0), 50 * MiB, "nested: no trace inside");
    equal(inner->devices[0].peak_bytes, 50 * MiB, "nested: nor in the peak");
    equal(vgpu_account_left(&me), 5 * MiB, "nested: left is the outer's");
    check(vgpu_account_tightest(&me).where == &around, "nested: the tightest", 0, 0);
    check(vgpu_account_fits(&me), "nested: all fits", 0, 0);
    outer->devices[0].mem_limit = 90 * MiB;
    check(!vgpu_account_fits(&me), "nested: the outer limit was lowered", 0, 0);
    vgpu_ledger_refund(&me, 50 * MiB);
    equal(vgpu_ledger_used(inner, 0), 0, "nested: given back inside");
    equal(vgpu_ledger_used(outer, 0), 45 * MiB, "nested: and outside");
    vgpu_ledger_managed(&me, 7);
    equal(me.slot->use[0].managed_bytes + around.slot->use[0].managed_bytes, 14,
          "nested: managed memory is known in both");
    vgpu_ledger_denied(&me);
    equal(inner->devices[0].denials, 1, "nested: a denial is counted inside");
    equal(outer->devices[0].denials, 0, "nested: and not outside");
}

int main(void) {
    nested();
    limits();
    exact();
    drift();
    names_and_pids();
    leaders();
    return failures != 0;
}
