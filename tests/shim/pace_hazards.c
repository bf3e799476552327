/* The hazards of holding launches back, in virtual time: kernels that wait for a later launch,
 * captures, calls that stay in the driver. Sources: shim/pace.c, shim/grant.c, shim/marks.c,
 * shim/capture.c, shim/book.c, shim/gate.c, shim/slice.c, shim/stall.c, shim/rota.c, shim/gang.c,
 * shim/gang_turns.c, shim/turn.c,
 * shim/slot.c, shim/class.c. */
#include "pace_machine.h"

#define SPINNER 0x5000U
#define RELEASER 0x6000U

static uint64_t end_of_test, count_from, rounds, rounds_counted;

/* --- kernels that wait for a later launch ----------------------------------------------------- */

static void count_round(void) {
    rounds++;
    rounds_counted += machine_ns > count_from;
}

/* One round: a kernel in stream 1 spins until the last of stream 2 has run. */
static void spin_apart(int behind) {
    for (; machine_ns < end_of_test; count_round()) {
        launch_kind(1, SPIN, SPINNER, 10 * US, 4 * US);
        if (behind) launch(1, 20 * US, 4 * US);
        launch(2, 200 * US, 4 * US);
        launch_kind(2, RELEASE, RELEASER, 2 * US, 4 * US);
        if (rounds % 4 == 3) synchronize(2);
    }
}

/* The two kernels of a rendezvous are of one function. */
static void meet(int unused) {
    (void)unused;
    for (; machine_ns < end_of_test; count_round()) {
        launch_kind(1, SPIN, SPINNER, 100 * US, 4 * US);
        launch_kind(2, RELEASE, SPINNER, 100 * US, 4 * US);
        if (rounds % 4 == 3) synchronize(2);
    }
}

/* Once the spinners are known: until then a launch behind one waits for 250 ms. */
static double rounds_per_second(void (*program)(int), int argument, uint32_t ppm) {
    begin_session(ppm);
    late_min_ns = 20 * US;
    late_max_ns = 60 * US;
    end_of_test = machine_ns + 5000 * MS;
    count_from = machine_ns + 4000 * MS;
    rounds = rounds_counted = 0;
    start(program, argument);
    return run_threads(end_of_test + 2000 * MS) ? (double)rounds_counted : 0;
}

static void test_spinners(void) {
    double apart = rounds_per_second(spin_apart, 0, 1000000);
    double limited = 100 * rounds_per_second(spin_apart, 0, 250000) / apart;
    check(limited > 23 && limited < 28, "a kernel waits for a launch in another stream, at 25 %",
          limited);
    double behind = rounds_per_second(spin_apart, 1, 1000000);
    limited = 100 * rounds_per_second(spin_apart, 1, 250000) / behind;
    check(limited > 20 && limited < 30, "another launch lies behind the one that waits", limited);
    double met = rounds_per_second(meet, 0, 1000000);
    limited = 100 * rounds_per_second(meet, 0, 250000) / met;
    check(limited > 20 && limited < 30, "two launches of one function wait for each other",
          limited);
}

/* --- long kernels are no spinners ------------------------------------------------------------- */

static uint64_t kernel_ns, grown_ns, grows_at_ns;
static void two_streams(int unused) {
    (void)unused;
    while (machine_ns < end_of_test)
        for (int stream = 1; stream <= 2; stream++) {
            if (machine_ns > grows_at_ns) kernel_ns = grown_ns;
            launch_kind(stream, KERNEL, 0x7000, kernel_ns, 4 * US);
            if (streams[stream].end_ns > machine_ns + 3 * kernel_ns)
                sleep_until(streams[stream].end_ns - 2 * kernel_ns, NULL);
        }
}

static void test_long(uint64_t ns, uint64_t later_ns, const char *name) {
    begin_session(250000);
    kernel_ns = ns;
    grown_ns = later_ns;
    grows_at_ns = machine_ns + 1000 * MS;
    end_of_test = machine_ns + 20000 * MS;
    start(two_streams, 0);
    bool ended = run_threads(end_of_test + 5000 * MS);
    double share = 100.0 * (double)busy_ns / 2 / (20000.0 * (double)MS);
    check(ended && share > 23.5 && share < 27, name, share);
}

/* --- capture ---------------------------------------------------------------------------------- */

static uint64_t captured_ns;
static void capture_while_held(int stream) {
    spend(20 * MS); /* the other thread has used the slice up by now */
    vgpu_capture_begin();
    streams[stream].capturing = true;
    uint64_t begin = machine_ns;
    for (int i = 0; i < 2000; i++) launch(stream, 50 * US, 4 * US);
    captured_ns = machine_ns - begin;
    streams[stream].capturing = false;
    vgpu_capture_begun(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}
static void saturate(int stream) {
    while (machine_ns < end_of_test) launch(stream, 50 * US, 4 * US);
}

static void test_capture(void) {
    begin_session(100000);
    end_of_test = machine_ns + 100 * MS;
    bad_records = 0;
    start(saturate, 1);
    start(capture_while_held, 2);
    bool ended = run_threads(end_of_test + 1000 * MS);
    check(ended && captured_ns <= 2000 * 4 * US, "2,000 captured launches are not held (ms)",
          (double)captured_ns / 1e6);
    check(bad_records == 0, "nothing is recorded into a stream that captures", bad_records);
    uint64_t launches = region->slots[0].use[0].launches;
    check(launches < 1000, "nor is a captured launch charged", (double)launches);
}

/* --- a call that stays in the driver ---------------------------------------------------------- */

static uint64_t closed_after_ns;
static void load_lazily(int stream) { launch(stream, 50 * US, 200 * MS); }
static void want_the_slice(int unused) {
    (void)unused;
    spend(1 * MS);
    struct vgpu_device *device = &region->devices[0];
    uint64_t begin = machine_ns;
    uint32_t epoch = (uint32_t)(device->gate_word >> 1) & 32767;
    vgpu_store_seq_cst(&device->gate_wanted, epoch);
    vgpu_wake_word(&device->gate_bell, VGPU_ALL_EARS);
    while (device->gate_word & 1 && machine_ns < begin + 300 * MS) spend(100 * US);
    closed_after_ns = machine_ns - begin;
}

static void test_driver_keeps_a_call(void) {
    begin_session(250000);
    begin_without_credit();
    start(load_lazily, 1);
    start(want_the_slice, 0);
    bool ended = run_threads(machine_ns + 1000 * MS);
    check(ended && closed_after_ns < 10 * MS,
          "a launch call stays in the driver: the slice is given up all the same (ms)",
          (double)closed_after_ns / 1e6);
}

int main(void) {
    test_spinners();
    test_long(5 * MS, 5 * MS, "two streams of 5 ms kernels at 25 %");
    test_long(50 * MS, 50 * MS, "two streams of 50 ms kernels at 25 %");
    test_long(200 * US, 30 * MS, "a kernel known for 200 us suddenly takes 30 ms");
    test_capture();
    test_driver_keeps_a_call();
    return failures != 0;
}
