/* The gate in virtual time: no driver, no clock, no waiting. Sources: shim/gate.c. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/atomics.h"
#include "../../shim/gate.h"

#define MS UINT64_C(1000000)
#define US UINT64_C(1000)
#define START (UINT64_C(77) * 1000000000U)

static int failures;

static void check(bool good, const char *name, double got, double wanted) {
    printf("%s %s (got %.3f, wanted %.3f)\n", good ? "ok" : "not ok", name, got, wanted);
    failures += !good;
}

static uint64_t random_below(uint64_t bound) {
    static uint64_t state = 88172645463325252U;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return bound ? state % bound : 0;
}

static struct vgpu_gate fresh(struct vgpu_device *device, uint32_t ppm) {
    memset(device, 0, sizeof *device);
    device->share_ppm = ppm;
    return (struct vgpu_gate){.device = device, .start_ns = START};
}

static double away(double a, double b) { return a > b ? a - b : b - a; }

/* A program that always has work: kernels of about kernel_ns, submitted until the slice ends; wakes
 * up to late_ns too late. Returns its share in percent over `span`. */
static double saturate(uint32_t ppm, uint64_t kernel_ns, uint64_t late_ns, uint64_t span) {
    struct vgpu_device device;
    struct vgpu_gate gate = fresh(&device, ppm);
    uint64_t now = START, request = now, work = 0;
    while (now < START + span) {
        struct vgpu_gate_slice slice;
        enum vgpu_gate_answer answer = vgpu_gate_ask(gate, now, request, &slice);
        if (answer == VGPU_GATE_WAIT) {
            now = slice.until_ns + random_below(late_ns);
            continue;
        }
        bool first = true;
        uint64_t gpu = now;
        while (first || gpu + kernel_ns / 2 <= slice.end_ns) {
            gpu += kernel_ns * 9 / 10 + random_below(kernel_ns / 5 + 1);
            first = false;
        }
        work += gpu - now;
        vgpu_gate_begin_close(gate, slice.epoch);
        vgpu_gate_close(gate, slice.epoch, gpu);
        now = request = gpu + random_below(late_ns);
    }
    return 100.0 * (double)work / (double)(now - START);
}

static void test_shares(void) {
    const uint64_t kernels[] = {2 * US, 10 * US, 50 * US, 460 * US, 5 * MS, 50 * MS};
    const uint32_t shares[] = {1, 10, 25, 50, 75, 90};
    double worst = 0, sum = 0;
    int cells = 0;
    for (size_t k = 0; k < 6; k++)
        for (size_t s = 0; s < 6; s++) {
            double got = saturate(shares[s] * 10000, kernels[k], 200 * US, 60000 * MS);
            double error = away(got, shares[s]);
            worst = error > worst ? error : worst;
            sum += error;
            cells++;
        }
    check(sum / cells <= 0.1, "36 cells of kernel length and share: mean error in points",
          sum / cells, 0.1);
    check(worst <= 0.5, "36 cells of kernel length and share: worst error in points", worst, 0.5);
}

/* 1 ms of work due every 10 ms at 25 %: never held back. */
static void test_small_demand(void) {
    struct vgpu_device device;
    struct vgpu_gate gate = fresh(&device, 250000);
    int held = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t now = START + (uint64_t)i * 10 * MS;
        struct vgpu_gate_slice slice;
        if (vgpu_gate_ask(gate, now, now, &slice) == VGPU_GATE_WAIT) held++;
        else vgpu_gate_close(gate, slice.epoch, now + MS);
    }
    check(held == 0, "1 ms every 10 ms at 25 %: requests held back", held, 0);
}

/* After a long idle time the session may overshoot by credit × share and one slice, no more. */
static void test_credit(void) {
    struct vgpu_device device;
    struct vgpu_gate gate = fresh(&device, 250000);
    uint64_t begin = START + 10000 * MS, now = begin, work = 0;
    while (now < begin + 200 * MS) {
        struct vgpu_gate_slice slice;
        if (vgpu_gate_ask(gate, now, now, &slice) == VGPU_GATE_WAIT) {
            now = slice.until_ns;
            continue;
        }
        work += slice.end_ns - now;
        vgpu_gate_close(gate, slice.epoch, slice.end_ns);
        now = slice.end_ns;
    }
    double over = (double)work / 1e6 - 0.25 * (double)(now - begin) / 1e6;
    double allowed = 0.25 * 50 + 1;
    check(over <= allowed + 0.01, "after idling: overshoot in ms of GPU time", over, allowed);
    check(over >= allowed - 1.5, "after idling: the credit is really given", over, allowed);
}

