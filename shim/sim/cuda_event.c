/* Events: the moment at which a stream's work up to the record was done. */
#include <stdlib.h>

#include "cuda_sim.h"

static CUresult event_find(CUevent handle, struct event **event) {
    if (!object_is(handle, SIM_EVENT)) return CUDA_ERROR_INVALID_HANDLE;
    *event = (struct event *)handle;
    return CUDA_SUCCESS;
}

/* The stream has come to the record: from now on the event is a target. */
void event_settle(struct event *event, struct lane *lane, uint64_t target) {
    event->stream = NULL;
    event->lane = lane;
    event->target = target;
    event->stamped = false;
    if (event->flags & CU_EVENT_DISABLE_TIMING) return;
    lane_look(lane);
    if (lane->done >= target) { /* an idle stream: it is stamped when it is recorded */
        event->stamp = sim_now();
        event->stamped = true;
    } else {
        lane_stamp(lane, event);
    }
}

static CUresult record_on(struct event *event, struct stream *stream) {
    event->capture_id = 0;
    event->recorded = true;
    event->version = ++sim_process.next_id;
    stream_join_legacy(stream);
    if (stream->first) {
        stream_op(stream, &(struct op){.kind = OP_EVENT, .record = {event, event->version}});
        event->stream = stream;
        event->op = stream->queued;
        return CUDA_SUCCESS;
    }
    uint64_t target = stream->tail;
    if (stream->legacy && stream->context->blocking_tail > target)
        target = stream->context->blocking_tail;
    event_settle(event, context_lane(stream->context), target);
    return CUDA_SUCCESS;
}
static CUresult event_record(CUevent handle, CUstream stream_handle, bool per_thread) {
    SIM_ENTER();
    struct event *event;
    struct stream *stream;
    CHECK(event_find(handle, &event));
    CHECK(stream_find(stream_handle, per_thread, &stream));
    if (event->context != stream->context->owner) return CUDA_ERROR_INVALID_HANDLE;
    return stream_capturing(stream) ? capture_record(stream, event) : record_on(event, stream);
}

API CUresult cuEventRecord(CUevent event, CUstream stream) {
    return event_record(event, stream, false);
}
API CUresult cuEventRecord_ptsz(CUevent event, CUstream stream) {
    return event_record(event, stream, true);
}
API CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned int flags) {
    return flags > 1 ? CUDA_ERROR_INVALID_VALUE : event_record(event, stream, false);
}
API CUresult cuEventRecordWithFlags_ptsz(CUevent event, CUstream stream, unsigned int flags) {
    return flags > 1 ? CUDA_ERROR_INVALID_VALUE : event_record(event, stream, true);
}

API CUresult cuEventCreate(CUevent *out, unsigned int flags) {
    SIM_ENTER();
    struct context *context;
    if (!out || flags > 7) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    struct event *event = object_new(SIM_EVENT, sizeof *event);
    if (!event) return CUDA_ERROR_OUT_OF_MEMORY;
    event->context = context;
    event->flags = flags;
    event->version = ++sim_process.next_id;
    *out = (CUevent)event;
    return CUDA_SUCCESS;
}

API CUresult cuEventDestroy_v2(CUevent handle) {
    SIM_ENTER();
    struct event *event;
    CHECK(event_find(handle, &event));
    event->version = 0; /* stamps and ops that still name it pass by */
    free(event->deps);
    event->deps = NULL;
    object_drop(event);
    return CUDA_SUCCESS;
}
API CUresult cuEventDestroy(CUevent event) { return cuEventDestroy_v2(event); }

/* A call about a captured event is never legal, others depend on the thread's mode. */
static CUresult event_check(struct event *event) {
    if (event->capture_id) {
        capture_invalidate(capture_of(event));
        return CUDA_ERROR_CAPTURED_EVENT;
    }
    return capture_unsafe();
}

static bool event_done(struct event *event) {
    if (!event->recorded) return true;
    if (event->stream) return false;
    lane_look(event->lane);
    return event->lane->done >= event->target;
}

