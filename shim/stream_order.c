#include "stream_order.h"

#include <pthread.h>
#include <stdlib.h>

#include "capture.h"
#include "interpose.h"
#include "partition.h"
#include "times.h"

/* A context that had blocking streams, and its legacy one. Never freed. */
struct legacy {
    struct legacy *next;
    CUcontext context; /* NULL: it has ended */
    CUevent tail;
    uint64_t given, recorded; /* work so far; the tail is behind so much of it */
};

struct blocking {
    struct blocking *next;
    struct legacy *legacy;
    CUstream stream; /* NULL: destroyed, its tail is recorded */
    CUevent tail;
    uint64_t given, told; /* work so far; of so much the legacy stream knows */
    uint64_t waits_for;   /* so much of the legacy stream's work */
    uint32_t users;       /* threads that are making calls for it */
    bool gone;            /* its context has ended */
};

static struct legacy *legacies;
static struct blocking *blockings;
uint32_t vgpu_blocking_streams;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held for moments, not in driver calls */
/* Our own calls pass the fronts again. */
static __thread bool ours __attribute__((tls_model("initial-exec")));

static struct blocking *find(CUstream stream) {
    struct blocking *found = stream ? blockings : NULL;
    while (found && found->stream != stream) found = found->next;
    return found;
}

static bool record(CUevent tail, CUcontext context, CUstream stream) {
    CUcontext popped;
    if (REAL(cuCtxPushCurrent_v2)(context) != CUDA_SUCCESS) return false;
    bool done = CALL(cuEventRecord)(tail, stream) == CUDA_SUCCESS;
    CALL(cuCtxPopCurrent_v2)(&popped);
    return done;
}

/* Behind the blocking stream's work. False while it captures. */
static bool record_blocking(const struct blocking *blocking, CUstream stream) {
    if (!vgpu_capture_record_await(stream, false)) return false;
    bool done = record(blocking->tail, blocking->legacy->context, stream);
    vgpu_capture_record_end();
    return done;
}

static struct legacy *legacy_of(CUcontext context) {
    struct legacy *found = legacies;
    while (found && found->context != context) found = found->next;
    return found;
}

/* The same, made on first sight, in an ended one's place. What it was given while there was no
 * blocking stream is not known: counted as one. */
static struct legacy *meet_legacy(CUcontext context) {
    struct legacy *legacy = legacy_of(context);
    if (legacy) {
        legacy->given++;
        return legacy;
    }
    CUevent tail = vgpu_partition_event(context);
    if (!tail) return NULL;
    legacy = legacy_of(NULL);
    if (!legacy && (legacy = malloc(sizeof *legacy))) {
        legacy->next = legacies;
        legacies = legacy;
    }
    if (legacy) *legacy = (struct legacy){legacy->next, context, tail, 1, 0};
    else CALL(cuEventDestroy_v2)(tail);
    return legacy;
}

static struct blocking *make(CUcontext context, CUstream stream) {
    struct legacy *legacy = meet_legacy(context);
    struct blocking *blocking = legacy ? malloc(sizeof *blocking) : NULL;
    if (!blocking) return NULL;
    *blocking = (struct blocking){.next = blockings,
                                  .legacy = legacy,
                                  .stream = stream,
                                  .tail = vgpu_partition_event(context)};
    if (blocking->tail) return blocking;
    free(blocking);
    return NULL;
}

void vgpu_order_enter(CUstream stream, unsigned int flags) {
    CUcontext context;
    if (!vgpu_partition_any() || flags & CU_STREAM_NON_BLOCKING ||
        CALL(cuStreamGetCtx)(stream, &context) != CUDA_SUCCESS ||
        !vgpu_partition_is_inside(context))
        return;
    ours = true;
    pthread_mutex_lock(&lock);
    struct blocking *blocking = make(context, stream);
    if (blocking) {
        blockings = blocking;
        vgpu_add_relaxed(&vgpu_blocking_streams, 1U);
    }
    pthread_mutex_unlock(&lock);
    ours = false;
}

/* Nobody has to wait for its work any more: the legacy stream has been told, or it is done. */
static bool is_over(const struct blocking *blocking) {
    if (blocking->gone || blocking->told == blocking->given) return true;
    return CALL(cuEventQuery)(blocking->tail) != CUDA_ERROR_NOT_READY;
}

/* What is destroyed and over is dropped. */
static void drop_ended(void) {
    CUstreamCaptureMode mode = vgpu_capture_relax();
    for (struct blocking **at = &blockings; *at;) {
        struct blocking *one = *at;
        if (one->stream || one->users || !is_over(one)) {
            at = &one->next;
            continue;
        }
        *at = one->next;
        CALL(cuEventDestroy_v2)(one->tail); /* once nobody waits for it */
        free(one);
        vgpu_sub_relaxed(&vgpu_blocking_streams, 1U);
    }
    vgpu_capture_restore(mode);
}

/* Its caller makes driver calls for it, without the lock. */
static void use(struct blocking *blocking) {
    blocking->users++;
    pthread_mutex_unlock(&lock);
    ours = true;
}

static void end_use(struct blocking *blocking) {
    ours = false;
    pthread_mutex_lock(&lock);
    blocking->users--;
}

void vgpu_order_leave(CUstream stream) {
    if (!vgpu_load_relaxed(&vgpu_blocking_streams)) return;
    pthread_mutex_lock(&lock);
    struct blocking *blocking = find(stream);
    if (blocking && blocking->told != blocking->given) {
        use(blocking);
        bool recorded = record_blocking(blocking, stream);
        end_use(blocking);
        if (!recorded) blocking->told = blocking->given;
    }
    if (blocking) blocking->stream = NULL;
    ours = true;
    drop_ended();
    ours = false;
    pthread_mutex_unlock(&lock);
}