/* One kernel of 2 s at 25 %: its debt is repaid, no more than that. */
static void test_debt(void) {
    struct vgpu_device device;
    struct vgpu_gate gate = fresh(&device, 250000);
    struct vgpu_gate_slice slice;
    vgpu_gate_ask(gate, START + 100 * MS, START + 100 * MS, &slice);
    vgpu_gate_close(gate, slice.epoch, START + 2100 * MS);
    enum vgpu_gate_answer answer =
        vgpu_gate_ask(gate, START + 2100 * MS, START + 2100 * MS, &slice);
    double wait = ((double)slice.until_ns - (double)START) / 1e6;
    check(answer == VGPU_GATE_WAIT && away(wait, 8050) < 0.1,
          "a 2 s kernel at 25 %: next slice at ms", wait, 8050);
}

static void test_live_change(void) {
    struct vgpu_device device;
    struct vgpu_gate gate = fresh(&device, 250000);
    uint64_t now = START, work[2] = {0, 0};
    for (int phase = 0; phase < 2; phase++) {
        if (phase) vgpu_store_relaxed(&device.share_ppm, 500000U);
        uint64_t end = now + 1000 * MS;
        while (now < end) {
            struct vgpu_gate_slice slice;
            if (vgpu_gate_ask(gate, now, now, &slice) == VGPU_GATE_WAIT) {
                now = slice.until_ns;
                continue;
            }
            work[phase] += slice.end_ns - now;
            vgpu_gate_close(gate, slice.epoch, slice.end_ns);
            now = slice.end_ns;
        }
    }
    check(away((double)work[1] / 1e7, 50) < 1,
          "share raised to 50 while running: percent of the next second", (double)work[1] / 1e7,
          50);
}

/* Robbed of the slice: only the epoch's owner can close it, and late charges still count. */
static void test_epochs(void) {
    struct vgpu_device device;
    struct vgpu_gate gate = fresh(&device, 500000);
    struct vgpu_gate_slice old, slice;
    vgpu_gate_ask(gate, START + 100 * MS, START + 100 * MS, &old);
    check(vgpu_gate_holds(gate, old.epoch), "an open slice holds", 1, 1);
    vgpu_gate_begin_close(gate, old.epoch);
    check(!vgpu_gate_holds(gate, old.epoch), "a closing slice holds no more", 0, 0);
    check(vgpu_gate_close(gate, old.epoch, START + 101 * MS), "the first closer closes", 1, 1);
    check(!vgpu_gate_close(gate, old.epoch, START + 102 * MS), "the second closer does not", 0, 0);
    vgpu_gate_ask(gate, START + 110 * MS, START + 110 * MS, &slice);
    check(!vgpu_gate_close(gate, old.epoch, START + 111 * MS), "an old epoch closes nothing", 0, 0);
    uint64_t before = device.charged_ns;
    vgpu_gate_charge(gate, 4 * MS);
    vgpu_gate_close(gate, slice.epoch, START + 111 * MS);
    check(device.charged_ns - before == 5 * MS, "a robbed process's own charge is booked, ms",
          (double)(device.charged_ns - before) / 1e6, 5);
}

/* Eight threads ask and close at once: every epoch is opened by exactly one. */
#define ROUNDS 40000
static struct vgpu_device raced;
static uint32_t opened[ROUNDS + 64];

static void *race(void *unused) {
    (void)unused;
    struct vgpu_gate gate = {.device = &raced, .start_ns = START};
    for (;;) {
        struct vgpu_gate_slice slice;
        /* Far enough ahead of every schedule that no ask has to wait. */
        uint64_t now = START + (uint64_t)1000000000 * 1000;
        enum vgpu_gate_answer answer = vgpu_gate_ask(gate, now, now, &slice);
        if (slice.epoch >= ROUNDS / 2) return NULL;
        if (answer == VGPU_GATE_OPENED) {
            vgpu_add_seq_cst(&opened[slice.epoch], 1U);
            vgpu_gate_close(gate, slice.epoch, slice.open_ns + 100);
        }
    }
}

static void test_race(void) {
    memset(&raced, 0, sizeof raced);
    raced.share_ppm = 900000;
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, race, NULL);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    int twice = 0, never = 0;
    for (int epoch = 1; epoch < ROUNDS / 2; epoch++) {
        twice += opened[epoch] > 1;
        never += opened[epoch] == 0;
    }
    check(twice == 0, "8 threads: epochs opened twice", twice, 0);
    check(never == 0, "8 threads: epochs never opened", never, 0);
}

