/* What a launch costs in the steady state, and shares of programs with several threads, in virtual
 * time. Sources: shim/pace.c, shim/grant.c, shim/marks.c, shim/capture.c, shim/book.c, shim/gate.c,
 * shim/slice.c, shim/stall.c, shim/rota.c, shim/gang.c,
 * shim/gang_turns.c, shim/turn.c, shim/slot.c, shim/class.c. */
#include "pace_machine.h"

/* --- driver calls and clock reads ------------------------------------------------------------- */

static struct {
    unsigned quiet, one, more; /* launches with so many driver calls of ours */
    unsigned timed;            /* launches that read the clock */
    unsigned clocks;           /* most clock reads of a launch without driver calls */
    unsigned sum;              /* driver calls of ours, all told */
} seen;

static void count_calls(int stream) {
    for (int i = 0; i < 5000; i++) launch(stream, 2 * US, 3 * US);
    memset(&seen, 0, sizeof seen);
    for (int i = 0; i < 1000; i++) {
        uint64_t calls_before = calls, clocks_before = clock_reads;
        launch(stream, 2 * US, 3 * US);
        uint64_t made = calls - calls_before, clocks = clock_reads - clocks_before;
        if (made <= (stream == 0) && clocks > seen.clocks) seen.clocks = (unsigned)clocks;
        seen.timed += clocks != 0;
        made == 0 ? seen.quiet++ : made == 1 ? seen.one++ : seen.more++;
    }
}

/* A kernel at a time, each of which opens a slice. */
static void open_slices(int stream) {
    for (int i = 0; i < 60; i++) {
        if (i == 30) memset(&seen, 0, sizeof seen);
        uint64_t calls_before = calls, clocks_before = clock_reads;
        launch(stream, 2 * US, 3 * US);
        uint64_t clocks = clock_reads - clocks_before;
        seen.sum += (unsigned)(calls - calls_before);
        if (clocks > seen.clocks) seen.clocks = (unsigned)clocks;
        synchronize(stream);
        spend(2500 * US);
    }
}

static void test_calls(void) {
    begin_session(900000);
    start(count_calls, 1);
    check(run_threads(machine_ns + 1000 * MS), "1,000 launches back to back are made", 1);
    check(seen.more + seen.one <= 1000 / 64 + 8, "a stream: launches with a driver call of ours",
          seen.more + seen.one);
    check(seen.clocks <= 1, "a stream: clock reads of a steady launch", seen.clocks);
    check(seen.timed <= 2 * 1000 / 64 + 8, "a stream: launches that read the clock", seen.timed);

    begin_session(900000);
    start(count_calls, 0);
    run_threads(machine_ns + 1000 * MS);
    check(seen.quiet == 0 && seen.more <= 1000 / 64 + 8,
          "the default stream: the context is asked for each time, more rarely", seen.more);

    begin_session(900000);
    start(open_slices, 1);
    run_threads(machine_ns + 1000 * MS);
    check(seen.sum >= 1 && seen.sum <= 2,
          "30 launches that open a slice: driver calls, an anchor in 100 ms", seen.sum);
    check(seen.clocks <= 5, "clock reads of one", seen.clocks);
    check(region->devices[0].slices >= 59, "slices", (double)region->devices[0].slices);

    vgpu_capture_begin();
    begin_session(900000);
    start(count_calls, 1);
    run_threads(machine_ns + 1000 * MS);
    check(seen.quiet == 0, "a capture somewhere: each stream is asked", seen.quiet);
    vgpu_capture_begun(CUDA_ERROR_INVALID_VALUE);
    check(!vgpu_capture_is_open(), "a capture that did not begin is not open", 0);
}

/* --- shares ----------------------------------------------------------------------------------- */

static uint64_t end_of_test;
static void saturate(int stream) {
    while (machine_ns < end_of_test) {
        launch(stream, 50 * US, 4 * US);
        /* Natively a queue holds some work; here the gate holds back before it is long. */
        if (streams[stream].end_ns > machine_ns + 4 * MS)
            sleep_until(streams[stream].end_ns - 2 * MS, NULL);
    }
}

static uint64_t paced_launches;
static void saturate_in_step(int stream) {
    for (; machine_ns < end_of_test; paced_launches++) {
        launch(stream, 50 * US, 4 * US);
        synchronize(stream);
    }
}

/* Short kernels, let in by grants: as fast as the host launches … */
static void launch_bound(int stream) {
    for (; machine_ns < end_of_test; paced_launches++) launch(stream, 2 * US, 4 * US);
}

/* The same in four streams, by a driver that takes its time before the GPU has the kernel, most of
 * it at first: timed events are as far apart as launches, and the kernels seem to be long. */
