/* The gate: a session's share of one GPU, decided. Pure: works on the device entry of a mapped
 * region, takes the time as an argument, calls no driver and no clock, never waits.
 *
 * Glossary
 *   slice     a stretch of submitted work: opened by the first launch into a drained session,
 * closed when its process has drained. Its charge is drained − opened. epoch     the slice's
 * number, 1 … 32767 and round again. Only who holds the epoch may act on it. next      earliest
 * start of the next slice: base + charge ÷ share. base      where the schedule stood when the slice
 * was opened: next, or the request less the credit if that is later (an idle session does not save
 * up more than the credit). busy      the process that opened the slice and has not left it
 * (use.gate_busy = epoch). A slice (a GPU's part of it, in a gang: gang.h)
 * belongs to one process: two in one slice would have the driver switch between them, 150 us a
 * time, and neither's events would tell when the GPU worked for it.
 *
 * burst     a second schedule at burst_ppm, which all charges count in. A slice that opens ahead of
 *           the share's schedule, because the burst's allows it and nobody else wants the GPU, is
 *           charged there alone: it uses up nothing of the share.
 *
 * The whole schedule is ONE word, so every step is one compare-and-swap and a kill between two
 * steps leaves a valid state:   ticks of 100 ns since the session's start << 16 | epoch << 1 | open
 * where ticks say when the slice was opened (open = 1) or when the next may open (open = 0). The
 * base of epoch e lies in gate_base[e & 1]; it is stored before the word says "open", and every
 * value a losing opener may leave there is one it was entitled to, give or take the credit.
 */
#ifndef VGPU_GATE_H
#define VGPU_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "region.h"

#define VGPU_GATE_CREDIT_NS UINT64_C(50000000) /* what an idle session may have saved up */
/* Alone: a slice is share × this. It costs 50 to 80 µs of CPU time; at 10 ms a new share takes up
 * to 127 ms to show. */
#define VGPU_GATE_PERIOD_NS UINT64_C(8000000)
/* For a program whose launches set the pace: a nap costs it its caches, on an H200's host 0.7 ms.
 */
#define VGPU_GATE_PERIOD_BOUND_NS UINT64_C(100000000)
#define VGPU_GATE_PERIOD_SHARED_NS                                                                 \
    UINT64_C(20000000)                             /* while another process waits for its slice:   \
                                                      a hand-over costs the card 150 µs */
#define VGPU_GATE_SLICE_MIN_NS UINT64_C(250000)    /* … but at least this */
#define VGPU_GATE_SLICE_MAX_NS UINT64_C(250000000) /* a slice that is behind schedule may go on */
#define VGPU_GATE_PAUSE_NS UINT64_C(100000)        /* pauses up to this are part of the occupancy */

struct vgpu_gate {
    struct vgpu_device *device;
    uint64_t start_ns;   /* region header start_mono_ns */
    uint64_t quantum_ns; /* other sessions are active: a slice may last this long; else 0 */
    uint64_t period_ns;  /* alone: a slice is share × this; 0 = VGPU_GATE_PERIOD_NS */
    uint32_t share_ppm;  /* 0 = vgpu_gate_share(device) */
    bool may_burst;      /* slices may open above the share, up to burst_ppm */
};

enum vgpu_gate_answer {
    VGPU_GATE_OPENED, /* we opened a slice: *slice describes it */
    VGPU_GATE_TAKEN,  /* another process's slice is open: *slice describes that one */
    VGPU_GATE_WAIT,   /* until_ns: earliest moment to ask again */
};

struct vgpu_gate_slice {
    uint32_t epoch;
    uint64_t open_ns;
    uint64_t base_ns;       /* the schedule's own start: ≤ open_ns, or after it by a debt */
    uint64_t end_ns;        /* no launch whose predicted end lies beyond is let in … */
    uint64_t end_shared_ns; /* … while another process waits: later, for fewer hand-overs */
    uint64_t until_ns;      /* with VGPU_GATE_WAIT */
    bool bursting;          /* opened before its time, on time that nobody else wants */
};

/* Asks for a slice at now_ns for a launch first wanted at request_ns (≤ now_ns). */
enum vgpu_gate_answer vgpu_gate_ask(struct vgpu_gate gate, uint64_t now_ns, uint64_t request_ns,
                                    struct vgpu_gate_slice *slice);

/* When the next slice may open; 0 while one is open. *bursting: only because gate.may_burst. */
uint64_t vgpu_gate_next(struct vgpu_gate gate, uint64_t now_ns, bool *bursting);

/* When the next slice may open at the earliest, if this one, charged from from_ns on, drains at
 * drained_ns. */
uint64_t vgpu_gate_after(struct vgpu_gate gate, const struct vgpu_gate_slice *slice,
                         uint64_t from_ns, uint64_t drained_ns);

/* True if a slice is open: *slice describes it. */
bool vgpu_gate_look(struct vgpu_gate gate, struct vgpu_gate_slice *slice);

/* True while the slice is open and nobody has begun to close it. */
bool vgpu_gate_holds(struct vgpu_gate gate, uint32_t epoch);

/* From now on nothing is submitted into this slice. */
void vgpu_gate_begin_close(struct vgpu_gate gate, uint32_t epoch);

/* Closes the slice with the given drain time and books its charge. False if somebody else did. The
 * caller has seen that no live process is busy in it (or robs it). */
bool vgpu_gate_close(struct vgpu_gate gate, uint32_t epoch, uint64_t drained_ns);

/* For a session inside another one, whose gate opens its slices: what it has saved up is at most
 * the credit, when it works from now on. Brings the slice's ends forward to where its share has
 * them. Its gate is never open; vgpu_gate_next says when it may go on, vgpu_gate_charge books what
 * it used. */
void vgpu_gate_follow(struct vgpu_gate gate, uint64_t now_ns, uint64_t request_ns,
                      struct vgpu_gate_slice *outer);

/* Books work that ran outside any slice of ours (we were robbed). */
void vgpu_gate_charge(struct vgpu_gate gate, uint64_t charge_ns);

/* The session's share of what it can reach at all, parts per million: of the whole GPU, or of its
 * partition. VGPU_WHOLE_GPU: there is nothing to hold back. */
static inline uint32_t vgpu_gate_share(const struct vgpu_device *device) {
    uint64_t ppm = __atomic_load_n(&device->share_ppm, __ATOMIC_RELAXED);
    if (device->sm_count) ppm = ppm * device->sm_total / device->sm_count;
    return ppm < VGPU_WHOLE_GPU ? (uint32_t)ppm : VGPU_WHOLE_GPU;
}

#endif
