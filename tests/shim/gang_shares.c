/* Data-parallel jobs on two GPUs, in virtual time: each rank computes, then meets the other one in
 * a collective. As a gang they get their shares; without one they crawl, alone and beside each
 * other. Sources: shim/pace.c, shim/grant.c, shim/marks.c, shim/capture.c, shim/book.c,
 * shim/gate.c, shim/slice.c, shim/stall.c, shim/rota.c, shim/gang.c, shim/gang_turns.c,
 * shim/turn.c, shim/slot.c, shim/class.c. */
#include "pace_machine.h"

#include <unistd.h>

#include "../../shim/gang.h"

#define SECONDS 3

/* Two jobs of two ranks, each rank a process of its own: GPU 0 and 1 are those of the first, 2 and
 * 3 are the same cards as the second calls them. */
static struct job {
    struct vgpu_region *region;
    struct vgpu_session session[2];
} jobs[2];
static struct vgpu_board *boards[2];

static uint64_t end_of_test, count_from;
static unsigned kernels_a_step = 10;
static uint64_t kernel_ns = 100 * US;
static int sync_every;

static bool one_process; /* has both GPUs */

static void launch_on(int gpu, enum kind kind, uintptr_t function, uint64_t took_ns) {
    running->gpu = gpu;
    launch_kind(1 + gpu, kind, function, took_ns, 4 * US);
}

static void train(int first) {
    int last = one_process ? first + 1 : first;
    for (int step = 1; machine_ns < end_of_test; step++) {
        for (unsigned i = 0; i < kernels_a_step; i++)
            for (int gpu = first; gpu <= last; gpu++)
                launch_on(gpu, KERNEL, 0x1000 + i,
                          kernel_ns * 9 / 10 + random_below(kernel_ns / 5));
        for (int gpu = first; gpu <= last; gpu++) launch_on(gpu, MEET, NCCL, 40 * US);
        const struct stream *stream = &streams[1 + last];
        if (sync_every && step % sync_every == 0) synchronize(1 + last);
        while (stream->tail - stream->head > 1000 || stream->end_ns > machine_ns + 20 * MS)
            spend(100 * US); /* the driver's queue is full */
    }
}

static void seat(int which, int rank, uint32_t ppm) {
    struct vgpu_board *board = boards[rank];
    struct vgpu_seat *seat = &board->seats[which];
    seat->owner = (uint64_t)(which + 1) << 32 | VGPU_SLOT_LIVE;
    seat->share_ppm = ppm;
    board->header.seats_used = 2;
    place_of[2 * which + rank] =
        (struct vgpu_place_on_board){.board = board, .seat = (uint32_t)which, .owner = seat->owner};
}

static void new_job(int which, uint32_t ppm, uint32_t gang) {
    struct job *job = &jobs[which];
    if (!job->region) job->region = aligned_alloc(64, sizeof *job->region);
    memset(job->region, 0, sizeof *job->region);
    struct vgpu_header *header = &job->region->header;
    header->start_mono_ns = machine_ns - 1000 * MS;
    header->slots_used = 2;
    header->limits_version = 1;
    header->default_share_ppm = ppm;
    header->gang = gang;
    for (int rank = 0; rank < 2; rank++) {
        int gpu = 2 * which + rank;
        struct vgpu_slot *slot = &job->region->slots[rank];
        uint64_t flags;
        char state;
        slot->owner = (uint64_t)getpid() << 32 | VGPU_SLOT_LIVE;
        vgpu_process_stat((uint32_t)getpid(), &slot->start_time, &state, &flags);
        job->region->devices[gpu].state = VGPU_DEVICE_READY;
        job->region->devices[gpu].share_ppm = ppm;
        job->region->devices[gpu].uuid[0] = (uint8_t)rank;
        job->session[rank] =
            (struct vgpu_session){.region = job->region, .slot = slot, .pid = (uint32_t)getpid()};
        session_of[gpu] = &job->session[one_process ? 0 : rank];
        seat(which, rank, ppm);
        if (rank == 0 || !one_process) start(train, gpu)->gpu = gpu;
    }
}

static void begin(void) {
    begin_session(1000000);
    for (int i = 0; i < 2; i++) {
        if (!boards[i]) boards[i] = aligned_alloc(64, sizeof *boards[i]);
        memset(boards[i], 0, sizeof *boards[i]);
    }
    late_min_ns = 20 * US;
    late_max_ns = 60 * US;
    end_of_test = machine_ns + SECONDS * 1000 * MS;
    count_from = machine_ns + 500 * MS;
}

static double native;

/* Collectives of a job that both ranks came to in the time that counts. */
static double steps(int which) {
    unsigned met = 0;
    for (unsigned i = 0; i < PAIRS; i++) {
        const struct meeting *meeting = &meetings[which][i];
        met += meeting->arrived == 2 && meeting->last_ns > count_from &&
               meeting->last_ns < end_of_test;
    }
    return met;
}

