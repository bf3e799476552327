/* Stream capture: which calls a capture survives (facts/cuda.md section 8, measured), and what it
 * records. */
#include <stdlib.h>
#include <string.h>

#include "cuda_sim.h"

static struct capture *captures;
static __thread CUstreamCaptureMode thread_mode; /* GLOBAL until exchanged */
static __thread char thread_mark;                /* its address names the thread */

static uint64_t this_thread(void) { return (uint64_t)(uintptr_t)&thread_mark; }

void capture_invalidate(struct capture *capture) {
    if (capture) capture->invalid = true;
}

struct capture *capture_of(const struct event *event) {
    struct capture *capture = event->capture_id ? captures : NULL;
    while (capture && capture->id != event->capture_id) capture = capture->next;
    return capture;
}

/* A capture begun RELAXED forbids nothing; a THREAD_LOCAL one binds its own thread; a GLOBAL one
 * binds every thread that has not said otherwise. A thread in RELAXED mode is bound by none. */
CUresult capture_unsafe(void) {
    if (!captures || thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
    CUresult rc = CUDA_SUCCESS;
    for (struct capture *capture = captures; capture; capture = capture->next) {
        bool own = capture->thread == this_thread();
        bool binds = capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL
                         ? own || thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL
                         : own && capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        if (!binds) continue;
        capture->invalid = true;
        rc = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return rc;
}

CUresult capture_refuse(struct stream *stream) {
    if (!stream->capture) return CUDA_SUCCESS;
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult capture_check_context(struct context *context) {
    if (!context->captures) return CUDA_SUCCESS;
    for (struct stream *stream = context->streams; stream; stream = stream->next)
        capture_refuse(stream);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

/* --- what is recorded --- */

static bool deps_set(struct node ***deps, size_t *count, struct node *const *from, size_t n) {
    struct node **copy = n ? malloc(n * sizeof *copy) : NULL;
    if (n && !copy) return false;
    for (size_t i = 0; i < n; i++) copy[i] = from[i];
    free(*deps);
    *deps = copy;
    *count = n;
    return true;
}

static bool deps_add(struct stream *stream, struct node *const *from, size_t n) {
    struct node **grown =
        realloc(stream->deps, (stream->dep_count + n + 1) * sizeof(struct node *));
    if (!grown) return false;
    stream->deps = grown;
    for (size_t i = 0; i < n; i++) {
        bool known = false;
        for (size_t j = 0; j < stream->dep_count; j++) known |= stream->deps[j] == from[i];
        if (!known) stream->deps[stream->dep_count++] = from[i];
    }
    return true;
}

CUresult capture_node(struct stream *stream, CUgraphNodeType type, struct node **out) {
    struct capture *capture = stream->capture;
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    struct node *node = graph_add(capture->graph, type, stream->deps, stream->dep_count);
    if (!node || !deps_set(&stream->deps, &stream->dep_count, &node, 1))
        return CUDA_ERROR_OUT_OF_MEMORY;
    *out = node;
    return CUDA_SUCCESS;
}

CUresult capture_record(struct stream *stream, struct event *event) {
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!deps_set(&event->deps, &event->dep_count, stream->deps, stream->dep_count))
        return CUDA_ERROR_OUT_OF_MEMORY;
    event->capture_id = stream->capture->id;
    event->version = ++sim_process.next_id;
    event->stream = NULL;
    event->recorded = false;
    return CUDA_SUCCESS;
}

static void stream_enter(struct stream *stream, struct capture *capture) {
    stream->capture = capture;
    stream->context->captures++;
    if (!(stream->flags & CU_STREAM_NON_BLOCKING)) stream->context->blocking_captures++;
}

static void stream_exit(struct stream *stream) {
    stream->capture = NULL;
    stream->capture_origin = false;
    free(stream->deps);
    stream->deps = NULL;
    stream->dep_count = 0;
    stream->context->captures--;
    if (!(stream->flags & CU_STREAM_NON_BLOCKING)) stream->context->blocking_captures--;
}

/* *done: the wait has been recorded, or is none. */
CUresult capture_wait(struct stream *stream, struct event *event, bool *done) {
    struct capture *capture = stream->capture, *from = capture_of(event);
    if (!capture && !from) return CUDA_SUCCESS;
    *done = true;
    if ((capture && capture->invalid) || (from && from->invalid))
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!capture) { /* the stream is drawn into the event's capture */
        if (stream->legacy) {
            from->invalid = true;
            return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        }
        stream_enter(stream, from);
        return deps_set(&stream->deps, &stream->dep_count, event->deps, event->dep_count)
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (from == capture)
        return deps_add(stream, event->deps, event->dep_count) ? CUDA_SUCCESS
                                                               : CUDA_ERROR_OUT_OF_MEMORY;
    if (!from && !event->recorded) return CUDA_SUCCESS;
    capture->invalid = true;
    if (!from) return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    from->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_MERGE;
}

/* --- begin and end --- */

static CUresult begin(CUstream handle, bool per_thread, CUstreamCaptureMode mode, CUgraph into,
                      const CUgraphNode *deps, size_t count) {
    SIM_ENTER();
    struct stream *stream;
    if ((unsigned int)mode > 2) return CUDA_ERROR_INVALID_VALUE;
    CHECK(stream_find_quietly(handle, per_thread, &stream));
    if (stream->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (into && !object_is(into, SIM_GRAPH)) return CUDA_ERROR_INVALID_HANDLE;
    struct capture *capture = calloc(1, sizeof *capture);
    struct graph *graph = into ? (struct graph *)into : graph_new();
    if (!capture || !graph) return CUDA_ERROR_OUT_OF_MEMORY;
    *capture = (struct capture){graph, mode, this_thread(), ++sim_process.next_id,
                                false, into, stream,        captures};
    captures = capture;
    stream_enter(stream, capture);
    stream->capture_origin = true;
    return deps_set(&stream->deps, &stream->dep_count, (struct node *const *)deps, count)
               ? CUDA_SUCCESS
               : CUDA_ERROR_OUT_OF_MEMORY;
}
API CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
    return begin(stream, false, mode, NULL, NULL, 0);
}
API CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode) {
    return begin(stream, true, mode, NULL, NULL, 0);
}
API CUresult cuStreamBeginCapture(CUstream stream) {
    return begin(stream, false, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL, NULL, 0);
}
API CUresult cuStreamBeginCapture_ptsz(CUstream stream) {
    return begin(stream, true, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL, NULL, 0);
}
API CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *deps,
                                         const CUgraphEdgeData *edges, size_t count,
                                         CUstreamCaptureMode mode) {
    (void)edges;
    return graph ? begin(stream, false, mode, graph, deps, count) : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph,
                                              const CUgraphNode *deps, const CUgraphEdgeData *edges,
                                              size_t count, CUstreamCaptureMode mode) {
    (void)edges;
    return graph ? begin(stream, true, mode, graph, deps, count) : CUDA_ERROR_INVALID_VALUE;
}

static void mark_back(struct node *node) {
    if (node->mark) return;
    node->mark = 1;
    for (size_t i = 0; i < node->dep_count; i++) mark_back(node->deps[i]);
}

/* All that other streams recorded must have been joined into the one that began. */
static bool all_joined(const struct capture *capture) {
    for (struct node *node = capture->graph->nodes; node; node = node->next) node->mark = 0;
    for (size_t i = 0; i < capture->origin->dep_count; i++) mark_back(capture->origin->deps[i]);
    for (struct stream *stream = capture->origin->context->streams; stream; stream = stream->next)
        for (size_t i = 0; stream->capture == capture && i < stream->dep_count; i++)
            if (!stream->deps[i]->mark) return false;
    return true;
}

static void capture_end(struct capture *capture) {
    for (struct stream *stream = capture->origin->context->streams; stream; stream = stream->next)
        if (stream->capture == capture) stream_exit(stream);
    struct capture **link = &captures;
    while (*link != capture) link = &(*link)->next;
    *link = capture->next;
    free(capture);
}

static CUresult end(CUstream handle, bool per_thread, CUgraph *out) {
    SIM_ENTER();
    struct stream *stream;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(stream_find_quietly(handle, per_thread, &stream));
    struct capture *capture = stream->capture;
    if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (!stream->capture_origin) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != this_thread())
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    CUresult rc = capture->invalid      ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                  : all_joined(capture) ? CUDA_SUCCESS
                                        : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    struct graph *graph = capture->graph;
    bool borrowed = capture->borrowed;
    capture_end(capture);
    if (rc && !borrowed) graph_drop(graph);
    *out = rc ? NULL : (CUgraph)graph;
    return rc;
}
API CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    return end(stream, false, graph);
}
API CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph) {
    return end(stream, true, graph);
}

void capture_forget_stream(struct stream *stream) {
    struct capture *capture = stream->capture;
    if (!capture) return;
    if (!stream->capture_origin) {
        capture->invalid = true;
        stream_exit(stream);
        return;
    }
    struct graph *graph = capture->borrowed ? NULL : capture->graph;
    capture_end(capture);
    if (graph) graph_drop(graph);
}

API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    if (!mode || (unsigned int)*mode > 2) return CUDA_ERROR_INVALID_VALUE;
    CUstreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}
