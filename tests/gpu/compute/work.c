/* The test program of the compute checks: launches kernels of known work and notes when each one
 * ran, by the card's own clock (%globaltimer), so that what it got is known without asking the
 * gate.
 *
 *   work --kernels kernels.cubin --turns T --us 50 --seconds 3 [--warm 0.5] --out FILE
 *     what is launched   [--streams N] [--threads N] [--processes N] [--sync] [--graph NODES]
 *                        [--cooperative] [--overlap]   kernels leave room for each other
 *                        [--blocking]                  waits sleep instead of spinning
 *     when               [--barrier FILE --parties N]  start when N processes have come to FILE
 *                        [--every MS --step US]        open loop: US of work is due every MS
 *                        [--wait HOW]                  for a step: stream (the default), event,
 *                                                      context, copy, twice (by stream, and again
 *                                                      before the next step) or none
 *                        [--on MS --off MS]            work for MS, then sleep for MS
 *                        [--idle S]                    afterwards do nothing for S seconds
 *                        [--endless S]                 after the warm-up one kernel of S seconds
 *     [--live FILE]      spans go straight to this file, and survive kill -9
 *   work --kernels kernels.cubin --calibrate           {"turns_per_us": …, "gpu": ns}
 *   … --sim              the simulated GPU: lengths from VGPU_SIM_KERNELS, spans from events
 *
 * SIGTERM ends it early and well.
 * Prints {"ready": PID, "region": PATH} when it begins, and one JSON object at the end. FILE
 * (FILE.1, … for further processes) holds start and end of each kernel, two 64-bit words of ns. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../../shim/cuda_abi.h"

#define MAX_THREADS 16
#define MAX_STREAMS 16
#define MAX_PROCESSES 8
#define MAX_ROUNDS 256
#define MAX_STEPS 16384
#define CAPACITY (UINT64_C(4) << 20)
#define AHEAD_US 4000.0     /* work between two looks at the GPU; twice that is queued at most */
#define SHARED_BYTES 120000 /* more than half of an SM's: one block of a full kernel per SM */
#define DEADLINE_S 60.0

struct span {
    uint64_t start, end;
};

/* What one process found; in memory shared with the first one. Seconds, ns, launches. */
struct found {
    _Atomic bool done;
    uint64_t kernels;        /* that ran */
    uint64_t window_kernels; /* launched in the window */
    double window_s, cpu_ns, watch_ns, idle_cpu_ns, idle_watch_ns;
    uint64_t mono[2], gpu[2]; /* the same moment on both clocks, before and after */
    uint32_t steps_due, steps_done, rounds;
    double latency_ns[MAX_STEPS];
    uint64_t round_mono[MAX_ROUNDS];
};

static struct {
    const char *kernels, *out, *barrier, *live, *wait;
    double us, seconds, warm, every_ms, step_us, on_ms, off_ms, idle, endless;
    uint64_t turns;
    int streams, threads, processes, graph, parties;
    bool sync, cooperative, overlap, blocking, calibrate, sim;
} option = {.us = 50,
            .seconds = 3,
            .warm = 0.5,
            .streams = 1,
            .threads = 1,
            .processes = 1,
            .wait = "stream"};

static void *cuda;
static CUcontext context;
static CUfunction spin, stamp, endless;
static CUdeviceptr count;
static CUdeviceptr spans; /* on the card, or the mapped live file */
static struct span *live;
static int sms;
static uint64_t *stamped;
static struct found *found;
static double begin_s, warm_until_s, until_s;
static _Atomic uint64_t launched[MAX_THREADS];

