/* Programs that pause and say nothing of it: they wait by no call that we see, or for something
 * else. What ran is charged, the pauses are not. Virtual time, on a GPU that takes a moment to
 * start and to answer. Sources: shim/pace.c, shim/grant.c, shim/marks.c, shim/capture.c,
 * shim/book.c, shim/gate.c, shim/slice.c, shim/stall.c, shim/rota.c, shim/gang.c,
 * shim/gang_turns.c, shim/turn.c, shim/slot.c, shim/class.c. */
#include <math.h>

#include "../../shim/slice.h"
#include "pace_machine.h"

#define SPAN_NS (4000 * MS)
static uint64_t begin_of_test, end_of_test;

/* A session alone; `fills`: each kernel takes all of it. */
static void begin(uint32_t percent, bool fills) {
    begin_session(percent * 10000);
    begin_without_credit();
    one_at_a_time = fills;
    late_min_ns = 20 * US;
    late_max_ns = 60 * US;
    begin_of_test = machine_ns;
    end_of_test = machine_ns + SPAN_NS;
}

static double percent_of(uint64_t ns, uint64_t whole_ns) {
    return 100.0 * (double)ns / (double)whole_ns;
}
static double charged(void) { return percent_of(region->devices[0].charged_ns, SPAN_NS); }

/* --- frames: kernels, one a stream, and a rest ------------------------------------------------ */

static uint64_t kernel_ns, longer_ns, frame_ns;
static int streams_used;

/* How the program waits for its frame, and when: before its pause, after it, or both. */
enum way { NOT, BY_STREAM, BY_CONTEXT, BY_EVENT };
static enum way waits;
static bool waits_first, waits_last, lengths_differ;

static void wait_for_frame(void) {
    struct vgpu_sync sync;
    if (waits == BY_STREAM)
        for (int s = 1; s <= streams_used; s++) synchronize(s);
    if (waits == BY_STREAM || waits == NOT) return;
    vgpu_pace_sync_begin(&sync, NULL, false, false);
    wait_for_all();
    if (waits == BY_CONTEXT) vgpu_pace_sync_end(&sync, CUDA_SUCCESS);
    else vgpu_pace_look(&sync);
}

/* From the second half on the kernels are longer. */
static void draw_frames(int unused) {
    (void)unused;
    while (machine_ns < end_of_test) {
        uint64_t frame = machine_ns;
        uint64_t took = machine_ns < begin_of_test + SPAN_NS / 2 ? kernel_ns : longer_ns;
        if (lengths_differ) took = random_below(2) ? 200 * US : 3800 * US;
        for (int s = 1; s <= streams_used; s++) launch_kind(s, KERNEL, 0x7000, took, 4 * US);
        if (waits_first) wait_for_frame();
        if (machine_ns < frame + frame_ns) sleep_until(frame + frame_ns, NULL);
        if (waits_last) wait_for_frame();
    }
}

/* Percent of the GPU that the frames took. */
static double frames(uint32_t percent, int count, uint64_t kernel, uint64_t longer,
                     uint64_t frame) {
    begin(percent, true);
    streams_used = count;
    kernel_ns = kernel;
    longer_ns = longer;
    frame_ns = frame;
    start(draw_frames, 0);
    run_threads(end_of_test + 2000 * MS);
    return percent_of(busy_ns, machine_ns - begin_of_test);
}

static void test_frames(void) {
    double got = frames(50, 1, 200 * US, 200 * US, 8 * MS);
    check(got > 2.3 && got < 2.6, "0.2 ms each 8 ms: is not held back at 50 %", got);
    check(charged() < 1.2 * got, "… and charged as much", charged());
    for (int count = 2; count <= 8; count *= 2) {
        char name[80];
        snprintf(name, sizeof name, "%d streams, 4 ms each 8 ms, at 25 %%", count);
        uint64_t each = 4 * MS / (uint64_t)count;
        got = frames(25, count, each, each, 8 * MS);
        check(got > 22 && got < 26.5, name, got);
    }
    got = frames(25, 1, 200 * US, 4 * MS, 8 * MS);
    check(got > 12 && got < 15.5, "0.2 ms each 8 ms, then 4 ms, at 25 %", got);
    got = frames(25, 1, 200 * US, 7 * MS, 8 * MS);
    check(got > 12 && got < 15.5, "0.2 ms each 8 ms, then 7 ms, at 25 %", got);
}

