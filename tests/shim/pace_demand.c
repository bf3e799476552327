/* A session with little to do beside one that always has work, in virtual time, where sleepers wake
 * late (a CPU that sleeps deeply takes 0.3 ms): the one is served in time, the other has its share.
 * Sources: shim/pace.c, shim/grant.c, shim/marks.c, shim/capture.c, shim/book.c, shim/gate.c,
 * shim/slice.c, shim/stall.c, shim/rota.c, shim/gang.c, shim/gang_turns.c, shim/turn.c,
 * shim/slot.c, shim/class.c. */
#include "pace_machine.h"

#include <unistd.h>

#define SECONDS 4
#define EVERY_NS (10 * MS)
#define WORK_NS MS

/* Two sessions of one process: GPU 0 is the first's name for the card, GPU 1 the second's. */
static struct vgpu_board *board;
static struct vgpu_region *regions[2];
static struct vgpu_session sessions[2];
static uint64_t end_of_test, count_from;
static uint64_t heavy_kernel_ns, heavy_ns;
static uint64_t latencies[8192];
static int steps;
static bool one_by_one; /* the light one waits for each kernel, not for each step */

static void launch_on(int stream, uint64_t took_ns) {
    launch_kind(stream, KERNEL, 0x1000 + (uintptr_t)stream, took_ns, 4 * US);
}

static void light(int gpu) {
    running->gpu = gpu;
    steps = 0;
    for (uint64_t due = machine_ns; due < end_of_test; due += EVERY_NS) {
        if (due > machine_ns) sleep_until(due + 30 * US, NULL);
        for (uint64_t work = 0; work < WORK_NS; work += 50 * US) {
            launch_on(1, 50 * US);
            if (one_by_one) synchronize(1);
        }
        synchronize(1);
        if (due >= count_from) latencies[steps++] = machine_ns - due;
    }
}

static void heavy(int gpu) {
    running->gpu = gpu;
    while (machine_ns < end_of_test) {
        uint64_t took = heavy_kernel_ns * 9 / 10 + random_below(heavy_kernel_ns / 5);
        launch_on(2, took);
        if (machine_ns >= count_from && machine_ns < end_of_test) heavy_ns += took;
        while (streams[2].end_ns > machine_ns + 8 * MS) spend(100 * US); /* its own queue is full */
    }
}

