/* Classes of streams: communication never waits, weights and dampening change what is charged.
 * Sources: shim/pace.c, shim/grant.c, shim/marks.c, shim/capture.c, shim/book.c, shim/gate.c,
 * shim/slice.c, shim/stall.c, shim/rota.c, shim/gang.c,
 * shim/gang_turns.c, shim/turn.c, shim/slot.c, shim/class.c. */
#include "pace_machine.h"

#include <errno.h>

#include "../../shim/include/vgpu.h"

int vgpu_stream_class(void *stream, enum vgpu_class what);

static uint64_t end_of_test, longest_ns;
static enum vgpu_class class_of_stream;

static void saturate(int stream) {
    vgpu_stream_class(handle_of(stream), class_of_stream);
    while (machine_ns < end_of_test) launch(stream, 50 * US, 4 * US);
}

static void communicate(uintptr_t function) {
    for (longest_ns = 0; machine_ns < end_of_test; spend(1 * MS)) {
        uint64_t begin = machine_ns;
        launch_kind(2, KERNEL, function, 20 * US, 4 * US);
        if (machine_ns - begin > longest_ns) longest_ns = machine_ns - begin;
    }
}
static void communicate_by_name(int unused) {
    (void)unused;
    communicate(NCCL);
}
static void communicate_by_hint(int unused) {
    (void)unused;
    vgpu_stream_class(handle_of(2), VGPU_CLASS_COMMUNICATION);
    communicate(0x4000);
}
static void compute_beside(int unused) {
    (void)unused;
    communicate(0x4000);
}

/* Percent of the GPU's time that two seconds of both programs took. */
static double run_beside(void (*other)(int)) {
    begin_session(250000);
    class_of_stream = VGPU_CLASS_DEFAULT;
    end_of_test = machine_ns + 2000 * MS;
    start(saturate, 1);
    start(other, 0);
    run_threads(end_of_test + 1000 * MS);
    return 100.0 * (double)busy_ns / (2000.0 * (double)MS);
}

static double share_of_class(enum vgpu_class class, uint32_t dampening_ppm) {
    begin_session(400000);
    region->header.class_weight_ppm[VGPU_CLASS_ATTENTION] = 2000000;
    region->header.dampening_ppm = dampening_ppm;
    class_of_stream = class;
    end_of_test = machine_ns + 4000 * MS;
    start(saturate, 1);
    run_threads(end_of_test + 1000 * MS);
    return 100.0 * (double)busy_ns / (4000.0 * (double)MS);
}

int main(void) {
    run_beside(compute_beside);
    check(longest_ns > 1 * MS, "a launch waits beside a saturating stream (us)",
          (double)longest_ns / 1e3);
    double busy = run_beside(communicate_by_name);
    check(longest_ns < 100 * US, "NCCL's kernels do not (us)", (double)longest_ns / 1e3);
    check(busy > 23 && busy < 28, "but are charged", busy);
    check(name_calls < 10, "names are asked for once a function", name_calls);
    run_beside(communicate_by_hint);
    check(longest_ns < 100 * US, "nor does a stream hinted as communication (us)",
          (double)longest_ns / 1e3);
    errno = 0;
    check(vgpu_stream_class(NULL, (enum vgpu_class)9) == -1 && errno == EINVAL,
          "a class that there is not is refused", 0);

    double plain = share_of_class(VGPU_CLASS_DEFAULT, 0);
    check(plain > 39 && plain < 41.5, "40 %, class default", plain);
    double heavy = share_of_class(VGPU_CLASS_ATTENTION, 0);
    check(heavy > 19 && heavy < 21.5, "a class of weight 2.0 gets half", heavy);
    double damped = share_of_class(VGPU_CLASS_DEFAULT, 500000);
    check(damped > 78 && damped < 83, "dampening 0.5 charges half", damped);
    return failures != 0;
}