static double run_alone(uint32_t ppm, uint32_t gang) {
    begin();
    new_job(0, ppm, gang);
    bool ended = run_threads(end_of_test + 2000 * MS);
    if (!ended && gang != VGPU_GANG_OFF) return -1; /* somebody hangs */
    return native ? 100 * steps(0) / native : steps(0);
}

static double second;
static double run_both(uint32_t first_ppm, uint32_t second_ppm, uint32_t gang) {
    begin();
    new_job(0, first_ppm, gang);
    new_job(1, second_ppm, gang);
    run_threads(end_of_test + 2000 * MS);
    second = 100 * steps(1) / native;
    return 100 * steps(0) / native;
}

static void within(const char *name, double got, double from, double to) {
    check(got > from && got < to, name, got);
}

static void begin_case(unsigned kernels, uint64_t ns, int sync) {
    kernels_a_step = kernels;
    kernel_ns = ns;
    sync_every = sync;
    native = 0;
    native = run_alone(1000000, VGPU_GANG_ON);
}

static void test_shares(void) {
    begin_case(10, 100 * US, 0);
    within("alone at 25 %", run_alone(250000, VGPU_GANG_ON), 23.5, 26.5);
    within("alone at 50 %", run_alone(500000, VGPU_GANG_ON), 48.5, 51.5);
    within("alone at 75 %", run_alone(750000, VGPU_GANG_ON), 73.5, 76.5);
    within("two jobs at 50 %: the first", run_both(500000, 500000, VGPU_GANG_ON), 45, 52);
    within("two jobs at 50 %: the second", second, 45, 52);
    within("25 % beside 75 %: the first", run_both(250000, 750000, VGPU_GANG_ON), 22, 26.5);
    within("25 % beside 75 %: the second", second, 71, 76.5);
}

static void test_auto(void) {
    within("NCCL's kernels make a gang", run_alone(500000, VGPU_GANG_AUTO), 48, 51.5);
    within("and of each of two jobs: the first", run_both(500000, 500000, VGPU_GANG_AUTO), 45, 52);
    within("the second", second, 45, 52);
    within("without a gang one job crawls", run_alone(250000, VGPU_GANG_OFF), -1, 10);
    within("and two do: the first", run_both(500000, 500000, VGPU_GANG_OFF), -1, 25);
    within("the second", second, -1, 25);
}

static void test_programs(void) {
    begin_case(10, 100 * US, 1);
    within("ranks that wait for each step, 25 %", run_alone(250000, VGPU_GANG_ON), 23, 26.5);
    begin_case(40, 20 * US, 0);
    within("short kernels, 50 %", run_alone(500000, VGPU_GANG_ON), 48, 51.5);
    one_process = true;
    begin_case(10, 100 * US, 0);
    within("one process, one thread, two GPUs, 50 %", run_alone(500000, VGPU_GANG_ON), 47, 51.5);
    one_process = false;
}

/* ---- a rank that dies, or does not run -------------------------------------------------------
 */

static void strike(int stopped) {
    spend(500 * MS);
    for (;; spend(700 * MS)) {
        for (int i = 0; i < thread_count; i++) {
            struct thread *victim = threads[i];
            if (victim->gpu != 1 || victim == running) continue;
            victim->done |= !stopped;
            victim->word = NULL;
            if (stopped) victim->wake_ns = machine_ns + 300 * MS;
        }
        if (stopped) continue;
        streams[2].head = streams[2].tail; /* its work goes with it */
        session_of[1]->slot->start_time--; /* another process now */
        return;
    }
}

static void test_strikes(void) {
    begin_case(10, 100 * US, 0);
    for (int stopped = 0; stopped < 2; stopped++) {
        begin();
        new_job(0, 500000, VGPU_GANG_ON);
        new_job(1, 500000, VGPU_GANG_ON);
        start(strike, stopped)->watcher = true;
        run_threads(end_of_test + 2000 * MS);
        const char *name = stopped ? "a rank is stopped for 300 ms in 700, thrice: its job"
                                   : "a rank is killed: its job stands still";
        /* While it is stopped its peer's GPU spins, and the job pays half of that: what it owes
         * afterwards takes most of the 400 ms until the next stop. */
        within(name, 100 * steps(0) / native, stopped ? 5 : -1, stopped ? 45 : 5);
        /* It pays half for what runs beside a robbed rank that never ends. */
        within("the job beside it goes on", 100 * steps(1) / native, 45, 53);
    }
}

int main(void) {
    test_shares();
    test_auto();
    test_programs();
    test_strikes();
    return failures != 0;
}
