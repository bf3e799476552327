/* Two processes of a session as two sets of threads in one harness, so that ThreadSanitizer sees
 * both sides of the region: everything they do there at once, first through one mapping (any plain
 * access to a shared word is a report), then through one each (nothing in the region may hang on an
 * address). Sources: shim/ledger.c shim/slot.c shim/ring.c shim/gate.c. Argument: seconds for each
 * part. */
#define _GNU_SOURCE
#include "memory_check.h"

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "../../shim/gate.h"
#include "../../shim/ledger.h"
#include "../../shim/ring.h"
#include "../../shim/slot.h"
#include "../../shim/soft.h"

#define LIMIT (64 * MiB)
#define PATH "/nonexistent/region" /* no bell there */

struct side {
    struct vgpu_region *region;
    struct vgpu_slot *slot;
    uint32_t pid;
};

static bool stop, told_all;
static uint64_t granted, over;        /* ledger */
static uint64_t came, missing;        /* slots */
static uint64_t told, torn, unread;   /* ring */
static uint64_t opened, inside, both; /* gate */
static uint64_t pressed;              /* pressure */

/* --- ledger and pressure: reserve, correct, refund --- */

static void *holds(void *argument) {
    const struct side *side = argument;
    const struct vgpu_account account = {side->region, side->slot, 0, NULL};
    while (!vgpu_load_relaxed(&stop)) {
        uint64_t bytes = (random_below(20) + 2) * MiB;
        if (!vgpu_ledger_reserve(&account, bytes)) {
            vgpu_ledger_denied(&account);
            continue;
        }
        vgpu_soft_ring(side->region, PATH, 0);
        vgpu_ledger_allocated(&account);
        if (vgpu_add_seq_cst(&granted, bytes) + bytes > LIMIT) vgpu_add_relaxed(&over, UINT64_C(1));
        vgpu_sub_seq_cst(&granted, bytes);
        vgpu_ledger_adjust(&account, -(int64_t)MiB); /* the driver took less than was reserved */
        vgpu_ledger_refund(&account, bytes - MiB);
    }
    return NULL;
}

/* As the supervisor does it: the next threshold, drift, velocity; and what a program asks. */
static void *watches(void *argument) {
    const struct side *side = argument;
    struct vgpu_device *device = &side->region->devices[0];
    while (!vgpu_load_relaxed(&stop)) {
        if (vgpu_load_relaxed(&device->pressure_crossed)) {
            vgpu_add_relaxed(&pressed, UINT64_C(1));
            vgpu_store_seq_cst(&device->pressure_next_bytes, LIMIT / 100 * random_below(90) + 1);
            vgpu_store_seq_cst(&device->pressure_crossed, 0U);
            vgpu_store_seq_cst(&device->pressure, 70U | VGPU_PRESSURE_SOFT);
            vgpu_add_seq_cst(&device->pressure_changes, 1U);
        }
        vgpu_store_seq_cst(&side->slot->use[0].drift_bytes, (int64_t)0);
        vgpu_ledger_left(side->region, 0);
    }
    return NULL;
}

/* --- slots: processes that come, hold something, die and are reaped by whoever looks --- */

static void *comes(void *argument) {
    const struct side *side = argument;
    static char *const words[] = {"sleep", "100", NULL};
    while (!vgpu_load_relaxed(&stop)) {
        pid_t pid;
        if (posix_spawnp(&pid, "sleep", NULL, NULL, words, NULL)) abort();
        int index = vgpu_slot_claim(side->region, (uint32_t)pid, "sleep");
        if (index < 0) abort();
        const struct vgpu_account account = {side->region, &side->region->slots[index], 0, NULL};
        uint64_t owner = vgpu_load_acquire(&account.slot->owner);
        vgpu_ledger_reserve(&account, MiB);
        vgpu_slot_reap(side->region);
        bool kept = vgpu_load_acquire(&account.slot->owner) == owner;
        vgpu_add_relaxed(&missing, (uint64_t)!kept); /* it lives: nobody may take its slot */
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        vgpu_slot_reap(side->region);
        vgpu_add_relaxed(&came, UINT64_C(1));
    }
    return NULL;
}

/* --- ring --- */

static void *tells(void *argument) {
    const struct side *side = argument;
    for (uint64_t number = 0; !vgpu_load_relaxed(&stop); number++) {
        const struct vgpu_event event = {.kind = VGPU_EVENT_MEMORY_DENIED,
                                         .api = "call",
                                         .value = {number, number * 3, number ^ 77, ~number, 5}};
        vgpu_ring_publish(side->region, PATH, side->pid, "teller", &event);
    }
    return NULL;
}

/* Copies the record of this index if it is published and whole: 1; 0 not yet, -1 never. */
static int copy_record(const struct vgpu_region *region, uint64_t index, struct vgpu_record *out) {
    const uint64_t *words = (const uint64_t *)&region->ring[index % VGPU_RING_RECORDS];
    uint64_t published = 2 * (index / VGPU_RING_RECORDS) + 2, copy[sizeof *out / 8];
    uint64_t turn = vgpu_load_seq_cst(&words[0]);
    if (turn != published) return turn < published ? 0 : -1;
    for (size_t i = 1; i < sizeof *out / 8; i++) copy[i] = vgpu_load_acquire(&words[i]);
    memcpy(out, copy, sizeof *out);
    bool is_same = vgpu_load_seq_cst(&words[0]) == published;
    return is_same && out->check == vgpu_ring_check(out, published) ? 1 : -1;
}

