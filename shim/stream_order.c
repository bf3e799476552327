#include "stream_order.h"

#include <pthread.h>
#include <stdlib.h>

#include "capture.h"
#include "interpose.h"
#include "partition.h"

/* A context with blocking streams, and its legacy one. */
struct legacy {
    struct legacy *next;
    CUcontext context;
    CUevent tail;
    uint64_t given, recorded; /* work so far; the tail is behind so much of it */
};

struct blocking {
    struct blocking *next;
    struct legacy *legacy;
    CUstream stream; /* NULL: destroyed, its tail is recorded */
    CUevent tail;
    uint64_t waits_for; /* so much of the legacy stream's work */
    bool worked;        /* and the legacy stream has not been told */
};

static struct legacy *legacies;
static struct blocking *blockings;
uint32_t vgpu_blocking_streams;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Our own calls pass the fronts again. */
static __thread bool ours __attribute__((tls_model("initial-exec")));

static void begin_ours(void) {
    pthread_mutex_lock(&lock);
    ours = true;
}

static void end_ours(void) {
    ours = false;
    pthread_mutex_unlock(&lock);
}

static struct blocking *find(CUstream stream) {
    struct blocking *found = blockings;
    while (found && found->stream != stream) found = found->next;
    return found;
}

static CUevent make_event(CUcontext context) {
    CUcontext popped;
    CUevent event = NULL;
    if (REAL(cuCtxPushCurrent_v2)(context) != CUDA_SUCCESS) return NULL;
    if (CALL(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING) != CUDA_SUCCESS) event = NULL;
    CALL(cuCtxPopCurrent_v2)(&popped);
    return event;
}

/* False while that is not possible: the stream captures, or one joins a capture. */
static bool record(CUevent tail, CUcontext context, CUstream stream) {
    CUcontext popped;
    if (!vgpu_capture_record_begin(stream, false)) return false;
    bool done = REAL(cuCtxPushCurrent_v2)(context) == CUDA_SUCCESS;
    if (done) {
        done = CALL(cuEventRecord)(tail, stream) == CUDA_SUCCESS;
        CALL(cuCtxPopCurrent_v2)(&popped);
    }
    vgpu_capture_record_end();
    return done;
}

static struct legacy *legacy_of(CUcontext context) {
    struct legacy *found = legacies;
    while (found && found->context != context) found = found->next;
    return found;
}

/* The same, made on first sight. */
static struct legacy *meet_legacy(CUcontext context) {
    struct legacy *legacy = legacy_of(context);
    if (legacy || !(legacy = malloc(sizeof *legacy))) return legacy;
    /* What it was given before is not known: counted as one. */
    *legacy = (struct legacy){legacies, context, make_event(context), 1, 0};
    if (legacy->tail) return legacies = legacy;
    free(legacy);
    return NULL;
}

static struct blocking *make(CUcontext context, CUstream stream) {
    struct legacy *legacy = meet_legacy(context);
    struct blocking *blocking = legacy ? malloc(sizeof *blocking) : NULL;
    if (!blocking) return NULL;
    *blocking = (struct blocking){blockings, legacy, stream, make_event(context), 0, false};
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
    begin_ours();
    struct blocking *blocking = make(context, stream);
    if (blocking) {
        blockings = blocking;
        vgpu_add_relaxed(&vgpu_blocking_streams, 1U);
    }
    end_ours();
}

static void drop(struct blocking **at) {
    struct blocking *blocking = *at;
    *at = blocking->next;
    CALL(cuEventDestroy_v2)(blocking->tail); /* once nobody waits for it */
    free(blocking);
    vgpu_sub_relaxed(&vgpu_blocking_streams, 1U);
}

/* What had work and has been told of is dropped with its stream. */
static void drop_ended(void) {
    for (struct blocking **at = &blockings; *at;) {
        if (!(*at)->stream && !(*at)->worked) drop(at);
        else at = &(*at)->next;
    }
}

void vgpu_order_leave(CUstream stream) {
    if (!vgpu_load_relaxed(&vgpu_blocking_streams)) return;
    begin_ours();
    struct blocking *blocking = find(stream);
    if (blocking) {
        if (blocking->worked && !record(blocking->tail, blocking->legacy->context, stream))
            blocking->worked = false;
        blocking->stream = NULL;
        drop_ended();
    }
    end_ours();
}

bool vgpu_order_is_blocking(CUstream stream) {
    if (!vgpu_load_relaxed(&vgpu_blocking_streams)) return false;
    pthread_mutex_lock(&lock);
    bool found = stream && find(stream);
    pthread_mutex_unlock(&lock);
    return found;
}

/* The legacy stream, by the name that the program uses, waits for the blocking ones. */
static void join(CUcontext context, CUstream name) {
    for (struct blocking *one = blockings; one; one = one->next) {
        if (!one->worked || one->legacy->context != context) continue;
        if (one->stream && !record(one->tail, context, one->stream)) continue;
        one->worked = false;
        CALL(cuStreamWaitEvent)(name, one->tail, 0);
    }
    drop_ended();
}

/* The blocking stream waits for the legacy one. */
static void follow(struct blocking *blocking) {
    struct legacy *legacy = blocking->legacy;
    if (blocking->waits_for == legacy->given || vgpu_capture_holds(blocking->stream, false)) return;
    if (legacy->recorded != legacy->given) {
        if (!record(legacy->tail, legacy->context, NULL)) return;
        legacy->recorded = legacy->given;
    }
    CALL(cuStreamWaitEvent)(blocking->stream, legacy->tail, 0);
    blocking->waits_for = legacy->given;
}

void vgpu_order_begin_now(struct vgpu_order *order, CUstream stream, bool legacy,
                          enum vgpu_order_kind kind) {
    CUcontext context = NULL;
    if (ours || (!legacy && kind != VGPU_ORDER_WORK)) return;
    if (legacy && REAL(cuCtxGetCurrent)(&context) != CUDA_SUCCESS) return;
    begin_ours();
    if (legacy) {
        context = vgpu_partition_inside(context);
        join(context, stream);
        if (kind == VGPU_ORDER_WORK)
            *order = (struct vgpu_order){VGPU_ORDER_LEGACY, stream, context};
    } else {
        struct blocking *blocking = find(stream);
        if (blocking) follow(blocking);
        if (blocking) *order = (struct vgpu_order){VGPU_ORDER_BLOCKING, stream, NULL};
    }
    end_ours();
}

void vgpu_order_end_now(const struct vgpu_order *order) {
    pthread_mutex_lock(&lock);
    bool is_legacy = order->of == VGPU_ORDER_LEGACY;
    struct legacy *legacy = is_legacy ? legacy_of(order->context) : NULL;
    struct blocking *blocking = is_legacy ? NULL : find(order->stream);
    if (legacy) legacy->given++;
    if (blocking) blocking->worked = true;
    pthread_mutex_unlock(&lock);
}

void vgpu_order_forget_context(CUcontext context) {
    begin_ours();
    for (struct blocking **at = &blockings; *at;) {
        if ((*at)->legacy->context == context) drop(at);
        else at = &(*at)->next;
    }
    for (struct legacy **at = &legacies; *at; at = &(*at)->next) {
        struct legacy *legacy = *at;
        if (legacy->context != context) continue;
        *at = legacy->next;
        CALL(cuEventDestroy_v2)(legacy->tail);
        free(legacy);
        break;
    }
    end_ours();
}

void vgpu_order_forget(void) {
    pthread_mutex_init(&lock, NULL);
    blockings = NULL; /* the parent's: leaked in the child */
    legacies = NULL;
    vgpu_blocking_streams = 0;
    ours = false;
}
