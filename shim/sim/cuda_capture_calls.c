/* The entry points that ask about a capture, and the one that moves its front. */
#include <stdlib.h>

#include "cuda_sim.h"

static CUresult ask(CUstream handle, bool per_thread, struct stream **stream) {
    CHECK(stream_find_quietly(handle, per_thread, stream));
    /* Only a question: it does no harm to the capture. */
    return (*stream)->legacy && (*stream)->context->blocking_captures
               ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
               : CUDA_SUCCESS;
}

static CUstreamCaptureStatus status_of(const struct stream *stream) {
    if (!stream->capture) return CU_STREAM_CAPTURE_STATUS_NONE;
    return stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                    : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

static CUresult is_capturing(CUstream handle, bool per_thread, CUstreamCaptureStatus *out) {
    SIM_ENTER();
    struct stream *stream;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(ask(handle, per_thread, &stream));
    *out = status_of(stream);
    return CUDA_SUCCESS;
}
API CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *out) {
    return is_capturing(stream, false, out);
}
API CUresult cuStreamIsCapturing_ptsz(CUstream stream, CUstreamCaptureStatus *out) {
    return is_capturing(stream, true, out);
}

static CUresult info(CUstream handle, bool per_thread, CUstreamCaptureStatus *status,
                     cuuint64_t *id, CUgraph *graph, const CUgraphNode **deps,
                     const CUgraphEdgeData **edges, size_t *count) {
    SIM_ENTER();
    struct stream *stream;
    if (!status) return CUDA_ERROR_INVALID_VALUE;
    CHECK(ask(handle, per_thread, &stream));
    *status = status_of(stream);
    if (*status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return CUDA_SUCCESS;
    if (id) *id = stream->capture->id;
    if (graph) *graph = (CUgraph)stream->capture->graph;
    if (deps) *deps = (const CUgraphNode *)stream->deps;
    if (edges) *edges = NULL;
    if (count) *count = stream->dep_count;
    return CUDA_SUCCESS;
}
#define INFO_CALLS(suffix, own)                                                                    \
    API CUresult cuStreamGetCaptureInfo##suffix(CUstream s, CUstreamCaptureStatus *status,         \
                                                cuuint64_t *id) {                                  \
        return info(s, own, status, id, NULL, NULL, NULL, NULL);                                   \
    }                                                                                              \
    API CUresult cuStreamGetCaptureInfo_v2##suffix(CUstream s, CUstreamCaptureStatus *status,      \
                                                   cuuint64_t *id, CUgraph *graph,                 \
                                                   const CUgraphNode **deps, size_t *count) {      \
        return info(s, own, status, id, graph, deps, NULL, count);                                 \
    }                                                                                              \
    API CUresult cuStreamGetCaptureInfo_v3##suffix(                                                \
        CUstream s, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,                 \
        const CUgraphNode **deps, const CUgraphEdgeData **edges, size_t *count) {                  \
        return info(s, own, status, id, graph, deps, edges, count);                                \
    }
INFO_CALLS(, false)
INFO_CALLS(_ptsz, true)

static CUresult update(CUstream handle, bool per_thread, CUgraphNode *deps, size_t count,
                       unsigned int flags) {
    SIM_ENTER();
    struct stream *stream;
    if (flags > 1 || (count && !deps)) return CUDA_ERROR_INVALID_VALUE;
    CHECK(stream_find_quietly(handle, per_thread, &stream));
    if (!stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    size_t kept = flags ? 0 : stream->dep_count; /* 0 adds, 1 sets */
    struct node **grown = realloc(stream->deps, (kept + count + 1) * sizeof(struct node *));
    if (!grown) return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) grown[kept + i] = (struct node *)deps[i];
    stream->deps = grown;
    stream->dep_count = kept + count;
    return CUDA_SUCCESS;
}
#define UPDATE_CALLS(suffix, own)                                                                  \
    API CUresult cuStreamUpdateCaptureDependencies##suffix(CUstream s, CUgraphNode *deps,          \
                                                           size_t count, unsigned flags) {         \
        return update(s, own, deps, count, flags);                                                 \
    }                                                                                              \
    API CUresult cuStreamUpdateCaptureDependencies_v2##suffix(CUstream s, CUgraphNode *deps,       \
                                                              const CUgraphEdgeData *edges,        \
                                                              size_t count, unsigned flags) {      \
        (void)edges;                                                                               \
        return update(s, own, deps, count, flags);                                                 \
    }
UPDATE_CALLS(, false)
UPDATE_CALLS(_ptsz, true)