API CUresult cuEventQuery(CUevent handle) {
    SIM_ENTER();
    struct event *event;
    CHECK(event_find(handle, &event));
    CHECK(event_check(event));
    bool done = event_done(event);
    CHECK(process_fault());
    return done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

API CUresult cuEventSynchronize(CUevent handle) {
    SIM_ENTER();
    struct event *event;
    CHECK(event_find(handle, &event));
    CHECK(event_check(event));
    uint64_t version = event->version;
    while (event->stream && event->version == version)
        pthread_cond_wait(&sim_process.progress, &sim_process.lock);
    if (event->version != version || !event->recorded) return CUDA_SUCCESS;
    int device = event->context->device;
    lane_wait(event->lane, event->target);
    pool_release_unused(device);
    return process_fault();
}

static CUresult event_elapsed(float *out, CUevent from_handle, CUevent to_handle) {
    SIM_ENTER();
    struct event *from, *to;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(event_find(from_handle, &from));
    CHECK(event_find(to_handle, &to));
    if ((from->flags | to->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
    if (from->context->device != to->context->device || !from->recorded || !to->recorded ||
        from->capture_id || to->capture_id)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!event_done(from) || !event_done(to)) return CUDA_ERROR_NOT_READY;
    *out = (float)((double)(int64_t)(to->stamp - from->stamp) / 1e6);
    return CUDA_SUCCESS;
}
API CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to) {
    return event_elapsed(ms, from, to);
}
API CUresult cuEventElapsedTime_v2(float *ms, CUevent from, CUevent to) {
    return event_elapsed(ms, from, to);
}

CUresult stream_wait_event(struct stream *stream, CUevent handle) {
    struct event *event;
    CHECK(event_find(handle, &event));
    bool done = false;
    CHECK(capture_wait(stream, event, &done));
    if (done || !event->recorded) return CUDA_SUCCESS;
    struct lane *lane = context_lane(stream->context);
    if (event->stream) {
        stream_op(stream, &(struct op){.kind = OP_WAIT_STREAM, .join = {event->stream, event->op}});
    } else if (event->lane == lane && !stream->first) {
        /* What the event stands for was submitted earlier, so it will also be done earlier. */
        if (event->target > stream->tail) stream->tail = event->target;
        if (!(stream->flags & CU_STREAM_NON_BLOCKING) &&
            stream->tail > stream->context->blocking_tail)
            stream->context->blocking_tail = stream->tail;
    } else if (event->lane != lane) {
        lane_look(event->lane);
        if (event->lane->done < event->target)
            stream_op(stream,
                      &(struct op){.kind = OP_WAIT_TARGET, .wait = {event->lane, event->target}});
    }
    return CUDA_SUCCESS;
}
static CUresult wait_event(CUstream handle, CUevent event, unsigned int flags, bool per_thread) {
    SIM_ENTER();
    struct stream *stream;
    if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
    CHECK(stream_find(handle, per_thread, &stream));
    return stream_wait_event(stream, event);
}
API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
    return wait_event(stream, event, flags, false);
}
API CUresult cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned int flags) {
    return wait_event(stream, event, flags, true);
}

/* A whole context: its streams join the legacy one, which records; all of them wait. */
static CUresult context_record(struct context *context, CUevent handle) {
    struct event *event;
    CHECK(event_find(handle, &event));
    if (event->context != context->owner) return CUDA_ERROR_INVALID_HANDLE;
    CHECK(capture_check_context(context));
    for (struct stream *stream = context->streams; stream; stream = stream->next)
        stream_join(context->legacy, stream);
    return record_on(event, context->legacy);
}
static CUresult context_wait_event(struct context *context, CUevent event) {
    CHECK(capture_check_context(context));
    for (struct stream *stream = context->streams; stream; stream = stream->next)
        CHECK(stream_wait_event(stream, event));
    return CUDA_SUCCESS;
}
API CUresult cuCtxRecordEvent(CUcontext handle, CUevent event) {
    SIM_ENTER();
    struct context *context;
    CHECK(context_find(handle, &context));
    return context_record(context, event);
}
API CUresult cuCtxWaitEvent(CUcontext handle, CUevent event) {
    SIM_ENTER();
    struct context *context;
    CHECK(context_find(handle, &context));
    return context_wait_event(context, event);
}
API CUresult cuGreenCtxRecordEvent(CUgreenCtx green, CUevent event) {
    SIM_ENTER();
    if (!object_is(green, SIM_GREEN)) return CUDA_ERROR_INVALID_CONTEXT;
    return context_record(((struct green *)green)->context, event);
}
API CUresult cuGreenCtxWaitEvent(CUgreenCtx green, CUevent event) {
    SIM_ENTER();
    if (!object_is(green, SIM_GREEN)) return CUDA_ERROR_INVALID_CONTEXT;
    return context_wait_event(((struct green *)green)->context, event);
}

/* Inter-process events: the importer's copy is complete from the start, which a program cannot tell
 * from a fast card. */
API CUresult cuIpcGetEventHandle(CUipcEventHandle *out, CUevent handle) {
    SIM_ENTER();
    struct event *event;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(event_find(handle, &event));
    if (!(event->flags & CU_EVENT_INTERPROCESS)) return CUDA_ERROR_INVALID_HANDLE;
    *out = (CUipcEventHandle){.reserved = "vgpu-sim event"};
    return CUDA_SUCCESS;
}
API CUresult cuIpcOpenEventHandle(CUevent *out, CUipcEventHandle handle) {
    (void)handle;
    return cuEventCreate(out, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS);
}
