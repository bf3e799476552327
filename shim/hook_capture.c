/* The beginnings and ends of captures: thin wrappers, the thinking is in capture.c. */
#include "capture.h"
#include "interpose.h"

#define BEGUN(call)                                                                                \
    do {                                                                                           \
        vgpu_capture_begin();                                                                      \
        vgpu_capture_join_begin();                                                                 \
        CUresult result = call;                                                                    \
        vgpu_capture_join_end();                                                                   \
        vgpu_capture_begun(result);                                                                \
        return result;                                                                             \
    } while (0)

#define BEGIN_V1(symbol)                                                                           \
    VGPU_EXPORT CUresult symbol(CUstream stream) { BEGUN(REAL(symbol)(stream)); }
BEGIN_V1(cuStreamBeginCapture)
BEGIN_V1(cuStreamBeginCapture_ptsz)

#define BEGIN(symbol)                                                                              \
    VGPU_EXPORT CUresult symbol(CUstream stream, CUstreamCaptureMode mode) {                       \
        BEGUN(REAL(symbol)(stream, mode));                                                         \
    }
BEGIN(cuStreamBeginCapture_v2)
BEGIN(cuStreamBeginCapture_v2_ptsz)

#define BEGIN_TO_GRAPH(symbol)                                                                     \
    VGPU_EXPORT CUresult symbol(CUstream stream, CUgraph graph, const CUgraphNode *deps,           \
                                const CUgraphEdgeData *edges, size_t count,                        \
                                CUstreamCaptureMode mode) {                                        \
        BEGUN(REAL(symbol)(stream, graph, deps, edges, count, mode));                              \
    }
BEGIN_TO_GRAPH(cuStreamBeginCaptureToGraph)
BEGIN_TO_GRAPH(cuStreamBeginCaptureToGraph_ptsz)

VGPU_EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    return vgpu_capture_end(stream, graph, false, REAL(cuStreamEndCapture));
}

VGPU_EXPORT CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph) {
    return vgpu_capture_end(stream, graph, true, REAL(cuStreamEndCapture_ptsz));
}

/* A stream joins another's capture by waiting for an event that was recorded there. */
#define WAIT_EVENT(symbol)                                                                         \
    VGPU_EXPORT CUresult symbol(CUstream stream, CUevent event, unsigned int flags) {              \
        if (!vgpu_capture_is_open()) return REAL(symbol)(stream, event, flags);                    \
        vgpu_capture_join_begin();                                                                 \
        CUresult result = REAL(symbol)(stream, event, flags);                                      \
        vgpu_capture_join_end();                                                                   \
        return result;                                                                             \
    }
WAIT_EVENT(cuStreamWaitEvent)
WAIT_EVENT(cuStreamWaitEvent_ptsz)