static void test_waits(void) {
    static const char *const ways[] = {"", "streams", "the context", "an event"};
    static const char *const times[] = {"", "before", "after", "before and after"};
    char name[120];
    for (waits = BY_STREAM; waits <= BY_EVENT; waits++)
        for (int when = 1; when <= 3; when++)
            for (int count = 1; count <= 4; count += 3) {
                waits_first = when & 1;
                waits_last = when & 2;
                uint64_t each = 4 * MS / (uint64_t)count;
                double got = frames(25, count, each / 10, each / 10, 8 * MS), paid = charged();
                snprintf(name, sizeof name, "%d streams, waits for %s %s the pause: 5 %%", count,
                         ways[waits], times[when]);
                check(got > 4.9 && got < 5.1, name, got);
                check(paid > 4.5 && paid < 5.5, "… and charged", paid);
                got = frames(25, count, each, each, 8 * MS);
                check(got > 24 && got < 26, "… and 50 %, at 25", got);
            }
    waits = NOT;
    waits_first = waits_last = false;
    lengths_differ = true;
    double got = frames(25, 1, 0, 0, 2200 * US);
    lengths_differ = false;
    check(got > 22 && got < 28, "kernels now of 0.2, now of 3.8 ms that nobody waits for", got);
}

/* Bursts over several streams, and no call that waits: nothing but the book says how long they
 * took. */
static bool stream_by_stream;
static void draw_bursts(int each) {
    while (machine_ns < end_of_test) {
        uint64_t frame = machine_ns;
        for (int i = 0; i < each * streams_used; i++) {
            int stream = stream_by_stream ? i / each : i % streams_used;
            uint64_t took = lengths_differ ? kernel_ns / 2 + random_below(kernel_ns) : kernel_ns;
            launch_kind(stream + 1, KERNEL, 0x7000, took, 4 * US);
        }
        sleep_until(frame + frame_ns, NULL);
    }
}

/* 20 kernels of 50 us in the mean; percent of the GPU that they took. */
static double bursts(uint32_t percent, bool fills, int count, uint64_t frame) {
    begin(percent, fills);
    waits = NOT;
    streams_used = count;
    kernel_ns = 50 * US;
    frame_ns = frame;
    start(draw_bursts, 20 / count);
    run_threads(end_of_test + 2000 * MS);
    return percent_of(busy_ns, machine_ns - begin_of_test);
}

static void test_bursts(void) {
    for (int how = 0; how < 8; how++) {
        char name[120];
        int count = how & 1 ? 4 : 2;
        stream_by_stream = how & 2;
        lengths_differ = how & 4;
        snprintf(name, sizeof name, "nobody waits: 1 ms each 10 ms in %d streams%s%s, at 50 %%",
                 count, stream_by_stream ? ", one by one" : "",
                 lengths_differ ? ", lengths differ" : "");
        double got = bursts(50, true, count, 10 * MS);
        check(got > 9.8 && got < 10.2, name, got);
        check(fabs(charged() / got - 1) < 0.03, "… and charged as much", charged());
        got = bursts(25, true, count, 2500 * US);
        check(got > 24.5 && got < 25.5, "… and 40 %, at 25", got);
    }
    stream_by_stream = lengths_differ = false;
    bursts(50, false, 4, 10 * MS);
    check(charged() > 2.4 && charged() < 2.8, "… that run side by side: charged a quarter",
          charged());
}