/* clang-format off */
#define FUNCTIONS(F) \
    F(cuInit) F(cuDevicePrimaryCtxRetain) F(cuDevicePrimaryCtxSetFlags_v2) \
    F(cuCtxSetCurrent) F(cuCtxSynchronize) F(cuModuleLoadData) F(cuModuleGetFunction) \
    F(cuFuncSetAttribute) F(cuDeviceGetAttribute) F(cuMemAlloc_v2) F(cuMemcpyDtoH_v2) \
    F(cuMemsetD8_v2) F(cuMemHostAlloc) F(cuMemHostRegister_v2) \
    F(cuMemHostGetDevicePointer_v2) F(cuStreamCreate) F(cuStreamSynchronize) \
    F(cuStreamBeginCapture_v2) F(cuStreamEndCapture) F(cuEventCreate) F(cuEventRecord) \
    F(cuEventSynchronize) F(cuEventElapsedTime) F(cuGraphInstantiateWithFlags) \
    F(cuGraphLaunch) F(cuLaunchKernel) F(cuLaunchCooperativeKernel)
/* clang-format on */
static struct {
#define DECLARE(name) typeof(&name) name;
    FUNCTIONS(DECLARE)
} cu;

#define MUST(call)                                                                                 \
    do {                                                                                           \
        CUresult code_ = (call);                                                                   \
        if (code_ != CUDA_SUCCESS) {                                                               \
            fprintf(stderr, "work: %s: error %d\n", #call, (int)code_);                            \
            _exit(3);                                                                              \
        }                                                                                          \
    } while (0)

static uint64_t mono_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static double now_s(void) { return (double)mono_ns() * 1e-9; }

static void sleep_until(double s) {
    struct timespec t = {.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) {
    }
}

static volatile sig_atomic_t stopped; /* SIGTERM: end now, and well */

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

static void sleep_unless_stopped(double s) {
    for (double t; !stopped && (t = now_s()) < s;) sleep_until(t + 0.05 < s ? t + 0.05 : s);
}

static double cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static bool read_text(char *text, size_t room, const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return false;
    ssize_t got = read(fd, text, room - 1);
    close(fd);
    text[got < 0 ? 0 : got] = 0;
    return got > 0;
}

/* CPU time of the shim's own threads so far, ns; -1 if the kernel does not tell. */
static double watch_ns(void) {
    double sum = 0;
    DIR *folder = opendir("/proc/self/task");
    if (!folder) return -1;
    for (struct dirent *entry; (entry = readdir(folder)) && sum >= 0;) {
        char path[320], text[128];
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        if (!read_text(text, sizeof text, path) || strncmp(text, "vgpu-", 5)) continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", entry->d_name);
        sum = read_text(text, sizeof text, path) ? sum + strtod(text, NULL) : -1;
    }
    closedir(folder);
    return sum;
}

static void find_functions(void) {
    cuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (!cuda) fprintf(stderr, "work: %s\n", dlerror()), _exit(2);
#define FIND(name)                                                                                 \
    if (!(*(void **)&cu.name = dlsym(cuda, #name)))                                                \
        fprintf(stderr, "work: the driver has no %s\n", #name), _exit(2);
    FUNCTIONS(FIND)
}

static void *read_image(void) {
    if (option.sim) return "any image";
    int fd = open(option.kernels ? option.kernels : "", O_RDONLY);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    void *image = size < 0 ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (image == MAP_FAILED) fprintf(stderr, "work: --kernels: cannot read the cubin\n"), _exit(2);
    return image;
}

static void launch_spin(CUstream stream) {
    uint64_t capacity = CAPACITY;
    void *parameters[] = {&option.turns, &spans, &count, &capacity};
    unsigned shared = option.overlap ? 0 : SHARED_BYTES;
    if (option.cooperative)
        MUST(cu.cuLaunchCooperativeKernel(spin, (unsigned)sms, 1, 1, 32, 1, 1, shared, stream,
                                          parameters));
    else
        MUST(cu.cuLaunchKernel(spin, (unsigned)sms, 1, 1, 32, 1, 1, shared, stream, parameters,
                               NULL));
}

/* On the simulated GPU kernels note nothing: an event behind each submission says when it ended. */
struct sim_note {
    CUevent event;
    double us;
    int kernels;
};
static struct sim_note *sim_notes;
static _Atomic uint64_t sim_noted;
static CUevent sim_base;
static uint64_t sim_base_ns;

static void sim_note(CUstream stream, int kernels) {
    struct sim_note *note = &sim_notes[atomic_fetch_add(&sim_noted, 1)];
    *note = (struct sim_note){.us = option.us, .kernels = kernels};
    MUST(cu.cuEventCreate(&note->event, 0));
    MUST(cu.cuEventRecord(note->event, stream));
}

static uint64_t sim_collect(struct span *into) {
    uint64_t kernels = 0;
    for (uint64_t i = 0; i < sim_noted; i++) {
        float ms;
        MUST(cu.cuEventElapsedTime(&ms, sim_base, sim_notes[i].event));
        uint64_t length = (uint64_t)(sim_notes[i].us * 1000);
        uint64_t at =
            sim_base_ns + (uint64_t)((double)ms * 1e6) - length * (uint64_t)sim_notes[i].kernels;
        for (int k = 0; k < sim_notes[i].kernels && kernels < CAPACITY; k++, at += length)
            into[kernels++] = (struct span){at, at + length};
    }
    return kernels;
}

/* The same moment on the host's and on the card's clock: the tightest of some tries. */
static void anchor(int which) {
    if (option.sim) {
        found->mono[which] = found->gpu[which] = mono_ns();
        return;
    }
    uint64_t best = UINT64_MAX;
    CUdeviceptr out;
    CUstream stream;
    MUST(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cu.cuMemHostGetDevicePointer_v2(&out, stamped, 0));
    for (int i = 0; i < 20; i++) {
        void *parameters[] = {&out};
        uint64_t before = mono_ns();
        MUST(cu.cuLaunchKernel(stamp, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
        MUST(cu.cuStreamSynchronize(stream));
        uint64_t after = mono_ns();
        if (after - before >= best) continue;
        best = after - before;
        found->mono[which] = before + best / 2;
        found->gpu[which] = *stamped;
    }
}

static void prepare(void) {
    char length[64];
    snprintf(length, sizeof length, "spin=%g,endless=%g,stamp=2", option.us, option.endless * 1e6);
    if (option.sim) setenv("VGPU_SIM_KERNELS", length, 1);
    find_functions();
    CUmodule module;
    MUST(cu.cuInit(0));
    if (option.blocking) MUST(cu.cuDevicePrimaryCtxSetFlags_v2(0, CU_CTX_SCHED_BLOCKING_SYNC));
    MUST(cu.cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cu.cuCtxSetCurrent(context));
    MUST(cu.cuDeviceGetAttribute(&sms, 16 /* MULTIPROCESSOR_COUNT */, 0));
    MUST(cu.cuModuleLoadData(&module, read_image()));
    MUST(cu.cuModuleGetFunction(&spin, module, "spin"));
    MUST(cu.cuModuleGetFunction(&stamp, module, "stamp"));
    MUST(cu.cuModuleGetFunction(&endless, module, "endless"));
    if (!option.overlap)
        MUST(cu.cuFuncSetAttribute(spin, 8 /* MAX_DYNAMIC_SHARED_SIZE_BYTES */, SHARED_BYTES));
    MUST(cu.cuMemAlloc_v2(&count, sizeof(uint64_t)));
    MUST(cu.cuMemsetD8_v2(count, 0, sizeof(uint64_t)));
    MUST(cu.cuMemHostAlloc((void **)&stamped, sizeof *stamped, 2 /* DEVICEMAP */));
    if (option.live) {
        int fd = open(option.live, O_RDWR | O_CREAT | O_TRUNC, 0600);
        size_t bytes = CAPACITY / 4 * sizeof(struct span);
        if (fd < 0 || ftruncate(fd, (off_t)bytes)) perror("work: --live"), _exit(2);
        live = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (live == MAP_FAILED) perror("work: --live"), _exit(2);
        if (!option.sim && cu.cuMemHostRegister_v2(live, bytes, 2 /* DEVICEMAP */)) {
            fprintf(stderr, "work: the card cannot map --live: its spans are not kept\n");
            live = NULL;
        } else if (!option.sim) MUST(cu.cuMemHostGetDevicePointer_v2(&spans, live, 0));
    }
    if (!live && !option.sim) MUST(cu.cuMemAlloc_v2(&spans, CAPACITY * sizeof(struct span)));
    if (option.sim) {
        sim_notes = calloc(CAPACITY, sizeof *sim_notes);
        MUST(cu.cuEventCreate(&sim_base, 0));
        MUST(cu.cuCtxSynchronize());
        sim_base_ns = mono_ns();
        MUST(cu.cuEventRecord(sim_base, NULL));
    }
}

/* Waits until `parties` processes have come; gives up after a minute. */
static void meet(void) {
    if (!option.barrier) return;
    int fd = open(option.barrier, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, 4096)) perror("work: --barrier"), _exit(2);
    _Atomic uint32_t *came = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (came == MAP_FAILED) perror("work: --barrier"), _exit(2);
    atomic_fetch_add(came, 1);
    for (double limit = now_s() + DEADLINE_S; atomic_load(came) < (uint32_t)option.parties;) {
        if (now_s() > limit) fprintf(stderr, "work: the others did not come\n"), _exit(7);
        usleep(500);
    }
}

struct lane { /* one thread's streams */
    CUstream stream[MAX_STREAMS];
    CUevent event[2][MAX_STREAMS];
    CUgraphExec graph;
    int batch, turn, index;
};

static void submit(struct lane *lane, CUstream stream) {
    int kernels = option.graph ? option.graph : 1;
    if (lane->graph) MUST(cu.cuGraphLaunch(lane->graph, stream));
    else launch_spin(stream);
    if (option.sim) sim_note(stream, kernels);
    atomic_fetch_add(&launched[lane->index], (uint64_t)kernels);
    if (option.sync) MUST(cu.cuStreamSynchronize(stream));
}

static bool waits_by(const char *how) { return !strcmp(option.wait, how); }

static void open_lane(struct lane *lane) {
    unsigned flags = CU_EVENT_DISABLE_TIMING | (option.blocking ? CU_EVENT_BLOCKING_SYNC : 0U);
    for (int i = 0; i < option.streams; i++) {
        unsigned int kind = waits_by("copy") ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING;
        MUST(cu.cuStreamCreate(&lane->stream[i], kind)); /* a copy waits for the blocking ones */
        for (int k = 0; k < 2; k++) MUST(cu.cuEventCreate(&lane->event[k][i], flags));
    }
    if (option.graph) {
        CUgraph captured;
        MUST(cu.cuStreamBeginCapture_v2(lane->stream[0], CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        for (int i = 0; i < option.graph; i++) launch_spin(lane->stream[0]);
        MUST(cu.cuStreamEndCapture(lane->stream[0], &captured));
        MUST(cu.cuGraphInstantiateWithFlags(&lane->graph, captured, 0));
    }
    lane->batch = (int)(AHEAD_US / (option.us * (option.graph ? option.graph : 1))) + 1;
}

static void drain(struct lane *lane) {
    for (int i = 0; i < option.streams; i++) MUST(cu.cuStreamSynchronize(lane->stream[i]));
}

/* Keeps one to two batches queued until then. */
static void saturate(struct lane *lane, double until) {
    for (bool first = true; !stopped && now_s() < until; lane->turn++, first = false) {
        for (int i = 0; i < lane->batch && now_s() < until; i++)
            submit(lane, lane->stream[(lane->turn * lane->batch + i) % option.streams]);
        for (int i = 0; i < option.streams; i++) {
            MUST(cu.cuEventRecord(lane->event[lane->turn % 2][i], lane->stream[i]));
            if (!first) MUST(cu.cuEventSynchronize(lane->event[(lane->turn + 1) % 2][i]));
        }
    }
}

static void wait_for_step(struct lane *lane) {
    uint64_t word;
    if (waits_by("none")) return;
    if (waits_by("copy")) MUST(cu.cuMemcpyDtoH_v2(&word, count, sizeof word));
    else if (waits_by("context")) MUST(cu.cuCtxSynchronize());
    else if (waits_by("event")) {
        for (int i = 0; i < option.streams; i++)
            MUST(cu.cuEventRecord(lane->event[0][i], lane->stream[i]));
        for (int i = 0; i < option.streams; i++) MUST(cu.cuEventSynchronize(lane->event[0][i]));
    } else drain(lane);
}

/* A step is due every so often, whether or not the last one was done in time. */
static void open_loop(struct lane *lane) {
    int kernels = (int)(option.step_us / option.us + 0.5);
    double period = option.every_ms * 1e-3;
    for (int k = 0;; k++) {
        double due = begin_s + k * period;
        if (due >= until_s) break;
        if (now_s() < due) sleep_until(due);
        bool counts = due >= warm_until_s && found->steps_due < MAX_STEPS;
        if (now_s() < until_s + DEADLINE_S / 6) {
            if (waits_by("twice")) drain(lane);
            for (int i = 0; i < kernels; i++) submit(lane, lane->stream[i % option.streams]);
            wait_for_step(lane);
        }
        double done = now_s();
        if (!counts) continue;
        found->latency_ns[found->steps_due++] = (done - due) * 1e9;
        found->steps_done += done <= until_s + period;
    }
}

static void in_rounds(struct lane *lane) {
    for (double at = begin_s; at < until_s && found->rounds < MAX_ROUNDS;) {
        found->round_mono[found->rounds++] = mono_ns();
        saturate(lane, at + option.on_ms * 1e-3);
        drain(lane);
        at = now_s() + option.off_ms * 1e-3;
        sleep_until(at);
    }
}

static void run_endless(struct lane *lane) {
    saturate(lane, warm_until_s);
    drain(lane);
    uint64_t limit = (uint64_t)(option.endless * 1e9);
    void *parameters[] = {&limit};
    printf("{\"endless\": %lu}\n", mono_ns());
    fflush(stdout);
    MUST(cu.cuLaunchKernel(endless, 1, 1, 1, 1, 1, 1, 0, lane->stream[0], parameters, NULL));
    drain(lane);
}

static void *work(void *argument) {
    struct lane *lane = argument;
    MUST(cu.cuCtxSetCurrent(context));
    if (option.every_ms > 0) open_loop(lane);
    else if (option.on_ms > 0) in_rounds(lane);
    else if (option.endless > 0) run_endless(lane);
    else saturate(lane, until_s);
    drain(lane);
    return NULL;
}

static uint64_t all_launched(void) {
    uint64_t sum = 0;
    for (int i = 0; i < option.threads; i++) sum += atomic_load(&launched[i]);
    return sum;
}

static void save(int process) {
    uint64_t ran = 0;
    struct span *host = live;
    if (option.sim) {
        host = calloc(CAPACITY, sizeof *host);
        ran = sim_collect(host);
    } else {
        MUST(cu.cuMemcpyDtoH_v2(&ran, count, sizeof ran));
        if (ran > CAPACITY / (live ? 4 : 1))
            fprintf(stderr, "work: %lu kernels, no room for their spans\n", ran), _exit(4);
        if (!live && ran) {
            host = calloc(ran, sizeof *host);
            MUST(cu.cuMemcpyDtoH_v2(host, spans, ran * sizeof *host));
        }
    }
    if (ran != all_launched())
        fprintf(stderr, "work: launched %lu kernels, %lu ran\n", all_launched(), ran), _exit(4);
    found->kernels = ran;
    if (!option.out) return;
    char path[4096];
    snprintf(path, sizeof path, process ? "%s.%d" : "%s", option.out, process);
    FILE *file = fopen(path, "w");
    if (!file || fwrite(host, sizeof *host, ran, file) != ran || fclose(file))
        perror("work: --out"), _exit(5);
}

static void run_process(int process) {
    static struct lane lane[MAX_THREADS];
    static pthread_t thread[MAX_THREADS];
    prepare();
    for (int i = 0; i < option.threads; i++) lane[i].index = i, open_lane(&lane[i]);
    anchor(0);
    if (process == 0) {
        const char *region = getenv("VGPU_REGION");
        printf("{\"ready\": %d, \"region\": \"%s\"}\n", (int)getpid(), region ? region : "");
        fflush(stdout);
    }
    meet();
    begin_s = now_s();
    warm_until_s = begin_s + option.warm;
    until_s = warm_until_s + option.seconds;
    for (int i = 0; i < option.threads; i++) pthread_create(&thread[i], NULL, work, &lane[i]);
    sleep_until(warm_until_s);
    double s = now_s(), cpu = cpu_ns(), watch = watch_ns();
    uint64_t before = all_launched();
    sleep_unless_stopped(until_s);
    found->window_kernels = all_launched() - before;
    found->window_s = now_s() - s;
    found->cpu_ns = cpu_ns() - cpu;
    found->watch_ns = watch_ns() - watch;
    for (int i = 0; i < option.threads; i++) pthread_join(thread[i], NULL);
    MUST(cu.cuCtxSynchronize());
    if (option.idle > 0) {
        sleep_until(now_s() + 0.3);
        cpu = cpu_ns(), watch = watch_ns();
        sleep_until(now_s() + option.idle);
        found->idle_watch_ns = watch_ns() - watch;
        found->idle_cpu_ns = cpu_ns() - cpu;
    }
    anchor(1);
    save(process);
    found->done = true;
}

/* Turns of the kernel's loop in a microsecond, at the clock that the card works at. */
static void calibrate(void) {
    option.us = 1000;
    option.turns = 400000;
    prepare();
    CUstream stream;
    struct span span[64];
    double best = 0;
    MUST(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 640; i++) { /* the clocks rise first */
        launch_spin(stream);
        if (i % 64 == 63) MUST(cu.cuStreamSynchronize(stream));
    }
    if (!option.sim) {
        MUST(cu.cuMemcpyDtoH_v2(span, spans + 576 * sizeof *span, sizeof span));
        for (int i = 0; i < 64; i++) {
            double rate = (double)option.turns * 1e3 / (double)(span[i].end - span[i].start);
            if (rate > best) best = rate;
        }
    } else best = 1;
    printf("{\"turns_per_us\": %.4f, \"gpu\": \"%lu\"}\n", best,
           option.sim ? mono_ns() : span[0].start);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const struct found *all) {
    struct found sum = all[0];
    for (int p = 1; p < option.processes; p++) {
        sum.kernels += all[p].kernels, sum.window_kernels += all[p].window_kernels;
        sum.cpu_ns += all[p].cpu_ns, sum.watch_ns += all[p].watch_ns;
    }
    qsort(sum.latency_ns, sum.steps_due, sizeof sum.latency_ns[0], by_value);
    uint32_t n = sum.steps_due;
    double p50 = n ? sum.latency_ns[n / 2] : 0, p99 = n ? sum.latency_ns[(n * 99 - 1) / 100] : 0;
    printf("{\"kernels\": %lu, \"window_kernels\": %lu, \"window_s\": %.6f, \"cpu_ns\": %.0f, "
           "\"watch_ns\": %.0f, \"idle_cpu_ns\": %.0f, \"idle_watch_ns\": %.0f, ",
           sum.kernels, sum.window_kernels, sum.window_s, sum.cpu_ns, sum.watch_ns, sum.idle_cpu_ns,
           sum.idle_watch_ns);
    /* As text: they do not fit into a double. */
    printf("\"mono\": [\"%lu\", \"%lu\"], \"gpu\": [\"%lu\", \"%lu\"], ", sum.mono[0], sum.mono[1],
           sum.gpu[0], sum.gpu[1]);
    printf("\"steps_due\": %u, \"steps_done\": %u, \"p50_ns\": %.0f, \"p99_ns\": %.0f, ", n,
           sum.steps_done, p50, p99);
    printf("\"rounds\": [");
    for (uint32_t i = 0; i < sum.rounds; i++) printf("%s\"%lu\"", i ? ", " : "", sum.round_mono[i]);
    printf("]}\n");
}

static void parse(int argc, char **argv) {
    static const struct {
        const char *name;
        char kind; /* d, i, s: a value; b: none */
        void *at;
    } table[] = {
        {"--kernels", 's', &option.kernels},
        {"--out", 's', &option.out},
        {"--barrier", 's', &option.barrier},
        {"--live", 's', &option.live},
        {"--wait", 's', &option.wait},
        {"--us", 'd', &option.us},
        {"--seconds", 'd', &option.seconds},
        {"--warm", 'd', &option.warm},
        {"--every", 'd', &option.every_ms},
        {"--step", 'd', &option.step_us},
        {"--on", 'd', &option.on_ms},
        {"--off", 'd', &option.off_ms},
        {"--idle", 'd', &option.idle},
        {"--endless", 'd', &option.endless},
        {"--turns", 'u', &option.turns},
        {"--streams", 'i', &option.streams},
        {"--threads", 'i', &option.threads},
        {"--processes", 'i', &option.processes},
        {"--graph", 'i', &option.graph},
        {"--parties", 'i', &option.parties},
        {"--sync", 'b', &option.sync},
        {"--cooperative", 'b', &option.cooperative},
        {"--overlap", 'b', &option.overlap},
        {"--blocking", 'b', &option.blocking},
        {"--calibrate", 'b', &option.calibrate},
        {"--sim", 'b', &option.sim},
    };
    for (int i = 1; i < argc; i++) {
        size_t k = 0, entries = sizeof table / sizeof table[0];
        while (k < entries && strcmp(table[k].name, argv[i])) k++;
        if (k == entries || (table[k].kind != 'b' && i + 1 == argc))
            fprintf(stderr, "work: %s: unknown, or without its value\n", argv[i]), exit(2);
        switch (table[k].kind) {
        case 'b':
            *(bool *)table[k].at = true;
            break;
        case 's':
            *(const char **)table[k].at = argv[++i];
            break;
        case 'd':
            *(double *)table[k].at = atof(argv[++i]);
            break;
        case 'u':
            *(uint64_t *)table[k].at = strtoull(argv[++i], NULL, 10);
            break;
        default:
            *(int *)table[k].at = atoi(argv[++i]);
        }
    }
    if (option.streams > MAX_STREAMS || option.threads > MAX_THREADS ||
        option.processes > MAX_PROCESSES)
        fprintf(stderr, "work: too many streams, threads or processes\n"), exit(2);
}

int main(int argc, char **argv) {
    parse(argc, argv);
    signal(SIGTERM, stop);
    if (option.calibrate) return calibrate(), 0;
    struct found *all = mmap(NULL, MAX_PROCESSES * sizeof *all, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return perror("work"), 2;
    pid_t child[MAX_PROCESSES];
    for (int p = 1; p < option.processes; p++)
        if ((child[p] = fork()) == 0) {
            found = &all[p];
            run_process(p);
            _exit(0);
        }
    found = &all[0];
    run_process(0);
    for (int p = 1; p < option.processes; p++)
        if (waitpid(child[p], NULL, 0) != child[p] || !all[p].done)
            return fprintf(stderr, "work: process %d failed\n", p), 6;
    print(all);
    return 0;
}