static void bound_in_four(int stream) {
    for (; machine_ns < end_of_test; paced_launches++) {
        struct vgpu_passage passage = {0};
        CUstream handle = handle_of(stream + (int)(paced_launches % 4));
        vgpu_pace_enter(&passage, handle, false, vgpu_book_key((void *)0x2000, 132, 64),
                        (const void *)0x2000);
        spend(paced_launches < 40 ? 30 * US : 3 * US);
        submit_op(handle, KERNEL, 2 * US, NULL);
        vgpu_pace_leave(&passage);
    }
}

/* … and 50 of them at a time, with a pause that is not charged. */
static void in_bursts(int stream) {
    while (machine_ns < end_of_test) {
        for (int i = 0; i < 50; i++, paced_launches++) launch(stream, 2 * US, 4 * US);
        spend(200 * US);
    }
}

/* A decoding step, eagerly: short kernels of 20 kinds, each launched later than the one before has
 * ended, and the result read after every 1,500. A thread that slept finds cold caches. After every
 * 300 the host may have something else to do. */
#define COLD_NS (1500 * US)
static uint64_t elsewhere_ns;
static void decode(int stream) {
    uint64_t warm_ns = machine_ns;
    while (machine_ns < end_of_test) {
        for (int i = 0; i < 1500 && machine_ns < end_of_test; i++, paced_launches++) {
            uint64_t before = machine_ns;
            launch(stream, (20 + (uint64_t)i % 20) * 100, 0);
            if (machine_ns > before + MS) warm_ns = machine_ns + COLD_NS;
            spend((machine_ns < warm_ns ? 20 : 8) * US + random_below(4000));
            if (i % 300 == 299) spend(elsewhere_ns);
            /* At times another program uses the core's other half. */
            if (machine_ns / (9300 * US) % 2) spend(8 * US);
        }
        synchronize(stream);
    }
}

static double percent_charged(void) {
    return 100.0 * (double)region->devices[0].charged_ns / (2000.0 * (double)MS);
}

static double launches_of(void (*run)(int), uint32_t ppm, double native) {
    begin_session(ppm);
    late_min_ns = 20 * US;
    late_max_ns = 110 * US;
    begin_without_credit();
    end_of_test = machine_ns + 2000 * MS;
    paced_launches = 0;
    start(run, 1);
    run_threads(machine_ns + 4000 * MS);
    return 100.0 * (double)paced_launches / native;
}

/* Percent of the time that the average stream was busy. */
static double share_of_threads(int count, bool in_step, uint32_t ppm) {
    begin_session(ppm);
    late_min_ns = 20 * US;
    late_max_ns = 110 * US;
    begin_without_credit();
    end_of_test = machine_ns + 2000 * MS;
    paced_launches = 0;
    for (int i = 0; i < count; i++) start(in_step && i ? saturate_in_step : saturate, i + 1);
    run_threads(machine_ns + 4000 * MS);
    return 100.0 * (double)busy_ns / (double)count / (2000.0 * (double)MS);
}

/* A timed event costs the GPU 2.5 us: those of a slice's ends are needed, those of the groups are
 * rare as long as the predictions hold. */
static void test_timed(void) {
    unsigned long records = timed_records;
    share_of_threads(1, false, 900000);
    double groups =
        (double)(timed_records - records) - (double)region->devices[0].slices - 2000.0 / 100;
    check(groups > 2 && groups < 2 * 2000 / (8 * 0.25) / 4, "timed events of groups in 2 s",
          groups);
}

static void set_share(uint32_t share_ppm) {
    region->header.default_share_ppm = region->devices[0].share_ppm = share_ppm;
    region->header.limits_version++;
}

/* At 25 %, from 400 to 700 ms without a share, then at 25 % again. */
static double lifted_percent;
static bool waits_for_each;
static void lifted(int stream) {
    uint64_t begun = machine_ns, count = 0;
    const uint64_t kernel = waits_for_each ? 3 * MS : 500 * US, from = 800 * MS, to = 1600 * MS;
    for (uint64_t at = 0, before = 0; at < to; before = at, at = machine_ns - begun) {
        if (before < 400 * MS && at >= 400 * MS) set_share(VGPU_WHOLE_GPU);
        if (before < 700 * MS && at >= 700 * MS) set_share(250000);
        if (vgpu_pace_gated()) {
            launch(stream, kernel, 4 * US);
        } else {
            submit_op(handle_of(stream), KERNEL, kernel, NULL);
            spend(4 * US);
        }
        count += at >= from;
        if (waits_for_each) synchronize(stream);
        while (streams[stream].end_ns > machine_ns + 8 * MS) spend(100 * US);
    }
    lifted_percent = 100.0 * (double)(count * kernel) / (double)(to - from);
}

