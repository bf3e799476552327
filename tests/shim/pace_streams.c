/* Shares of programs with several threads and streams whose kernels each fill the GPU: streams are
 * served in any order, and a kernel that runs is not interrupted. Virtual time. Sources:
 * shim/pace.c, shim/grant.c, shim/marks.c, shim/capture.c, shim/book.c, shim/gate.c, shim/slice.c,
 * shim/stall.c, shim/rota.c, shim/gang.c, shim/gang_turns.c, shim/turn.c, shim/slot.c,
 * shim/class.c. */
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pace_machine.h"

#ifdef __SANITIZE_ADDRESS__
#define MOST 2 /* threads: ten times as slow */
#else
#define MOST 8
#endif

static uint64_t end_of_test, kernel_ns;

static void saturate(int stream) {
    const struct stream *queue = &streams[stream];
    while (machine_ns < end_of_test) {
        launch_kind(stream, KERNEL, 0x7000, kernel_ns, 4 * US);
        while (queue->tail - queue->head >= 1000) spend(100 * US);
    }
}

/* One thread, all streams. */
static void saturate_all(int count) {
    while (machine_ns < end_of_test)
        for (int stream = 1; stream <= count; stream++)
            launch_kind(stream, KERNEL, 0x7000, kernel_ns, 4 * US);
}

/* Percent of the time that kernels ran, once they are known. */
static double share(bool threads, int count, uint32_t ppm, uint64_t span_ns) {
    begin_session(ppm);
    one_at_a_time = true;
    late_min_ns = 5 * US;
    late_max_ns = 110 * US;
    begin_without_credit();
    uint64_t warm = machine_ns + 200 * MS;
    end_of_test = warm + span_ns;
    for (int i = 1; threads && i <= count; i++) start(saturate, i);
    if (!threads) start(saturate_all, count);
    run_threads(warm);
    uint64_t busy = busy_ns, free = gpu_free_ns;
    run_threads(end_of_test);
    return 100.0 * (double)(busy_ns - busy) / (double)(gpu_free_ns - free);
}

/* In a process of its own: the shim keeps a context's events for its life. NAN if it crashes. */
static double share_of_its_own(bool threads, int count, uint32_t percent, uint64_t span_ns) {
    double got = NAN;
    int ends[2];
    if (pipe(ends)) return got;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        got = share(threads, count, percent * 10000, span_ns);
        _exit(write(ends[1], &got, sizeof got) != sizeof got);
    }
    close(ends[1]);
    if (read(ends[0], &got, sizeof got) != sizeof got) got = NAN;
    close(ends[0]);
    waitpid(child, NULL, 0);
    return got;
}

static double sum, worst;
static int cells;

static void test_lengths(bool threads, int count) {
    static const uint64_t lengths_us[] = {10, 50, 500, 5000};
    static const uint32_t shares[] = {10, 25, 50, 75, 90};
    char name[80];
    for (unsigned l = 0; l < 4; l++)
        for (unsigned s = 0; s < 5; s++) {
            kernel_ns = lengths_us[l] * US;
            uint64_t span = kernel_ns < 50 * US ? 500 * MS
                            : kernel_ns < MS    ? 1000 * MS
                                                : 20000 * MS;
            double got = share_of_its_own(threads, count, shares[s], span);
            double error = fabs(got - shares[s]);
            sum += error;
            cells++;
            if (!(error <= worst)) worst = error;
            snprintf(name, sizeof name, "%d %s, kernels of %lu us, at %u %%", count,
                     threads ? "threads" : "streams of one thread", (unsigned long)lengths_us[l],
                     shares[s]);
            check(error <= 2, name, got);
        }
}

int main(void) {
    for (int count = 2; count <= MOST; count *= 2) test_lengths(true, count);
    test_lengths(false, 4);
    check(sum / cells <= 0.5, "mean error, points", sum / cells);
    check(worst <= 2, "worst error, points", worst);
    return failures != 0;
}
