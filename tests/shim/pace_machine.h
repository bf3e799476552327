/* A machine for the pacing tests, in virtual time: threads that take turns, a driver
 * that counts its calls, and a GPU whose streams run side by side, or (one_at_a_time) whose kernels
 * each fill it. Included by one test program, which is linked with the shim's pacing and is at once
 * its session, clock and driver. */
#ifndef PACE_MACHINE_H
#define PACE_MACHINE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/atomics.h"
#include "../../shim/capture.h"
#include "../../shim/device.h"
#include "../../shim/interpose.h"
#include "../../shim/pace.h"
#include "../../shim/seat.h"
#include "../../shim/slot.h"
#include "../../shim/wait.h"
#include "../../shim/watch.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define NCCL 0x9999U /* the function that is called like one of NCCL */

static int failures;
static void check(bool good, const char *name, double got) {
    printf("%s %s (%.2f)\n", good ? "ok" : "not ok", name, got);
    failures += !good;
}

static uint64_t random_below(uint64_t bound) {
    static uint64_t state = 88172645463325252U;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return bound ? state % bound : 0;
}

/* --- threads ---------------------------------------------------------------------------------- */

/* Real threads, of which one runs at a time: the others wait for their turn. */
#define THREADS 16
#define GPUS 4
static struct thread {
    sem_t turn;
    void (*run)(int);
    int argument;
    uint64_t wake_ns;
    const uint32_t *word; /* waits for it to change */
    uint32_t ears;
    bool done, watcher;
    int gpu; /* of its current context */
} * threads[THREADS];
static int thread_count;
static struct thread *running;
static sem_t scheduler;
static uint64_t machine_ns;
static uint64_t clock_reads;
static unsigned long sleeps;              /* of threads in the shim */
static uint64_t late_min_ns, late_max_ns; /* how late a sleeper wakes */
#define STARTS_NS (5 * US)                /* from a submission to its start on an idle GPU … */
#define QUERY_NS 500                      /* … and how long asking for an event takes */
#define RECORD_NS 1000                    /* … and recording one */

static uint64_t lateness(void) { return late_min_ns + random_below(late_max_ns - late_min_ns + 1); }

static void sleep_until(uint64_t wake_ns, const uint32_t *word) {
    struct thread *thread = running;
    thread->wake_ns = wake_ns;
    thread->word = word;
    sem_post(&scheduler);
    sem_wait(&thread->turn);
}

static void advance(void);
static uint64_t run_until_ns;

/* The thread is busy on its core. Where nobody else comes before it goes on, no other is asked. */
static void spend(uint64_t ns) {
    uint64_t wake = machine_ns + ns;
    bool next = wake <= run_until_ns;
    for (int i = 0; i < thread_count && next; i++)
        next = threads[i] == running || threads[i]->done || threads[i]->wake_ns > wake;
    if (!next) {
        sleep_until(wake, NULL);
        return;
    }
    running->word = NULL;
    machine_ns = wake;
    advance();
}

uint64_t vgpu_now_ns(void) {
    clock_reads++;
    return machine_ns;
}

/* 3 GHz. */
uint64_t vgpu_ticks(void) { return 3 * machine_ns; }

void vgpu_wait_until(uint64_t deadline_ns) {
    uint64_t deadline = deadline_ns > machine_ns ? deadline_ns : machine_ns;
    sleeps++;
    sleep_until(deadline + lateness(), NULL);
}

void vgpu_wait_word(const uint32_t *word, uint32_t seen, uint64_t deadline_ns, uint32_t ears) {
    if (*word != seen || deadline_ns <= machine_ns) return;
    running->ears = ears;
    sleeps++;
    sleep_until(deadline_ns + lateness(), word);
}

void vgpu_wake_word(uint32_t *word, uint32_t ears) {
    ++*word;
    for (int i = 0; i < thread_count; i++) {
        if (threads[i]->word != word || !(threads[i]->ears & ears)) continue;
        uint64_t wake = machine_ns + lateness();
        if (wake < threads[i]->wake_ns) threads[i]->wake_ns = wake;
    }
}