static void test_lifted(void) {
    for (int each = 0; each < 2; each++) {
        waits_for_each = each;
        begin_session(250000);
        start(lifted, 1);
        run_threads(machine_ns + 5000 * MS);
        check(lifted_percent > 23 && lifted_percent < 27,
              each ? "… nor of a program that waits for each kernel"
                   : "a share lifted for 300 ms: what runs meanwhile is not charged",
              lifted_percent);
    }
}

/* Two threads: while the one launches by the gate already, the other has been let into a slice that
 * it waited for. */
static uint64_t lift_begun, lift_at, longest_hold;
static bool is_lifted, is_back;
static void lifted_together(int stream) {
    for (uint64_t at = 0; at < 1600 * MS; at = machine_ns - lift_begun) {
        if (at >= lift_at && !is_lifted) {
            is_lifted = true;
            set_share(VGPU_WHOLE_GPU);
        }
        if (at >= 1000 * MS && !is_back) {
            is_back = true;
            set_share(250000);
        }
        uint64_t before = machine_ns;
        if (vgpu_pace_gated()) {
            launch(stream, 50 * US, 4 * US);
        } else {
            submit_op(handle_of(stream), KERNEL, 50 * US, NULL);
            spend(4 * US);
        }
        if (machine_ns - before > longest_hold) longest_hold = machine_ns - before;
        while (streams[stream].tail - streams[stream].head > 8 ||
               streams[stream].end_ns > machine_ns + 4 * MS)
            spend(100 * US);
    }
}

static void test_lifted_together(void) {
    one_at_a_time = true;
    for (uint64_t us = 400000; us < 412000; us += 500) {
        begin_session(250000);
        lift_begun = machine_ns;
        lift_at = us * US;
        is_lifted = is_back = false;
        start(lifted_together, 1);
        start(lifted_together, 2);
        run_threads(machine_ns + 5000 * MS);
    }
    one_at_a_time = false;
    check(longest_hold < 100 * MS, "the same with two threads: longest launch, ms",
          (double)longest_hold / (double)MS);
}

int main(void) {
    test_calls();
    test_timed();
    test_lifted();
    test_lifted_together();
    double one = share_of_threads(1, false, 250000);
    check(region->devices[0].slices > 200, "one thread that fills the GPU: slices in 2 s",
          (double)region->devices[0].slices);
    double four = share_of_threads(4, false, 250000);
    check(one > 24 && one < 26, "one thread at 25 %", one);
    check(four > 23.5 && four < 26, "four threads with a stream each at 25 %", four);
    double bound = launches_of(launch_bound, 250000, 2e9 / 4e3);
    check(bound > 24 && bound < 26, "launches of 2 us kernels, one each 4 us, at 25 %", bound);
    check(region->devices[0].slices < 2000 / 100 + 30, "… is held back seldom: slices in 2 s",
          (double)region->devices[0].slices);
    double in_four = launches_of(bound_in_four, 100000, 2e9 / 3e3);
    check(in_four > 9.5 && in_four < 10.5, "the same in four streams, at 10 %", in_four);
    check(region->devices[0].slices < 2000 / 100 + 30, "… is held back seldom: slices in 2 s",
          (double)region->devices[0].slices);
    for (uint32_t share = 250000; share <= 500000; share += 250000) {
        double steps = launches_of(decode, share, 2e9 / 12.86e3) / (share / 1e6);
        check(steps > 96 && steps < 102, "eager decode: percent of share x native", steps);
        check(region->devices[0].slices <= 30, "… in slices that are long: in 2 s",
              (double)region->devices[0].slices);
    }
    elsewhere_ns = 300 * US;
    double steps = launches_of(decode, 500000, 2e9 / 13.86e3) / 0.5;
    check(steps > 98 && region->devices[0].slices <= 30,
          "pauses of 0.3 ms are not charged, and end no slice: percent of share x native", steps);
    check(percent_charged() > 48 && percent_charged() < 51.5, "… and charged", percent_charged());
    elsewhere_ns = 0;
    double bursts = launches_of(in_bursts, 650000, 2e9 / 400e3 * 50);
    check(bursts > 97 && bursts < 101, "200 us in 400 us are half: not held back at 65 %", bursts);
    bursts = launches_of(in_bursts, 300000, 2e9 / 400e3 * 50);
    check(bursts > 58 && bursts < 64, "at 30 % to 30/50, and what an idle session has saved",
          bursts);
    share_of_threads(2, true, 250000);
    double in_step = 100.0 * (double)paced_launches * 54e-6 / 2;
    check(in_step > 23 && in_step < 27, "one that waits for each kernel, beside one that does not",
          in_step);
    return failures != 0;
}