/* A session inside another one: the outer gate opens slices, the inner one is followed. */
static double follow(uint32_t outer_ppm, uint32_t inner_ppm, uint64_t kernel_ns) {
    struct vgpu_device devices[2];
    struct vgpu_gate outer = fresh(&devices[0], outer_ppm), inner = fresh(&devices[1], inner_ppm);
    uint64_t now = START, request = now, work = 0;
    while (now < START + 4000 * MS) {
        struct vgpu_gate_slice slice;
        bool bursting;
        uint64_t next = vgpu_gate_next(inner, now, &bursting);
        if (next > now || vgpu_gate_ask(outer, now, request, &slice) != VGPU_GATE_OPENED) {
            now = next > now ? next : slice.until_ns;
            continue;
        }
        uint64_t gpu = now;
        vgpu_gate_follow(inner, now, request, &slice);
        do gpu += kernel_ns;
        while (gpu + kernel_ns / 2 <= slice.end_ns);
        work += gpu - now;
        vgpu_gate_begin_close(outer, slice.epoch);
        vgpu_gate_close(outer, slice.epoch, gpu);
        vgpu_gate_charge(inner, gpu - now);
        now = request = gpu;
    }
    return 100.0 * (double)work / (double)(now - START);
}

static void test_nested(void) {
    const uint32_t shares[][2] = {{50, 25}, {25, 50}, {100, 25}, {25, 100}, {60, 50}, {90, 10}};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        double least = shares[i][0] < shares[i][1] ? shares[i][0] : shares[i][1], worst = 0;
        const uint64_t kernels[] = {10 * US, 460 * US, 5 * MS};
        for (size_t k = 0; k < 3; k++) {
            double got = follow(shares[i][0] * 10000, shares[i][1] * 10000, kernels[k]);
            if (away(got, least) > away(worst, least) || k == 0) worst = got;
        }
        char name[80];
        snprintf(name, sizeof name, "%u %% inside %u %%: the lesser share holds", shares[i][1],
                 shares[i][0]);
        check(away(worst, least) < 1.5, name, worst, least);
    }
    struct vgpu_device device;
    struct vgpu_gate gate = fresh(&device, 250000);
    struct vgpu_gate_slice slice = {.end_ns = UINT64_MAX, .end_shared_ns = UINT64_MAX};
    vgpu_gate_follow(gate, START + 1000 * MS, START + 1000 * MS, &slice);
    vgpu_gate_charge(gate, 100 * MS);
    bool bursting;
    double wait = (double)(vgpu_gate_next(gate, 0, &bursting) - START) / 1e6;
    check(away(wait, 1350) < 0.1, "no more than the credit is saved up", wait, 1350);
    check(slice.end_ns - START == 1000 * MS + 50 * MS / 3,
          "and a slice behind its schedule may go on", (double)(slice.end_ns - START) / 1e6,
          1016.667);
    gate = fresh(&device, 250000);
    device.gate_word = (START + 1000 * MS - gate.start_ns) / 100 << 16;
    slice = (struct vgpu_gate_slice){.end_ns = UINT64_MAX, .end_shared_ns = UINT64_MAX};
    vgpu_gate_follow(gate, START + 1000 * MS, START + 1000 * MS, &slice);
    check(slice.end_ns - START == 1000 * MS + VGPU_GATE_PERIOD_NS / 4 &&
              slice.end_shared_ns - START == 1005 * MS,
          "on schedule it ends as one of its own would, later where another process waits",
          (double)(slice.end_shared_ns - START) / 1e6, 1005);
    gate = fresh(&device, 250000);
    vgpu_gate_follow(gate, START + 1000 * MS, START + 1000 * MS, &slice);
    vgpu_gate_charge(gate, 100 * MS);
    check(device.charged_ns == 100 * MS, "what was used is told", (double)device.charged_ns, 1e8);
}

/* With the whole GPU a session goes on, but not while another of its processes waits. */
static void test_whole(void) {
    struct vgpu_device device;
    struct vgpu_gate gate = fresh(&device, VGPU_WHOLE_GPU);
    struct vgpu_gate_slice slice;
    vgpu_gate_ask(gate, START, START, &slice);
    check(slice.end_ns - START == 250 * MS, "the whole GPU: a slice goes on",
          (double)(slice.end_ns - START) / 1e6, 250);
    check(slice.end_shared_ns - START == 20 * MS, "and ends where another process waits",
          (double)(slice.end_shared_ns - START) / 1e6, 20);
}

int main(void) {
    test_whole();
    test_nested();
    test_shares();
    test_small_demand();
    test_credit();
    test_debt();
    test_live_change();
    test_epochs();
    test_race();
    return failures != 0;
}