static void *run_thread(void *argument) {
    struct thread *thread = argument;
    sem_wait(&thread->turn);
    thread->run(thread->argument);
    thread->done = true;
    sem_post(&scheduler);
    return NULL;
}

static struct thread *start(void (*run)(int), int argument) {
    struct thread *thread = calloc(1, sizeof *thread);
    pthread_t id;
    if (!thread || thread_count == THREADS) abort();
    thread->run = run;
    thread->argument = argument;
    thread->wake_ns = machine_ns;
    sem_init(&thread->turn, 0, 0);
    if (pthread_create(&id, NULL, run_thread, thread) || pthread_detach(id)) abort();
    return threads[thread_count++] = thread;
}

/* Runs until all threads but the watcher have ended: true, or until `limit_ns`. */
static bool run_threads(uint64_t limit_ns) {
    run_until_ns = limit_ns;
    for (;;) {
        struct thread *next = NULL;
        int alive = 0;
        for (int i = 0; i < thread_count; i++) {
            if (threads[i]->done) continue;
            alive += !threads[i]->watcher;
            if (!next || threads[i]->wake_ns < next->wake_ns) next = threads[i];
        }
        if (!alive || machine_ns > limit_ns) return !alive;
        if (next->wake_ns > machine_ns) machine_ns = next->wake_ns;
        advance();
        running = next;
        sem_post(&next->turn);
        sem_wait(&scheduler);
    }
}

static struct vgpu_pace *watched[GPUS];
static void watch(int gpu) {
    struct vgpu_pace *pace = watched[gpu];
    for (;;) {
        uint32_t heard = *vgpu_pace_bell(pace);
        uint64_t listens_until, again = vgpu_pace_tend(pace, &listens_until);
        uint64_t until = listens_until ? listens_until : machine_ns + 10000 * MS;
        if (again) vgpu_wait_until(again);
        else vgpu_wait_word(vgpu_pace_bell(pace), heard, until, vgpu_pace_ear(pace));
    }
}

bool vgpu_watch_start(struct vgpu_pace *pace) {
    watched[running->gpu] = pace;
    struct thread *thread = start(watch, running->gpu);
    thread->watcher = true;
    thread->gpu = running->gpu;
    return true;
}

/* --- the GPU ---------------------------------------------------------------------------------- */

#define OPS 65536
#define NEVER UINT64_MAX
enum kind { KERNEL, SPIN, RELEASE, RECORD, MEET };
struct event {
    uint64_t at_ns; /* NEVER: not yet known */
    bool timed;
};
static unsigned long timed_records;
static struct stream {
    struct op {
        enum kind kind;
        uint64_t submit_ns, took_ns;
        struct event *event;
        unsigned pair; /* the n-th spinning kernel waits for the n-th release */
        int gpu;
        bool met; /* it has begun, and is counted in its meeting */
    } ops[OPS];
    unsigned head, tail;
    uint64_t end_ns; /* of all before head */
    bool capturing;
    bool ended; /* destroyed */
} streams[9];   /* 0: the default stream */
#define PAIRS 65536
static uint64_t released_ns[PAIRS], busy_ns; /* 0: not yet */
static unsigned pairs[5];                    /* kernels of a kind so far */
/* Collectives of GPUs 0 and 1, and of 2 and 3: the n-th of one ends when both have begun. */
static struct meeting {
    unsigned arrived;
    uint64_t last_ns;
} meetings[GPUS / 2][PAIRS];
static unsigned meets[GPUS];
static unsigned bad_records; /* into a stream that captures, or has been destroyed */
static struct event events[4096];
static unsigned events_used;

static CUstream handle_of(int stream) {
    return stream ? (CUstream)(uintptr_t)(0x1000 + stream) : NULL;
}
static struct stream *stream_of(CUstream handle) {
    return &streams[handle ? (uintptr_t)handle - 0x1000 : 0];
}

/* Each kernel fills the GPU: one runs at a time, of a stream drawn from all that have one ready. */
static bool one_at_a_time;
static uint64_t gpu_free_ns;