bool vgpu_order_is_blocking(CUstream stream) {
    if (!vgpu_load_relaxed(&vgpu_blocking_streams)) return false;
    pthread_mutex_lock(&lock);
    bool found = find(stream);
    pthread_mutex_unlock(&lock);
    return found;
}

/* A stream whose work the context's legacy stream does not know of. Those that could not be asked
 * (they capture) are passed over: `after` is the last one. */
static struct blocking *next_untold(CUcontext context, const struct blocking *after) {
    struct blocking *one = after ? after->next : blockings;
    while (one && (one->told == one->given || one->legacy->context != context)) one = one->next;
    return one;
}

/* The legacy stream, by the name that the program uses, waits for the blocking ones. Another thread
 * may be having it wait for the same: then it does so twice. Caller holds the lock. */
static void join(CUcontext context, CUstream name) {
    struct blocking *one = NULL;
    while ((one = next_untold(context, one))) {
        uint64_t given = one->given;
        CUstream stream = one->stream;
        use(one);
        bool recorded = !stream || record_blocking(one, stream);
        if (recorded) CALL(cuStreamWaitEvent)(name, one->tail, 0);
        end_use(one);
        if (recorded) one->told = later(one->told, given);
    }
    ours = true;
    drop_ended();
    ours = false;
}

/* The blocking stream waits for the legacy one. Caller holds the lock. */
static void follow(struct blocking *blocking) {
    struct legacy *legacy = blocking->legacy;
    CUstream stream = blocking->stream;
    uint64_t given = legacy->given;
    if (blocking->waits_for == given) return;
    bool records = legacy->recorded != given;
    use(blocking);
    bool can = !vgpu_capture_holds(stream, false);
    if (can && records) can = record(legacy->tail, legacy->context, NULL);
    if (can) CALL(cuStreamWaitEvent)(stream, legacy->tail, 0);
    end_use(blocking);
    if (!can) return;
    if (records) legacy->recorded = later(legacy->recorded, given);
    blocking->waits_for = later(blocking->waits_for, given);
}

void vgpu_order_begin_now(struct vgpu_order *order, CUstream stream, bool legacy,
                          enum vgpu_order_kind kind) {
    CUcontext context = NULL;
    if (ours || (!legacy && kind != VGPU_ORDER_WORK)) return;
    if (legacy && REAL(cuCtxGetCurrent)(&context) != CUDA_SUCCESS) return;
    context = vgpu_partition_inside(context);
    pthread_mutex_lock(&lock);
    struct blocking *blocking = legacy ? NULL : find(stream);
    if (legacy) join(context, stream);
    if (blocking) follow(blocking);
    pthread_mutex_unlock(&lock);
    if (legacy && kind == VGPU_ORDER_WORK) order->legacy = context;
    if (blocking) order->blocking = stream;
}

void vgpu_order_end_now(const struct vgpu_order *order) {
    pthread_mutex_lock(&lock);
    struct legacy *legacy = order->legacy ? legacy_of(order->legacy) : NULL;
    struct blocking *blocking = find(order->blocking);
    if (legacy) legacy->given++;
    if (blocking) blocking->given++;
    pthread_mutex_unlock(&lock);
}

/* The stream of `second` waits for that of `first`; by the fronts, so for the blocking ones too. */
static void pass_on(CUcontext first, CUcontext second, CUstream stream) {
    CUcontext popped;
    CUevent event = vgpu_partition_event(first);
    bool recorded = false;
    if (event && REAL(cuCtxPushCurrent_v2)(first) == CUDA_SUCCESS) {
        recorded = vgpu_capture_record_await(stream, false);
        if (recorded) {
            CALL(cuEventRecord)(event, stream);
            vgpu_capture_record_end();
        }
        CALL(cuCtxPopCurrent_v2)(&popped);
    }
    if (recorded && REAL(cuCtxPushCurrent_v2)(second) == CUDA_SUCCESS) {
        if (!vgpu_capture_holds(stream, false)) CALL(cuStreamWaitEvent)(stream, event, 0);
        CALL(cuCtxPopCurrent_v2)(&popped);
    }
    if (event) CALL(cuEventDestroy_v2)(event);
}

void vgpu_order_meet(const CUcontext peers[2], CUstream stream, bool before) {
    CUcontext current = NULL;
    if (REAL(cuCtxGetCurrent)(&current) != CUDA_SUCCESS || !current) return;
    current = vgpu_partition_inside(current);
    for (int i = 0; i < 2; i++) {
        CUcontext peer = vgpu_partition_inside(peers[i]);
        if (peer == current || !vgpu_partition_is_inside(peer)) continue;
        pass_on(before ? peer : current, before ? current : peer, stream);
    }
}

void vgpu_order_forget_context(CUcontext context) {
    ours = true;
    pthread_mutex_lock(&lock);
    struct legacy *legacy = legacy_of(context);
    for (struct blocking *one = blockings; one && legacy; one = one->next) {
        if (one->legacy != legacy) continue;
        one->stream = NULL;
        one->gone = true;
    }
    drop_ended();
    if (legacy) {
        CALL(cuEventDestroy_v2)(legacy->tail);
        legacy->context = NULL;
    }
    pthread_mutex_unlock(&lock);
    ours = false;
}

void vgpu_order_forget(void) {
    pthread_mutex_init(&lock, NULL);
    blockings = NULL; /* the parent's: leaked in the child */
    legacies = NULL;
    vgpu_blocking_streams = 0;
    ours = false;
}
