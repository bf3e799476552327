/* Streams: finding them, submitting in their order, waiting for them. */
#include <stdlib.h>

#include "cuda_sim.h"

/* Each thread has a default stream of its own in every context it uses with the per-thread calls;
 * green contexts have none. */
struct own_stream {
    struct own_stream *next;
    struct context *context;
    uint64_t id;
    struct stream *stream;
};
static __thread struct own_stream *own_streams;

/* Beside the default one; whole blocks of 2 MiB (measured). */
static uint64_t streams_cost(uint64_t streams) {
    uint64_t bytes = streams * 560 * 1024;
    return bytes - bytes % (2 * SIM_MIB);
}

CUresult stream_new(struct context *context, unsigned int flags, int priority,
                    struct stream **out) {
    /* A stream costs device memory that only the context's end gives back; a destroyed stream's is
     * used again. */
    if (context->live_streams == context->paid_streams) {
        uint64_t paid = context->paid_streams, cost = streams_cost(paid) - streams_cost(paid - 1);
        if (cost && !sim_take(sim_process.slot, context_device(context)->card, cost, 0))
            return CUDA_ERROR_OUT_OF_MEMORY;
        context->charged += cost;
        context->paid_streams++;
    }
    struct stream *stream = object_new(SIM_STREAM, sizeof *stream);
    if (!stream) return CUDA_ERROR_OUT_OF_MEMORY;
    context->live_streams++;
    stream->context = context;
    stream->flags = flags;
    stream->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    stream->id = ++sim_process.next_id;
    stream->next = context->streams;
    context->streams = stream;
    *out = stream;
    return CUDA_SUCCESS;
}

static CUresult own_stream(struct context *context, struct stream **out) {
    if (context->green) return CUDA_ERROR_INVALID_HANDLE;
    struct own_stream *own = own_streams;
    while (own && (own->context != context || own->id != context->id)) own = own->next;
    if (!own) {
        own = calloc(1, sizeof *own);
        if (!own) return CUDA_ERROR_OUT_OF_MEMORY;
        CUresult rc = stream_new(context, 0, 0, &own->stream);
        if (rc) {
            free(own);
            return rc;
        }
        own->stream->per_thread = true;
        own->context = context;
        own->id = context->id;
        own->next = own_streams;
        own_streams = own;
    }
    *out = own->stream;
    return CUDA_SUCCESS;
}

CUresult stream_find_quietly(CUstream handle, bool per_thread, struct stream **out) {
    if (!handle || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
        struct context *context;
        CHECK(context_active(&context));
        if (handle == CU_STREAM_PER_THREAD || (!handle && per_thread))
            return own_stream(context, out);
        *out = context->legacy;
        return CUDA_SUCCESS;
    }
    if (!object_is(handle, SIM_STREAM)) return CUDA_ERROR_INVALID_HANDLE;
    struct stream *stream = (struct stream *)handle;
    if (stream->gone) return CUDA_ERROR_INVALID_HANDLE;
    CHECK(process_fault());
    if (!stream->context->alive) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *out = stream;
    return CUDA_SUCCESS;
}

/* Using the NULL stream would wait for the capturing one: the capture is over, whatever the
 * thread's mode. */
CUresult stream_find(CUstream handle, bool per_thread, struct stream **out) {
    CHECK(stream_find_quietly(handle, per_thread, out));
    struct stream *stream = *out;
    if (!stream->legacy || !stream->context->blocking_captures) return CUDA_SUCCESS;
    for (struct stream *other = stream->context->streams; other; other = other->next)
        if (other->capture && !(other->flags & CU_STREAM_NON_BLOCKING))
            capture_invalidate(other->capture);
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
}

/* What `other` has submitted is done before what the stream submits from now on. */
void stream_join(struct stream *stream, struct stream *other) {
    if (other->tail > stream->tail) stream->tail = other->tail;
    if (other == stream || !other->first) return;
    stream_op(stream, &(struct op){.kind = OP_WAIT_STREAM, .join = {other, other->queued}});
}

static void op_join(struct stream *stream, struct stream *other) {
    if (other->first) stream_join(stream, other);
}

/* The legacy stream and the blocking ones wait for each other; without ops the order of submission
 * sees to that. */