/* The supervisor's side (src/ring.ts): once the writers have ended, what is unfinished stays so. */
static void *reads(void *argument) {
    const struct vgpu_region *region = ((const struct side *)argument)->region;
    for (uint64_t at = 0;;) {
        bool last = vgpu_load_acquire(&told_all);
        uint64_t head = vgpu_load_seq_cst(&region->header.ring_head);
        if (at == head) {
            if (last) return NULL;
            continue;
        }
        struct vgpu_record record;
        int got = head - at > VGPU_RING_RECORDS ? -1 : copy_record(region, at, &record);
        if (got == 0 && !last) continue;
        at++;
        unread += got < 1;
        told += got == 1;
        if (got < 1) continue;
        uint64_t number = record.value[0];
        torn += record.value[1] != number * 3 || record.value[2] != (number ^ 77) ||
                record.value[3] != ~number || strcmp(record.api, "call") != 0;
    }
}

/* --- gate --- */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static void *submits(void *argument) {
    const struct side *side = argument;
    const struct vgpu_gate gate = {.device = &side->region->devices[0],
                                   .start_ns = side->region->header.start_mono_ns};
    while (!vgpu_load_relaxed(&stop)) {
        struct vgpu_gate_slice slice;
        uint64_t now = now_ns();
        if (vgpu_gate_ask(gate, now, now, &slice) != VGPU_GATE_OPENED) continue;
        if (vgpu_add_seq_cst(&inside, UINT64_C(1)) != 0) vgpu_add_relaxed(&both, UINT64_C(1));
        if (!vgpu_gate_holds(gate, slice.epoch)) vgpu_add_relaxed(&both, UINT64_C(1));
        vgpu_add_relaxed(&opened, UINT64_C(1));
        vgpu_gate_begin_close(gate, slice.epoch);
        vgpu_sub_seq_cst(&inside, UINT64_C(1));
        vgpu_gate_close(gate, slice.epoch, slice.open_ns + random_below(2000));
        if (random_below(8) == 0) vgpu_gate_charge(gate, random_below(1000));
    }
    return NULL;
}

/* --- all at once --- */

static void part(const char *name, double seconds, bool twice) {
    struct vgpu_region *first = region_new(LIMIT), *second = first;
    if (twice) second = mremap(first, 0, sizeof *first, MREMAP_MAYMOVE);
    if (second == MAP_FAILED) abort();
    first->devices[0].share_ppm = 500000;
    first->devices[0].pressure_next_bytes = LIMIT / 2;
    struct side sides[2] = {{first, NULL, (uint32_t)getpid()}, {second, NULL, (uint32_t)getppid()}};
    for (int i = 0; i < 2; i++)
        sides[i].slot =
            &sides[i].region->slots[vgpu_slot_claim(sides[i].region, sides[i].pid, "side")];
    static void *(*const roles[])(void *) = {holds, holds, comes, tells, submits, submits};
    enum { ROLES = sizeof roles / sizeof *roles };
    pthread_t threads[2 * ROLES + 2];
    stop = told_all = false;
    granted = over = came = missing = told = torn = unread = opened = inside = both = pressed = 0;
    for (int i = 0; i < 2 * ROLES; i++)
        pthread_create(&threads[i], NULL, roles[i / 2], &sides[i % 2]);
    pthread_create(&threads[2 * ROLES], NULL, watches, &sides[1]);
    pthread_create(&threads[2 * ROLES + 1], NULL, reads, &sides[1]);
    usleep((useconds_t)(seconds * 1e6));
    vgpu_store_seq_cst(&stop, true);
    for (int i = 0; i < 2 * ROLES + 1; i++) pthread_join(threads[i], NULL);
    vgpu_store_seq_cst(&told_all, true);
    pthread_join(threads[2 * ROLES + 1], NULL);
    vgpu_slot_reap(first);

    printf("# %s: %llu slots, %llu events read, %llu slices, %llu pressures\n", name,
           (unsigned long long)came, (unsigned long long)told, (unsigned long long)opened,
           (unsigned long long)pressed);
    equal(over, 0, "never over the limit");
    equal(vgpu_ledger_used(second, 0), 0, "and nothing left behind");
    equal(missing, 0, "nobody living loses its slot");
    uint64_t live = 0;
    for (int i = 0; i < VGPU_MAX_SLOTS; i++)
        live += vgpu_slot_state(first->slots[i].owner) != VGPU_SLOT_FREE;
    equal(live, 2, "the dead keep none");
    equal(torn, 0, "no event is torn");
    equal(told + unread, first->header.ring_head, "each is read or counted");
    check(first->header.ring_lost <= unread, "a lost one is not read", first->header.ring_lost,
          unread);
    equal(both, 0, "one holder of a slice");
    equal(first->devices[0].slices, opened, "each slice is closed once");
    check(came && told && opened && pressed, "all of it happened", 0, 1);
    munmap(first, sizeof *first);
    if (twice) munmap(second, sizeof *second);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    part("one mapping", seconds, false);
    part("one each", seconds, true);
    return failures != 0;
}
