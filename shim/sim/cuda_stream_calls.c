/* The entry points about streams, host functions and memory words. */
#include "cuda_sim.h"

API CUresult cuStreamCreateWithPriority(CUstream *out, unsigned int flags, int priority) {
    SIM_ENTER();
    struct context *context;
    struct stream *stream;
    if (!out || flags > 1) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_active(&context));
    if (context->green) flags |= CU_STREAM_NON_BLOCKING; /* whatever was asked for (measured) */
    CHECK(stream_new(context, flags, priority, &stream));
    *out = (CUstream)stream;
    return CUDA_SUCCESS;
}
API CUresult cuGreenCtxStreamCreate(CUstream *out, CUgreenCtx green, unsigned int flags,
                                    int priority) {
    SIM_ENTER();
    struct stream *stream;
    if (!out || flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(green, SIM_GREEN)) return CUDA_ERROR_INVALID_CONTEXT;
    CHECK(stream_new(((struct green *)green)->context, flags, priority, &stream));
    *out = (CUstream)stream;
    return CUDA_SUCCESS;
}
API CUresult cuStreamCreate(CUstream *out, unsigned int flags) {
    return cuStreamCreateWithPriority(out, flags, 0);
}

static void sweep(struct context *context) {
    for (struct stream **link = &context->streams; *link;) {
        struct stream *stream = *link;
        if (stream->gone && !stream->first) {
            *link = stream->next;
            context->live_streams--;
            stream_forget(stream);
        } else {
            link = &stream->next;
        }
    }
}

/* Returns at once; what was submitted still runs. */
API CUresult cuStreamDestroy_v2(CUstream handle) {
    SIM_ENTER();
    struct stream *stream;
    if (!handle || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD)
        return CUDA_ERROR_INVALID_HANDLE;
    CHECK(stream_find_quietly(handle, false, &stream));
    capture_forget_stream(stream);
    stream->gone = true;
    sweep(stream->context);
    return CUDA_SUCCESS;
}
API CUresult cuStreamDestroy(CUstream stream) { return cuStreamDestroy_v2(stream); }

static CUresult stream_query(CUstream handle, bool per_thread) {
    SIM_ENTER();
    struct stream *stream;
    CHECK(stream_find(handle, per_thread, &stream));
    CHECK(capture_refuse(stream));
    CHECK(capture_unsafe());
    bool idle = stream_idle(stream);
    CHECK(process_fault());
    return idle ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
API CUresult cuStreamQuery(CUstream stream) { return stream_query(stream, false); }
API CUresult cuStreamQuery_ptsz(CUstream stream) { return stream_query(stream, true); }

static CUresult stream_synchronize(CUstream handle, bool per_thread) {
    SIM_ENTER();
    struct stream *stream;
    CHECK(stream_find(handle, per_thread, &stream));
    CHECK(capture_refuse(stream));
    CHECK(capture_unsafe());
    int device = stream->context->device;
    stream_wait(stream);
    pool_release_unused(device);
    return process_fault();
}
API CUresult cuStreamSynchronize(CUstream stream) { return stream_synchronize(stream, false); }
API CUresult cuStreamSynchronize_ptsz(CUstream stream) { return stream_synchronize(stream, true); }

/* --- what a stream is --- */

#define STREAM_GETTER(name, type, value)                                                           \
    static CUresult name##_(CUstream handle, type *out, bool per_thread) {                         \
        SIM_ENTER();                                                                               \
        struct stream *stream;                                                                     \
        if (!out) return CUDA_ERROR_INVALID_VALUE;                                                 \
        CHECK(stream_find(handle, per_thread, &stream));                                           \
        *out = value;                                                                              \
        return CUDA_SUCCESS;                                                                       \
    }                                                                                              \
    API CUresult name(CUstream stream, type *out) { return name##_(stream, out, false); }          \
    API CUresult name##_ptsz(CUstream stream, type *out) { return name##_(stream, out, true); }

STREAM_GETTER(cuStreamGetPriority, int, stream->priority)
STREAM_GETTER(cuStreamGetFlags, unsigned int, stream->flags)
STREAM_GETTER(cuStreamGetId, unsigned long long, stream->id)
STREAM_GETTER(cuStreamGetCtx, CUcontext, (CUcontext)stream->context)
STREAM_GETTER(cuStreamGetDevice, CUdevice, stream->context->device)

/* Of a green context's stream: that, and the primary context. */
static CUresult get_contexts(CUstream handle, CUcontext *context, CUgreenCtx *green,
                             bool per_thread) {
    SIM_ENTER();
    struct stream *stream;
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    CHECK(stream_find(handle, per_thread, &stream));
    *context = (CUcontext)stream->context->owner;
    if (green) *green = (CUgreenCtx)stream->context->green;
    return CUDA_SUCCESS;
}
API CUresult cuStreamGetCtx_v2(CUstream stream, CUcontext *context, CUgreenCtx *green) {
    return get_contexts(stream, context, green, false);
}
API CUresult cuStreamGetCtx_v2_ptsz(CUstream stream, CUcontext *context, CUgreenCtx *green) {
    return get_contexts(stream, context, green, true);
}
API CUresult cuStreamGetGreenCtx(CUstream stream, CUgreenCtx *green) {
    CUcontext context;
    return green ? get_contexts(stream, &context, green, false) : CUDA_ERROR_INVALID_VALUE;
}

/* --- host functions --- */

static CUresult host_call(CUstream handle, bool per_thread, CUhostFn fn, CUstreamCallback callback,
                          void *data) {
    SIM_ENTER();
    struct stream *stream;
    if (!fn && !callback) return CUDA_ERROR_INVALID_VALUE;
    CHECK(stream_find(handle, per_thread, &stream));
    if (callback) CHECK(capture_refuse(stream));
    if (stream_capturing(stream)) {
        struct node *node;
        CHECK(capture_node(stream, CU_GRAPH_NODE_TYPE_HOST, &node));
        node->host = (CUDA_HOST_NODE_PARAMS){fn, data};
        return CUDA_SUCCESS;
    }
    stream_join_legacy(stream);
    stream_op(stream,
              &(struct op){.kind = fn ? OP_HOST : OP_CALLBACK, .host = {fn, callback, data}});
    return CUDA_SUCCESS;
}
API CUresult cuLaunchHostFunc(CUstream stream, CUhostFn fn, void *data) {
    return host_call(stream, false, fn, NULL, data);
}
API CUresult cuLaunchHostFunc_ptsz(CUstream stream, CUhostFn fn, void *data) {
    return host_call(stream, true, fn, NULL, data);
}
API CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback callback, void *data,
                                 unsigned int flags) {
    return flags ? CUDA_ERROR_INVALID_VALUE : host_call(stream, false, NULL, callback, data);
}
API CUresult cuStreamAddCallback_ptsz(CUstream stream, CUstreamCallback callback, void *data,
                                      unsigned int flags) {
    return flags ? CUDA_ERROR_INVALID_VALUE : host_call(stream, true, NULL, callback, data);
}

