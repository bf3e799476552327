#include "capture.h"

#include <string.h>

#include "atomics.h"
#include "interpose.h"

uint32_t vgpu_captures_open;

void vgpu_capture_begin(void) { vgpu_add_seq_cst(&vgpu_captures_open, 1U); }

void vgpu_capture_begun(CUresult result) {
    if (result != CUDA_SUCCESS) vgpu_add_seq_cst(&vgpu_captures_open, UINT32_MAX);
}

static bool captures(CUstream stream, bool per_thread) {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUresult result = per_thread ? CALL(cuStreamIsCapturing_ptsz)(stream, &status)
                                 : CALL(cuStreamIsCapturing)(stream, &status);
    return result != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* Some of the errors end the capture and some do not: the stream knows. */
CUresult vgpu_capture_end(CUstream stream, CUgraph *graph, bool per_thread,
                          CUresult (*end)(CUstream, CUgraph *)) {
    bool before = captures(stream, per_thread);
    CUresult result = end(stream, graph);
    if (before && !captures(stream, per_thread)) vgpu_add_seq_cst(&vgpu_captures_open, UINT32_MAX);
    return result;
}

void vgpu_capture_note_unhooked(const char *symbol) {
    static uint32_t noted;
    if (strncmp(symbol, "cuStreamBegin", strlen("cuStreamBegin")) != 0) return;
    if (vgpu_exchange_acq_rel(&noted, 1U) == 0) vgpu_capture_begin();
}

bool vgpu_capture_holds(CUstream stream, bool per_thread) {
    return vgpu_capture_is_open() && captures(stream, per_thread);
}

CUstreamCaptureMode vgpu_capture_relax(void) {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CALL(cuThreadExchangeStreamCaptureMode)(&mode);
    return mode;
}

void vgpu_capture_restore(CUstreamCaptureMode mode) {
    CALL(cuThreadExchangeStreamCaptureMode)(&mode);
}