/* --- programs that poll ----------------------------------------------------------------------- */

/* Launches a burst, polls until it has ended, which we do not see (but waits for every so-manieth),
 * and rests. */
static unsigned waits_one_in;
static uint64_t occupied_ns, shortest_ns, longest_ns, rest_ns, gap_ns;
static uint32_t burst_most;
static void poll_and_rest(int unused) {
    (void)unused;
    for (unsigned round = 1; machine_ns < end_of_test; round++) {
        uint64_t from = machine_ns, burst = 1 + random_below(burst_most);
        if (gap_ns) burst = burst_most;
        for (unsigned i = 0; i < burst; i++) {
            uint64_t took = random_below(2) ? shortest_ns : longest_ns;
            launch_kind((int)(i % (unsigned)streams_used) + 1, KERNEL, 0x7000, took, 4 * US);
            if (i == 0) from = machine_ns;
            if (gap_ns) sleep_until(machine_ns + gap_ns, NULL);
        }
        if (waits_one_in && round % waits_one_in == 0) synchronize(1);
        for (int s = 1; s <= streams_used; s++) wait_for_stream(s);
        occupied_ns += machine_ns - from;
        sleep_until(machine_ns + rest_ns, NULL);
    }
}

/* Bursts of up to `most` kernels of these two lengths, side by side in so many streams; how much
 * more is charged than was occupied, in percent. */
static double polls(int count, uint32_t most, uint64_t shortest, uint64_t longest, uint64_t rest) {
    begin(50, false);
    streams_used = count;
    burst_most = most;
    shortest_ns = shortest;
    longest_ns = longest;
    rest_ns = rest;
    occupied_ns = 0;
    start(poll_and_rest, 0);
    run_threads(end_of_test + 2000 * MS);
    return 100 * ((double)region->devices[0].charged_ns / (double)occupied_ns - 1);
}

static void test_polls(void) {
    double more = polls(1, 1, 1 * MS, 20 * MS, 20 * MS);
    check(fabs(more) < 3, "kernels of 1 or 20 ms, polled for: charged, percent more", more);
    more = polls(1, 1, 200 * US, 3800 * US, 1 * MS);
    check(fabs(more) < 3, "… of 0.2 or 3.8 ms", more);
    more = polls(4, 20, 50 * US, 150 * US, 5 * MS);
    check(fabs(more) < 3, "… bursts of 1 to 20, in four streams side by side", more);
    more = polls(4, 20, 20 * US, 1 * MS, 20 * MS);
    check(fabs(more) < 3, "… of 20 us or 1 ms", more);
    for (waits_one_in = 2; waits_one_in <= 5; waits_one_in++) {
        char name[80];
        snprintf(name, sizeof name, "0.2 or 3.8 ms, of %u one is waited for: charged, percent more",
                 waits_one_in);
        more = polls(1, 1, 200 * US, 3800 * US, 3 * MS);
        check(fabs(more) < 3, name, more);
    }
    waits_one_in = 0;
}

/* It has paused now and then, and goes on launching. */
static void test_listening(void) {
    gap_ns = 65 * US;
    sleeps = 0;
    polls(1, 5000, 20 * US, 20 * US, 5 * MS);
    gap_ns = 0;
    double each_s = (double)sleeps * 1e9 / (double)SPAN_NS;
    check(each_s < 300, "a kernel each 70 us, for 0.35 s: wake-ups each second", each_s);
}

/* Only the thread itself can mark its own default stream: the watcher need not be woken. */
static void use_own_default(int unused) {
    (void)unused;
    while (machine_ns < end_of_test) {
        struct vgpu_passage passage = {0};
        vgpu_pace_enter(&passage, NULL, true, vgpu_book_key((void *)0x7000, 132, 64),
                        (const void *)0x7000);
        submit_op(NULL, KERNEL, 200 * US, NULL);
        spend(4 * US);
        vgpu_pace_leave(&passage);
        sleep_until(machine_ns + 3 * MS, NULL);
    }
}