static void pass_records(struct stream *stream) {
    for (; stream->head != stream->tail; stream->head++) {
        struct op *op = &stream->ops[stream->head % OPS];
        if (op->kind != RECORD) break;
        if (op->submit_ns + STARTS_NS > stream->end_ns) stream->end_ns = op->submit_ns + STARTS_NS;
        op->event->at_ns = stream->end_ns;
    }
}

/* Starts each kernel whose time has come. */
static void advance_alone(void) {
    for (;;) {
        struct stream *next = NULL;
        uint64_t start = NEVER, ready = 0;
        for (unsigned s = 0; s < 9; s++) {
            struct stream *stream = &streams[s];
            pass_records(stream);
            if (stream->head == stream->tail) continue;
            uint64_t at = stream->ops[stream->head % OPS].submit_ns + STARTS_NS;
            if (at < gpu_free_ns) at = gpu_free_ns;
            if (at < start) start = at, ready = 0;
            if (at == start && random_below(++ready) == 0) next = stream;
        }
        if (!next || start > machine_ns) return;
        uint64_t took = next->ops[next->head++ % OPS].took_ns;
        next->end_ns = gpu_free_ns = start + took;
        busy_ns += took;
    }
}

/* Runs the streams as far as it is known when things end. */
static void advance(void) {
    if (one_at_a_time) return advance_alone();
    for (bool moved = true; moved;) {
        moved = false;
        for (unsigned s = 0; s < 9; s++) {
            struct stream *stream = &streams[s];
            for (; stream->head != stream->tail; stream->head++, moved = true) {
                struct op *op = &stream->ops[stream->head % OPS];
                uint64_t begin = op->submit_ns + STARTS_NS;
                if (begin < stream->end_ns) begin = stream->end_ns;
                uint64_t end = begin + op->took_ns;
                uint64_t *released = &released_ns[op->pair % PAIRS];
                if (op->kind == SPIN && !*released) break;
                if (op->kind == MEET) {
                    struct meeting *meeting = &meetings[op->gpu / 2][op->pair % PAIRS];
                    meeting->arrived += !op->met;
                    op->met = true;
                    if (begin > meeting->last_ns) meeting->last_ns = begin;
                    if (meeting->arrived < 2) break;
                    end = meeting->last_ns + op->took_ns;
                }
                if (op->kind == SPIN && end < *released) end = *released;
                if (op->kind == RELEASE) *released = end;
                if (op->kind == RECORD) op->event->at_ns = end;
                if (op->kind == KERNEL) busy_ns += op->took_ns;
                stream->end_ns = end;
            }
        }
    }
}

static void submit_op(CUstream handle, enum kind kind, uint64_t took_ns, struct event *event) {
    struct stream *stream = stream_of(handle);
    if (event) event->at_ns = NEVER;
    unsigned pair = kind == MEET ? meets[running->gpu]++ : pairs[kind]++;
    stream->ops[stream->tail++ % OPS] =
        (struct op){kind, machine_ns, took_ns, event, pair, running->gpu, false};
    advance();
}

/* --- the driver ------------------------------------------------------------------------------- */