static void new_session(int which, uint32_t ppm) {
    struct vgpu_region *own = regions[which];
    memset(own, 0, sizeof *own);
    struct vgpu_header *header = &own->header;
    struct vgpu_slot *slot = &own->slots[0];
    uint64_t flags;
    char state;
    header->start_mono_ns = machine_ns - 1000 * MS;
    header->slots_used = 1;
    header->limits_version = 1;
    header->default_share_ppm = ppm;
    slot->owner = (uint64_t)getpid() << 32 | VGPU_SLOT_LIVE;
    vgpu_process_stat((uint32_t)getpid(), &slot->start_time, &state, &flags);
    own->devices[which].state = VGPU_DEVICE_READY;
    own->devices[which].share_ppm = ppm;
    sessions[which] = (struct vgpu_session){.region = own, .slot = slot, .pid = (uint32_t)getpid()};
    session_of[which] = &sessions[which];
    struct vgpu_seat *seat = &board->seats[which];
    seat->owner = (uint64_t)(which + 1) << 32 | VGPU_SLOT_LIVE;
    seat->share_ppm = ppm;
    place_of[which] =
        (struct vgpu_place_on_board){.board = board, .seat = (uint32_t)which, .owner = seat->owner};
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* A kernel, a short rest, and again: it takes and gives up the turn all the time. */
static void small(int gpu) {
    running->gpu = gpu;
    while (machine_ns < end_of_test) {
        launch_on(1, 30 * US);
        synchronize(1);
        sleep_until(machine_ns + 150 * US, NULL);
    }
}

static void begin(uint64_t kernel_ns, uint64_t late_ns, uint32_t light_ppm, uint32_t heavy_ppm) {
    begin_session(VGPU_WHOLE_GPU);
    memset(board, 0, sizeof *board);
    board->header.seats_used = 2;
    late_min_ns = 20 * US;
    late_max_ns = late_ns;
    end_of_test = machine_ns + SECONDS * 1000 * MS;
    count_from = machine_ns + 1000 * MS;
    heavy_kernel_ns = kernel_ns;
    heavy_ns = 0;
    new_session(0, light_ppm);
    new_session(1, heavy_ppm);
}

static double percent_of_heavy(void) {
    return 100.0 * (double)heavy_ns / (double)(end_of_test - count_from);
}

/* Percent of the card that the heavy one had; *p99_ms: of the light one's steps. */
static double beside(uint64_t kernel_ns, uint64_t late_ns, double *p99_ms) {
    begin(kernel_ns, late_ns, 250000, 750000);
    start(light, 0)->gpu = 0;
    start(heavy, 1)->gpu = 1;
    if (!run_threads(end_of_test + 2000 * MS)) return -1; /* somebody hangs */
    qsort(latencies, (size_t)steps, sizeof *latencies, by_size);
    *p99_ms = (double)latencies[steps * 99 / 100] / (double)MS;
    return percent_of_heavy();
}

/* The small one comes and goes within the end of the other's work, which has let it in before. */
static void test_beside_small(void) {
    for (int mps = 0; mps < 2; mps++) {
        under_mps = mps;
        for (uint32_t share = 30; share <= 60; share += 30) {
            char name[96];
            begin(share == 30 ? 200 * US : MS, 110 * US, 10 * 10000, share * 10000);
            start(small, 0)->gpu = 0;
            start(heavy, 1)->gpu = 1;
            bool ended = run_threads(end_of_test + 2000 * MS);
            double got = percent_of_heavy();
            snprintf(name, sizeof name, "%s: %u %% beside one that comes and goes",
                     mps ? "under MPS" : "without MPS", share);
            check(ended && got > share - 1.5 && got < share + 1.5, name, got);
        }
    }
    under_mps = false;
}

/* It has as little to do, and says nothing of its pauses. */
static unsigned frames, late_frames;
static void sleepy(int gpu) {
    running->gpu = gpu;
    for (frames = late_frames = 0; machine_ns < end_of_test; frames++) {
        uint64_t frame = machine_ns;
        launch_on(1, 400 * US);
        if (machine_ns > frame + MS) late_frames++;
        sleep_until(frame + 8 * MS, NULL);
    }
}

static void test_beside_sleepy(void) {
    begin(200 * US, 110 * US, 250000, 750000);
    start(sleepy, 0)->gpu = 0;
    start(heavy, 1)->gpu = 1;
    bool ended = run_threads(end_of_test + 2000 * MS);
    check(ended && percent_of_heavy() > 73.5,
          "75 % beside one that only sleeps between its kernels", percent_of_heavy());
    double charged = 100.0 * (double)regions[0]->devices[0].charged_ns / (SECONDS * 1e9);
    check(charged > 3.5 && charged < 7, "… which is charged, of 5 %", charged);
    check(frames > 300 && late_frames < frames / 50, "… and its launches that came late",
          late_frames);
}

/* What taking turns costs a CPU: each time a thread of the shim sleeps it must be woken, with cold
 * caches. */
static void always(int gpu) {
    running->gpu = gpu;
    while (machine_ns < end_of_test) launch_on(gpu + 1, heavy_kernel_ns);
}

static double wake_ups_a_turn(bool ended) {
    double turns = (double)(regions[0]->devices[0].slices + regions[1]->devices[1].slices);
    return ended && turns > 150 ? (double)sleeps / turns : 1e9;
}

/* It comes at any moment of the other's turn, which is over then. */
static void now_and_then(int gpu) {
    running->gpu = gpu;
    for (uint64_t due = machine_ns; due < end_of_test; due += EVERY_NS) {
        if (due > machine_ns) sleep_until(due + random_below(3 * MS), NULL);
        for (uint64_t work = 0; work < WORK_NS; work += 50 * US) launch_on(1, 50 * US);
        synchronize(1);
    }
}

static void test_wake_ups(void) {
    for (int us = 20; us <= 500; us += 480) {
        begin((uint64_t)us * US, 110 * US, 500000, 500000);
        sleeps = 0;
        for (int gpu = 0; gpu < 2; gpu++) start(always, gpu)->gpu = gpu;
        double got = wake_ups_a_turn(run_threads(end_of_test + 2000 * MS));
        char name[96];
        snprintf(name, sizeof name, "two with kernels of %d us: wake-ups a turn of 20 ms", us);
        check(got < (us == 20 ? 26 : 16), name, got);
    }
    begin(7 * MS, 110 * US, 250000, 750000);
    sleeps = 0;
    start(now_and_then, 0)->gpu = 0;
    start(always, 1)->gpu = 1;
    double got = wake_ups_a_turn(run_threads(end_of_test + 2000 * MS));
    check(got < 12, "kernels of 7 ms beside one that comes now and then: wake-ups a turn", got);
}

/* The host is busy: who sleeps is woken up to 1.6 ms late, each time. Whoever finds that out must
 * not go on sleeping until the GPU is nearly idle. */
static void test_late(void) {
    begin(200 * US, 1600 * US, 900000, 0);
    place_of[0].board = NULL;
    start(always, 0)->gpu = 0;
    bool ended = run_threads(end_of_test + 2000 * MS);
    double got = 100.0 * (double)busy_ns / (SECONDS * 1e9);
    check(ended && got > 90 && got < 91.5, "90 %, alone, woken up to 1.6 ms late", got);
}

int main(void) {
    board = aligned_alloc(64, sizeof *board);
    for (int i = 0; i < 2; i++) regions[i] = aligned_alloc(64, sizeof *regions[i]);
    for (int pattern = 0; pattern < 2; pattern++) {
        one_by_one = pattern;
        for (uint64_t late = 60 * US; late <= 380 * US; late += 320 * US)
            for (uint64_t us = 50; us <= 500; us *= 10) {
                char name[96];
                double p99_ms = 0, got = beside(us * US, late, &p99_ms);
                snprintf(name, sizeof name, "%s: kernels of %d us, woken up to %d us late",
                         one_by_one ? "each kernel waited for" : "each step waited for", (int)us,
                         (int)(late / US));
                check(got > 73 && got < 76, name, got);
                check(p99_ms > 0 && p99_ms < 3.1, "the light one's p99, ms of work 1", p99_ms);
            }
    }
    test_beside_small();
    test_beside_sleepy();
    test_wake_ups();
    test_late();
    return failures != 0;
}