static void test_own_default(void) {
    begin(50, false);
    sleeps = 0;
    start(use_own_default, 0);
    run_threads(end_of_test + 2000 * MS);
    double each_s = (double)sleeps * 1e9 / (double)SPAN_NS;
    check(each_s < 20, "0.2 ms each 3 ms in a per-thread default stream: wake-ups each second",
          each_s);
}

/* --- a thread that starts cold ---------------------------------------------------------------- */

#define COLD_NS                                                                                    \
    (150 * US) /* what the driver takes for the first launch in a stream after a rest              \
                */

/* Short kernels in four streams, launches setting the pace. Pauses longer than 0.1 ms are not
 * occupied. */
static void start_cold(int unused) {
    (void)unused;
    uint64_t used[5] = {0}, from = 0, to = 0;
    for (int stream = 1; machine_ns < end_of_test; stream = stream % 4 + 1) {
        struct vgpu_passage passage = {0};
        vgpu_pace_enter(&passage, handle_of(stream), false, vgpu_book_key((void *)0x7000, 132, 64),
                        (const void *)0x7000);
        if (machine_ns > used[stream] + 20 * MS) spend(COLD_NS);
        used[stream] = machine_ns;
        if (machine_ns > to + VGPU_GATE_PAUSE_NS) {
            occupied_ns += to - from;
            from = machine_ns;
        }
        to = machine_ns + 2 * US;
        submit_op(handle_of(stream), KERNEL, 2 * US, NULL);
        spend(2200);
        vgpu_pace_leave(&passage);
    }
    occupied_ns += to - from;
}

static void test_cold(void) {
    for (uint32_t percent = 10; percent <= 50; percent += 20) {
        char name[80];
        begin(percent, false);
        occupied_ns = 0;
        start(start_cold, 0);
        run_threads(end_of_test + 1000 * MS);
        double occupied = percent_of(occupied_ns, SPAN_NS), error = charged() / occupied - 1;
        snprintf(name, sizeof name, "four streams that start cold at %u %%: occupied", percent);
        check(fabs(occupied - percent) < 0.5, name, occupied);
        check(fabs(error) < 0.015, "… and charged, percent more", 100 * error);
    }
}

/* --- what the book makes of pauses ------------------------------------------------------------ */

static unsigned predicted, predicted_long;

/* Single kernels and bursts by turns, with a rest after each wait. */
static void rest_and_burst(int stream) {
    while (machine_ns < end_of_test)
        for (int burst = 1; burst <= 21; burst += 20) {
            for (int i = 0; i < burst; i++) {
                launch_kind(stream, KERNEL, 0x7000, 100 * US, 4 * US);
                struct vgpu_book_entry *entry =
                    vgpu_book_find(watched[0]->book, vgpu_book_key((void *)0x7000, 132, 64));
                predicted += entry->timed >= VGPU_BOOK_TRIALS;
                predicted_long += entry->estimate_ns > 200 * US;
            }
            synchronize(stream);
            spend(10 * MS);
        }
}

static void test_groups(void) {
    begin(50, true);
    predicted = predicted_long = 0;
    start(rest_and_burst, 1);
    run_threads(end_of_test + 1000 * MS);
    check(predicted > 1000, "a program that rests after each wait: launches of a known kernel",
          predicted);
    check(predicted_long == 0, "… predicted to take over twice as long", predicted_long);
}

/* The first launch call loads its code and stays in the driver, while another stream works. */
static uint32_t most_overlap;
static void load_code(int stream) {
    spend(3 * MS);
    launch_kind(stream, KERNEL, 0x7100, 50 * US, 30 * MS);
}
static void work_meanwhile(int stream) {
    spend(3100 * US);
    while (machine_ns < begin_of_test + 200 * MS) {
        launch_kind(stream, KERNEL, 0x7000, 50 * US, 4 * US);
        if (watched[0]->overlap > most_overlap) most_overlap = watched[0]->overlap;
    }
}