void stream_join_legacy(struct stream *stream) {
    if (!sim_process.waiting_streams || (stream->flags & CU_STREAM_NON_BLOCKING)) return;
    struct context *context = stream->context;
    if (!stream->legacy) op_join(stream, context->legacy);
    else
        for (struct stream *other = context->streams; other; other = other->next)
            if (!(other->flags & CU_STREAM_NON_BLOCKING)) op_join(stream, other);
}

/* Waits until fewer than SIM_QUEUE_DEPTH launches of the stream are outstanding. */
static void wait_for_room(struct stream *stream) {
    struct lane *lane = context_lane(stream->context);
    while (stream->launches >= SIM_QUEUE_DEPTH) {
        uint64_t oldest = stream->launch[(stream->launches - SIM_QUEUE_DEPTH) % 1024];
        if (oldest <= lane->done) return;
        lane_wait(lane, oldest);
    }
}

/* A kernel as the lane runs it: on fewer SMs it takes longer in proportion; copies do not. */
static struct work work_on(const struct lane *lane, const struct work *work) {
    struct work own = *work;
    if (work->kind <= WORK_FAULT && work->ns < SIM_ENDLESS)
        own.ns = work->ns * sim_model()->sms / sim_sms_count(lane->sms);
    if (work->kind == WORK_SMIDS) own.smids.sms = lane->sms;
    if (work->kind == WORK_FAULT) own.card = lane->card;
    return own;
}

void stream_work(struct stream *stream, const struct work *given, bool launch) {
    struct lane *lane = context_lane(stream->context);
    struct work work = work_on(lane, given);
    stream_join_legacy(stream);
    while (launch && stream->queued - stream->resolved >= SIM_QUEUE_DEPTH)
        pthread_cond_wait(&sim_process.progress, &sim_process.lock);
    if (work_spins(&work)) {
        stream_op(stream, &(struct op){.kind = OP_SPIN, .spin = {.work = work}});
        return;
    }
    if (stream->first) {
        stream_op(stream, &(struct op){.kind = OP_WORK, .work = work});
        return;
    }
    if (launch) wait_for_room(stream);
    uint64_t target = lane_submit(lane, work.ns);
    if (work.kind) lane_effect(lane, target, &work);
    stream->tail = target;
    if (!(stream->flags & CU_STREAM_NON_BLOCKING)) stream->context->blocking_tail = target;
    if (launch) stream->launch[stream->launches++ % 1024] = target;
}

/* The legacy stream is complete when those that synchronise with it are. */
static uint64_t stream_target(const struct stream *stream) {
    const struct context *context = stream->context;
    return stream->legacy && context->blocking_tail > stream->tail ? context->blocking_tail
                                                                   : stream->tail;
}

static bool ops_waiting(const struct stream *stream) {
    if (stream->first) return true;
    if (!stream->legacy || !sim_process.waiting_streams) return false;
    for (const struct stream *other = stream->context->streams; other; other = other->next)
        if (!(other->flags & CU_STREAM_NON_BLOCKING) && other->first) return true;
    return false;
}

bool stream_idle(struct stream *stream) {
    struct lane *lane = context_lane(stream->context);
    uint64_t target = stream_target(stream);
    lane_look(lane);
    return lane->done >= target && !ops_waiting(stream);
}

static void ops_wait(struct stream *stream) {
    uint64_t count = stream->queued;
    while (stream->resolved < count) pthread_cond_wait(&sim_process.progress, &sim_process.lock);
}

void stream_wait(struct stream *stream) {
    struct context *context = stream->context;
    uint64_t id = context->id;
    if (stream->first) ops_wait(stream);
    if (stream->legacy)
        for (struct stream *other = context->streams; other; other = other->next)
            if (!(other->flags & CU_STREAM_NON_BLOCKING) && other->first) ops_wait(other);
    if (context->id == id && context->alive)
        lane_wait(context_lane(context), stream_target(stream));
}

void context_wait(struct context *context) {
    for (struct context *green = context->greens; green; green = green->beside) context_wait(green);
    for (struct stream *stream = context->streams; stream; stream = stream->next)
        if (stream->first) ops_wait(stream);
    lane_wait_all(context_lane(context));
}
