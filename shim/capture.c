#include "capture.h"

#include <sched.h>
#include <string.h>

#include "atomics.h"
#include "interpose.h"
#include "session.h"
#include "wait.h"

#define JOIN_WAIT_NS UINT64_C(10000000)
/* A record that must not be left out waits longer: a thread may be kept from its core meanwhile. */
#define RECORD_WAIT_NS UINT64_C(100000000)

uint32_t vgpu_captures_open;
static uint32_t recording, joining; /* threads that record an event of ours; that join a capture */
static __thread uint32_t we_join __attribute__((tls_model("initial-exec")));

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

/* Lets other threads go on. False once that has been tried for so long; *deadline begins as 0. */
static bool yield_until(uint64_t *deadline, uint64_t wait_ns) {
    uint64_t now = vgpu_now_ns();
    if (!*deadline) *deadline = now + wait_ns;
    if (now > *deadline) return false;
    sched_yield();
    return true;
}

void vgpu_capture_join_begin(void) {
    vgpu_add_seq_cst(&joining, 1U);
    we_join++;
    uint64_t deadline = 0;
    while (vgpu_load_seq_cst(&recording) && yield_until(&deadline, JOIN_WAIT_NS)) {
    }
}

void vgpu_capture_join_end(void) {
    vgpu_sub_seq_cst(&joining, 1U);
    we_join--;
}

bool vgpu_capture_record_begin(CUstream stream, bool per_thread) {
    vgpu_add_seq_cst(&recording, 1U);
    bool others_join = vgpu_load_seq_cst(&joining) != we_join;
    if (!others_join && !vgpu_capture_holds(stream, per_thread)) return true;
    vgpu_capture_record_end();
    return false;
}

bool vgpu_capture_record_await(CUstream stream, bool per_thread) {
    uint64_t deadline = 0;
    while (!vgpu_capture_record_begin(stream, per_thread)) {
        if (vgpu_capture_holds(stream, per_thread)) return false;
        if (!yield_until(&deadline, RECORD_WAIT_NS)) return false;
    }
    return true;
}

void vgpu_capture_record_end(void) { vgpu_sub_seq_cst(&recording, 1U); }

void vgpu_capture_await_records(void) { vgpu_wait_unused(&recording); }

static void forget_in_child(void) {
    vgpu_store_relaxed(&recording, 0U);
    vgpu_store_relaxed(&joining, 0U);
    we_join = 0;
}

__attribute__((constructor)) static void register_fork(void) {
    vgpu_session_on_fork(forget_in_child);
}

CUstreamCaptureMode vgpu_capture_relax(void) {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CALL(cuThreadExchangeStreamCaptureMode)(&mode);
    return mode;
}

void vgpu_capture_restore(CUstreamCaptureMode mode) {
    CALL(cuThreadExchangeStreamCaptureMode)(&mode);
}
