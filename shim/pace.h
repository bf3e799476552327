/* Pacing: holds launches until the gate lets them in. The deciding is in gate.h and book.h, the
 * events in marks.h; here is the state of one process on one device and the waiting. */
#ifndef VGPU_PACE_H
#define VGPU_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "book.h"
#include "cuda_abi.h"
#include "marks.h"
#include "session.h"

struct vgpu_pace;

/* One launch on its way through the gate. */
struct vgpu_passage {
    struct vgpu_pace *pace; /* NULL: not gated (no share, or the stream captures) */
    struct vgpu_track *track;
    struct vgpu_book_entry *entry;
    CUevent trial_start;
    bool granted;   /* it was let in by a grant: what follows is not set */
    uint32_t epoch; /* the slice it was let into */
    bool first;     /* the first of its slice */
    bool trial;     /* timed by itself */
    bool group;     /* begins a timed group */
    bool mark;      /* a mark is due after it */
};

/* True if some device of the session may have a share: the only thing an unlimited launch pays for.
 */
bool vgpu_pace_gated(void);

/* Before the launch: waits until the gate lets it in. `key` is from vgpu_book_key;
 * `function` NULL: a graph. */
void vgpu_pace_enter(struct vgpu_passage *passage, CUstream stream, bool per_thread, uint64_t key,
                     const void *function);

/* After the launch. */
void vgpu_pace_leave(struct vgpu_passage *passage);

/* The program waits for a stream (or, stream_given false, for its whole context) by itself: call
 * before, and after with the driver's answer. */
struct vgpu_sync {
    struct vgpu_pace *pace;
    struct vgpu_track *track; /* NULL: all tracks of the context */
    uint64_t submitted_ns;
    CUcontext context; /* of all tracks, if nobody was launching then, … */
    uint32_t admitted; /* … and launches let in until then */
    bool known;        /* when all had ended, before the program waited */
};
void vgpu_pace_sync_begin(struct vgpu_sync *sync, CUstream stream, bool per_thread,
                          bool stream_given);
void vgpu_pace_sync_end(struct vgpu_sync *sync, CUresult result);

/* The program has waited for an event or a copy, for which vgpu_pace_sync_begin was called without
 * a stream: look what has drained. */
void vgpu_pace_look(const struct vgpu_sync *sync);

/* Before the context's streams and events die: wait for what runs there, as the driver is about to,
 * book it, forget its handles. */
void vgpu_pace_forget_context(CUcontext context);

/* Before a stream is destroyed: mark its tail, forget the handle. */
void vgpu_pace_forget_stream(CUstream stream);

/* For watch.c: gives our slice up when a neighbour waits for it. Returns when to look again; 0 =
 * when the bell rings, or it is *listens_until_ns (0 = never). */
uint64_t vgpu_pace_tend(struct vgpu_pace *pace, uint64_t *listens_until_ns);
uint32_t *vgpu_pace_bell(struct vgpu_pace *pace);
uint32_t vgpu_pace_ear(const struct vgpu_pace *pace);

#endif
