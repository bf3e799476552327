/* Stream capture: whether any may be going on in this process, and our own calls around it.
 *
 * A stream captures only after somebody began a capture, through one of the hooked names, and
 * before that one has ended: streams that join in (by waiting for an event) do so in between. So
 * while no capture is open no stream needs to be asked. A capture that ends unseen (its stream or
 * context is destroyed) only leaves the question in place. */
#ifndef VGPU_CAPTURE_H
#define VGPU_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "cuda_abi.h"

extern uint32_t vgpu_captures_open;

static inline bool vgpu_capture_is_open(void) {
    return __builtin_expect(__atomic_load_n(&vgpu_captures_open, __ATOMIC_ACQUIRE) != 0, 0);
}

/* Before the driver begins a capture, and with its answer. */
void vgpu_capture_begin(void);
void vgpu_capture_begun(CUresult result);

/* Around the call by which a stream begins or joins a capture: meanwhile none of our events is
 * recorded, by whatever thread, for it would become part of the capture. Waits for those under way,
 * 10 ms at most. */
void vgpu_capture_join_begin(void);
void vgpu_capture_join_end(void);

/* Around the recording of an event of ours. False: not now, a stream is joining a capture. */
bool vgpu_capture_record_begin(CUstream stream, bool per_thread);

/* The same, where the event must not be left out: false only if this stream captures, or others
 * join captures for 10 ms on end. */
bool vgpu_capture_record_await(CUstream stream, bool per_thread);
void vgpu_capture_record_end(void);

/* Waits for the records under way, 10 ms at most: before a stream dies that no new one is to be
 * made into. */
void vgpu_capture_await_records(void);

/* Ends the stream's capture by calling end(stream, graph). */
CUresult vgpu_capture_end(CUstream stream, CUgraph *graph, bool per_thread,
                          CUresult (*end)(CUstream, CUgraph *));

/* The program has looked up a name that begins captures and is not hooked (newer than we are): from
 * now on every stream is asked. */
void vgpu_capture_note_unhooked(const char *symbol);

/* True if nothing may be recorded into the stream now: it captures, or captures implicitly. */
bool vgpu_capture_holds(CUstream stream, bool per_thread);

/* Relaxed capture mode for the calling thread; give the answer back to vgpu_capture_restore. */
CUstreamCaptureMode vgpu_capture_relax(void);
void vgpu_capture_restore(CUstreamCaptureMode mode);

#endif
