/* The event ring: nothing torn, nothing silently lost, nobody waits. Source: shim/ring.c. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../shim/atomics.h"
#include "../../shim/ring.h"

static int failures;

static void check(bool good, const char *name, unsigned long got) {
    printf("%s %s (%lu)\n", good ? "ok" : "not ok", name, got);
    failures += !good;
}

static struct vgpu_region *fresh(void) {
    struct vgpu_region *region =
        mmap(NULL, sizeof *region, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) abort();
    return region;
}

/* Every field of an event follows from its first value, so that a torn record is seen. */
static void write_one(struct vgpu_region *region, uint32_t pid, uint64_t number) {
    char api[40];
    snprintf(api, sizeof api, "call%lu", (unsigned long)number);
    const struct vgpu_event event = {.kind = VGPU_EVENT_MEMORY_DENIED,
                                     .device = 3,
                                     .api = api,
                                     .value = {number, number * 3, number ^ pid, ~number, pid}};
    vgpu_ring_publish(region, "/nonexistent/region", pid, "writer", &event);
}

/* What a reader accepts. */
static bool told(const struct vgpu_record *record, uint64_t turn) {
    return record->turn == turn && record->check == vgpu_ring_check(record, turn);
}

static bool whole(const struct vgpu_record *record) {
    char api[40];
    uint64_t number = record->value[0];
    snprintf(api, sizeof api, "call%lu", (unsigned long)number);
    return record->value[1] == number * 3 && record->value[2] == (number ^ record->pid) &&
           record->value[3] == ~number && record->value[4] == record->pid &&
           strcmp(api, record->api) == 0;
}

static void test_in_order(void) {
    struct vgpu_region *region = fresh();
    for (uint64_t i = 0; i < 100; i++) write_one(region, 7, i);
    unsigned long good = 0;
    for (uint64_t i = 0; i < 100; i++) {
        const struct vgpu_record *record = &region->ring[i];
        good += told(record, 2) && record->value[0] == i && whole(record);
    }
    check(good == 100, "100 events of one writer lie in order, whole", good);
    check(region->header.ring_lost == 0, "none is counted lost", region->header.ring_lost);
    munmap(region, sizeof *region);
}

static void test_writers(void) {
    struct vgpu_region *region = fresh();
    enum { WRITERS = 4, EACH = 20000 };
    for (uint32_t w = 0; w < WRITERS; w++)
        if (fork() == 0) {
            for (uint64_t i = 0; i < EACH; i++) write_one(region, w + 1, i);
            _exit(0);
        }
    while (wait(NULL) > 0) {
    }
    unsigned long torn = 0, published = 0;
    for (size_t i = 0; i < VGPU_RING_RECORDS; i++) {
        const struct vgpu_record *record = &region->ring[i];
        published += record->turn % 2 == 0;
        torn += told(record, record->turn) && !whole(record);
    }
    check(region->header.ring_head == WRITERS * EACH, "4 processes: every event claimed an index",
          region->header.ring_head);
    check(published == VGPU_RING_RECORDS && torn == 0, "none is unfinished, or torn and told",
          torn);
    munmap(region, sizeof *region);
}

/* A writer killed in the middle leaves an odd turn; the next lap takes the record over. */
static void test_dead_writer(void) {
    struct vgpu_region *region = fresh();
    region->ring[5].turn = 1;
    region->header.ring_head = VGPU_RING_RECORDS + 5;
    write_one(region, 9, 42);
    check(region->ring[5].turn == 4 && whole(&region->ring[5]),
          "a dead writer's record is taken over", region->ring[5].turn);
    /* And one that is held in this very lap is not waited for: counted, not blocked. */
    region->ring[6].turn = 5;
    region->header.ring_head = VGPU_RING_RECORDS + 6;
    write_one(region, 9, 43);
    check(region->header.ring_lost == 1, "an event that found its record held is counted lost",
          region->header.ring_lost);
    munmap(region, sizeof *region);
}

/* A writer that was stopped while it wrote goes on when the next lap has published: whichever words
 * it still writes, all of them too, nobody takes the record for one or the other event. */
static void test_stopped_writer(void) {
    struct vgpu_region *region = fresh();
    write_one(region, 9, 1);
    struct vgpu_record *record = &region->ring[0], old = *record;
    region->header.ring_head = VGPU_RING_RECORDS;
    write_one(region, 9, 2);
    const struct vgpu_record new = *record;
    check(told(record, 4) && whole(record), "the next lap's event is told", record->turn);
    unsigned long believed = 0;
    enum { WORDS = sizeof old / sizeof(uint64_t) };
    for (size_t from = 1; from < WORDS; from++)
        for (size_t to = from + 1; to <= WORDS; to++) {
            *record = new;
            memcpy((uint64_t *)record + from, (uint64_t *)&old + from,
                   (to - from) * sizeof(uint64_t));
            if (memcmp(record, &new, sizeof new) != 0) believed += told(record, 4);
        }
    check(believed == 0, "with words of the last lap's it is not", believed);
    munmap(region, sizeof *region);
}

static void test_kills(void) {
    struct vgpu_region *region = fresh();
    for (int round = 0; round < 60; round++) {
        pid_t child = fork();
        if (child == 0)
            for (uint64_t i = 0;; i++) write_one(region, 11, i);
        usleep(300);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    uint64_t lost = region->header.ring_lost;
    for (uint64_t i = 0; i < VGPU_RING_RECORDS; i++) write_one(region, 12, i);
    unsigned long good = 0;
    for (size_t i = 0; i < VGPU_RING_RECORDS; i++) good += whole(&region->ring[i]);
    check(good == VGPU_RING_RECORDS && region->header.ring_lost == lost,
          "after 60 writers killed at random moments a whole lap is written", good);
    munmap(region, sizeof *region);
}

int main(void) {
    test_in_order();
    test_writers();
    test_dead_writer();
    test_stopped_writer();
    test_kills();
    return failures != 0;
}