static uint64_t calls;          /* made by the shim */
static unsigned contexts_ended; /* of each GPU: the next one has another handle */
static CUresult get_current(CUcontext *context) {
    calls++;
    *context = (CUcontext)(uintptr_t)(0x77 + (unsigned)running->gpu + contexts_ended * GPUS);
    return CUDA_SUCCESS;
}
static CUresult get_device(CUdevice *device) {
    calls++;
    *device = running->gpu;
    return CUDA_SUCCESS;
}
static CUresult push(CUcontext context) {
    calls++;
    (void)context;
    return CUDA_SUCCESS;
}
static CUresult pop(CUcontext *context) { return get_current(context); }
static CUresult is_capturing(CUstream stream, CUstreamCaptureStatus *status) {
    calls++;
    *status = stream_of(stream)->capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                                           : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
static CUresult exchange(CUstreamCaptureMode *mode) {
    calls++;
    static CUstreamCaptureMode now = CU_STREAM_CAPTURE_MODE_GLOBAL;
    CUstreamCaptureMode before = now;
    now = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}
static CUresult create(CUevent *event, unsigned flags) {
    calls++;
    if (events_used == 4096) return CUDA_ERROR_OUT_OF_MEMORY;
    events[events_used].timed = flags == CU_EVENT_DEFAULT;
    *event = (CUevent)&events[events_used++];
    return CUDA_SUCCESS;
}
static CUresult destroy(CUevent event) {
    calls++;
    (void)event;
    return CUDA_SUCCESS;
}
static CUresult record(CUevent event, CUstream stream) {
    calls++;
    if (stream_of(stream)->capturing) return bad_records++, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    spend(RECORD_NS);
    bad_records += stream_of(stream)->ended;
    timed_records += ((struct event *)event)->timed;
    submit_op(stream, RECORD, 0, (struct event *)event);
    return CUDA_SUCCESS;
}
static bool broken; /* a kernel has failed: so does every question */
static CUresult query(CUevent event) {
    calls++;
    spend(QUERY_NS);
    if (broken) return CUDA_ERROR_ILLEGAL_ADDRESS;
    return ((struct event *)event)->at_ns <= machine_ns ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
static CUresult elapsed(float *ms, CUevent from, CUevent to) {
    calls++;
    *ms = (float)((double)(((struct event *)to)->at_ns - ((struct event *)from)->at_ns) * 1e-6);
    return CUDA_SUCCESS;
}

static bool under_mps;
static CUresult get_attribute(int *value, CUdevice_attribute which, CUdevice device) {
    (void)device;
    *value = which == CU_DEVICE_ATTRIBUTE_MPS_ENABLED && under_mps;
    return CUDA_SUCCESS;
}

static unsigned name_calls;
static CUresult function_name(const char **name, CUfunction function) {
    name_calls++;
    *name = (uintptr_t)function == NCCL ? "_Z33ncclDevKernel_AllReduce_Sum_f32v" : "load";
    return CUDA_SUCCESS;
}

bool vgpu_local_is_kernel(const void *function) { return !function; }

void *vgpu_driver_symbol(const char *symbol) {
    static const struct {
        const char *name;
        void *function;
    } table[] = {
        {"cuCtxGetCurrent", (void *)get_current},
        {"cuCtxGetDevice", (void *)get_device},
        {"cuDeviceGetAttribute", (void *)get_attribute},
        {"cuCtxPopCurrent_v2", (void *)pop},
        {"cuStreamIsCapturing", (void *)is_capturing},
        {"cuStreamIsCapturing_ptsz", (void *)is_capturing},
        {"cuThreadExchangeStreamCaptureMode", (void *)exchange},
        {"cuFuncGetName", (void *)function_name},
        {"cuEventCreate", (void *)create},
        {"cuEventDestroy_v2", (void *)destroy},
        {"cuEventRecord", (void *)record},
        {"cuEventRecord_ptsz", (void *)record},
        {"cuEventQuery", (void *)query},
        {"cuEventElapsedTime", (void *)elapsed},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, symbol) == 0) return table[i].function;
    return NULL; /* as of an old driver */
}

static void wait_for_stream(int stream) {
    struct stream *s = &streams[stream];
    while (s->head != s->tail) spend(10 * US);
    if (s->end_ns > machine_ns) sleep_until(s->end_ns, NULL);
}
static CUresult wait_for_all(void) {
    calls++;
    if (broken) return CUDA_ERROR_ILLEGAL_ADDRESS;
    for (int i = 0; i < 9; i++) wait_for_stream(i);
    return CUDA_SUCCESS;
}

void *vgpu_real_pointers[VGPU_HOOK_COUNT] = {
    [VGPU_HOOK_cuCtxPushCurrent_v2] = (void *)push,
    [VGPU_HOOK_cuCtxSynchronize] = (void *)wait_for_all,
};
void *vgpu_real_resolve(enum vgpu_hook hook) {
    printf("not ok the machine's driver has no hook %d\n", (int)hook);
    exit(1);
}

/* --- the session ------------------------------------------------------------------------------ */

static struct vgpu_region *region;
static struct vgpu_session session;
static struct vgpu_session *session_of[GPUS]; /* of a process of its own; NULL: `session` */
static struct vgpu_place_on_board place_of[GPUS];
static void (*forget_in_child[8])(void);
static int forgets;

struct vgpu_session *vgpu_session_get(void) {
    return session_of[running->gpu] ? session_of[running->gpu] : &session;
}
void vgpu_session_event(struct vgpu_session *to, const struct vgpu_event *event) {
    (void)to;
    (void)event;
}
void vgpu_session_on_fork(void (*forget)(void)) { forget_in_child[forgets++] = forget; }
/* Without a board the session is alone on its GPU. */
bool vgpu_seat_take(struct vgpu_session *of, uint32_t device, struct vgpu_place_on_board *place) {
    (void)of;
    *place = place_of[device];
    return place->board != NULL;
}
struct vgpu_place_on_board vgpu_seat_taken(uint32_t device) {
    (void)device;
    return (struct vgpu_place_on_board){0};
}
void vgpu_seat_update(const struct vgpu_place_on_board *place, struct vgpu_region *of,
                      uint32_t device) {
    (void)place;
    (void)of;
    (void)device;
}
bool vgpu_seat_has_company(const struct vgpu_place_on_board *place) {
    (void)place;
    return false;
}
int vgpu_seat_reap(const struct vgpu_place_on_board *place) {
    (void)place;
    return 0;
}
uint32_t vgpu_device_index(struct vgpu_session *of, CUdevice ordinal) {
    (void)of;
    return (uint32_t)ordinal;
}

/* A new session with this share, on an idle machine. The pacing's state is the last test's until it
 * is told that this is a fork's child. */
static void begin_session(uint32_t share_ppm) {
    static struct vgpu_region *made;
    if (!made) made = aligned_alloc(64, sizeof *made);
    region = made;
    memset(region, 0, sizeof *region);
    memset(streams, 0, sizeof streams);
    thread_count = 0;
    machine_ns += 1000000 * MS;
    busy_ns = gpu_free_ns = 0;
    memset(released_ns, 0, sizeof released_ns);
    memset(pairs, 0, sizeof pairs);
    memset(meets, 0, sizeof meets);
    memset(meetings, 0, sizeof meetings);
    memset(session_of, 0, sizeof session_of);
    memset(place_of, 0, sizeof place_of);
    late_min_ns = late_max_ns = 0;
    broken = false;
    region->header.start_mono_ns = machine_ns - 1000 * MS;
    region->header.slots_used = 1;
    region->header.limits_version = 1;
    region->header.default_share_ppm = share_ppm;
    region->devices[0].state = VGPU_DEVICE_READY;
    region->devices[0].share_ppm = share_ppm;
    region->slots[0].owner = UINT64_C(1) << 32 | VGPU_SLOT_LIVE;
    session = (struct vgpu_session){.region = region, .slot = &region->slots[0], .pid = 1};
    for (int i = 0; i < forgets; i++) forget_in_child[i]();
}

/* Nothing is saved up: the schedule begins now. */
static inline void begin_without_credit(void) {
    region->devices[0].gate_word = (machine_ns - region->header.start_mono_ns) / 100 << 16;
}

/* One launch as hook_launch.c makes it; the driver's own call takes call_ns. */
static void launch_kind(int stream, enum kind kind, uintptr_t function, uint64_t took_ns,
                        uint64_t call_ns) {
    struct vgpu_passage passage = {0};
    CUstream handle = handle_of(stream);
    vgpu_pace_enter(&passage, handle, false, vgpu_book_key((void *)function, 132, 64),
                    (const void *)function);
    if (!stream_of(handle)->capturing) submit_op(handle, kind, took_ns, NULL);
    if (call_ns) spend(call_ns);
    vgpu_pace_leave(&passage);
}

static inline void launch(int stream, uint64_t took_ns, uint64_t call_ns) {
    launch_kind(stream, KERNEL, 0x1000 + took_ns, took_ns, call_ns);
}

/* Waits for the stream as cuStreamSynchronize does. */
static inline void synchronize(int stream) {
    struct vgpu_sync sync;
    vgpu_pace_sync_begin(&sync, handle_of(stream), false, true);
    wait_for_stream(stream);
    vgpu_pace_sync_end(&sync, CUDA_SUCCESS);
}

#endif