/* --- memory words --- */

static CUresult word_op(CUstream handle, bool per_thread, enum op_kind kind, CUdeviceptr address,
                        uint64_t value, unsigned int flags, bool wide) {
    SIM_ENTER();
    struct stream *stream;
    CHECK(stream_find(handle, per_thread, &stream));
    if (!address || address & (wide ? 7 : 3) || !piece_valid((uintptr_t)address, wide ? 8 : 4))
        return CUDA_ERROR_INVALID_VALUE;
    struct op op = {.kind = kind, .word = {(uintptr_t)address, value, flags, wide}};
    if (stream_capturing(stream)) {
        struct node *node;
        CHECK(capture_node(stream, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, &node));
        node->word = op;
        return CUDA_SUCCESS;
    }
    stream_join_legacy(stream);
    stream_op(stream, &op);
    return CUDA_SUCCESS;
}
#define WORD_CALLS(name, kind, type, wide)                                                         \
    API CUresult name(CUstream stream, CUdeviceptr address, type value, unsigned int flags) {      \
        return word_op(stream, false, kind, address, value, flags, wide);                          \
    }                                                                                              \
    API CUresult name##_ptsz(CUstream stream, CUdeviceptr address, type value,                     \
                             unsigned int flags) {                                                 \
        return word_op(stream, true, kind, address, value, flags, wide);                           \
    }
WORD_CALLS(cuStreamWaitValue32, OP_WAIT_VALUE, cuuint32_t, false)
WORD_CALLS(cuStreamWaitValue32_v2, OP_WAIT_VALUE, cuuint32_t, false)
WORD_CALLS(cuStreamWaitValue64, OP_WAIT_VALUE, cuuint64_t, true)
WORD_CALLS(cuStreamWaitValue64_v2, OP_WAIT_VALUE, cuuint64_t, true)
WORD_CALLS(cuStreamWriteValue32, OP_WRITE_VALUE, cuuint32_t, false)
WORD_CALLS(cuStreamWriteValue32_v2, OP_WRITE_VALUE, cuuint32_t, false)
WORD_CALLS(cuStreamWriteValue64, OP_WRITE_VALUE, cuuint64_t, true)
WORD_CALLS(cuStreamWriteValue64_v2, OP_WRITE_VALUE, cuuint64_t, true)