static void test_slow_call(void) {
    begin(25, true);
    most_overlap = 0;
    start(load_code, 1);
    start(work_meanwhile, 2);
    run_threads(end_of_test);
    check(most_overlap < 2100, "a launch call of 30 ms: streams share the GPU, at most, in 1/1024",
          most_overlap);
}

/* --- contexts that end ------------------------------------------------------------------------ */

static CUcontext context_now(void) {
    CUcontext context;
    get_current(&context);
    return context;
}

static void end_context(void) {
    vgpu_pace_forget_context(context_now());
    wait_for_stream(0); /* as the driver does */
    contexts_ended++;
}

/* The watcher may be about to put a mark on a stream that is being destroyed. */
static void end_streams(int unused) {
    (void)unused;
    while (machine_ns < end_of_test) {
        streams[1].ended = false;
        launch_kind(1, KERNEL, 0x7000, 300 * US, 4 * US);
        sleep_until(machine_ns + 100 * US + random_below(200 * US), NULL);
        vgpu_pace_forget_stream(handle_of(1));
        streams[1].ended = true;
        sleep_until(machine_ns + 3 * MS, NULL);
    }
}

static void test_streams_that_end(void) {
    begin(50, true);
    bad_records = 0;
    timed_records = 0;
    start(end_streams, 0);
    run_threads(end_of_test + 1000 * MS);
    check(timed_records > 1000, "streams destroyed at work: timed marks", (double)timed_records);
    check(bad_records == 0, "… into a destroyed one", bad_records);
}

static void launch_and_end(int unused) {
    (void)unused;
    while (machine_ns < end_of_test) {
        launch_kind(0, KERNEL, 0x7000, kernel_ns, 4 * US);
        end_context();
    }
}

static void test_contexts(void) {
    static const uint64_t lengths_ms[] = {1, 5, 20};
    for (int i = 0; i < 3; i++) {
        char name[80];
        begin(25, true);
        kernel_ns = lengths_ms[i] * MS;
        start(launch_and_end, 0);
        run_threads(end_of_test + 1000 * MS);
        double got = percent_of(busy_ns, machine_ns - begin_of_test);
        snprintf(name, sizeof name, "a kernel of %d ms, and the context is destroyed, at 25 %%",
                 (int)lengths_ms[i]);
        check(got > 18 && got < 26.5, name, got);
    }
}

/* A kernel fails before it was timed; in the next context it is a new one. */
static uint64_t slowest_ns;
static void fail_once(int unused) {
    (void)unused;
    launch_kind(0, KERNEL, 0x7000, 500 * US, 4 * US);
    broken = true;
    spend(5 * MS);
    struct vgpu_sync sync;
    vgpu_pace_sync_begin(&sync, NULL, false, false);
    vgpu_pace_look(&sync);
    end_context();
    broken = false;
    for (int i = 0; i < 6; i++) {
        uint64_t before = machine_ns;
        launch_kind(0, KERNEL, 0x7000, 500 * US, 4 * US);
        synchronize(0);
        if (machine_ns - before > slowest_ns) slowest_ns = machine_ns - before;
    }
}

static void test_failure(void) {
    begin(90, true);
    slowest_ns = 0;
    start(fail_once, 0);
    run_threads(end_of_test);
    check(slowest_ns > 0 && slowest_ns < 2 * MS,
          "after a kernel that failed, in a new context: slowest of 0.5 ms, ms",
          (double)slowest_ns / (double)MS);
}

int main(void) {
    test_frames();
    test_waits();
    test_bursts();
    test_polls();
    test_listening();
    test_own_default();
    test_cold();
    test_groups();
    test_slow_call();
    test_streams_that_end();
    test_contexts();
    test_failure();
    return failures != 0;
}
