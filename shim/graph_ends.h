/* Spatial mode: where launched graphs begin and end. In a green context cuCtxSynchronize returns
 * while a graph still runs, the legacy stream does not wait for a graph in a blocking one, nor such
 * a graph for the legacy stream (H200, driver 580: three of eight times, 18 of 20, 20 of 20;
 * between kernels all that works). The graph's own stream does. So an event follows each graph, for
 * which cuCtxSynchronize, synchronous copies and whatever goes to the legacy stream wait too; and a
 * graph in a blocking stream waits for an event in the legacy one. */
#ifndef VGPU_GRAPH_ENDS_H
#define VGPU_GRAPH_ENDS_H

#include <stdbool.h>

#include "atomics.h"
#include "cuda_abi.h"

/* After a graph was launched into the stream. Does nothing outside a partition, or in capture. */
void vgpu_graph_ends_note(CUstream stream, bool per_thread);

/* Waits for the graphs launched so far in the context (NULL: the current one); the code of the
 * first that failed. */
CUresult vgpu_graph_ends_wait(CUcontext context);

/* 1: the legacy stream of some context does not know of a graph yet. */
extern uint32_t vgpu_graph_ends_unjoined;
void vgpu_graph_ends_join_now(const CUstream *legacy);

/* Something is about to be submitted to the current context's legacy stream, by this name; NULL: a
 * synchronous call, for which the host waits. */
static inline void vgpu_graph_ends_join(const CUstream *legacy) {
    if (__builtin_expect(vgpu_load_relaxed(&vgpu_graph_ends_unjoined), 0))
        vgpu_graph_ends_join_now(legacy);
}

/* Before a graph is launched into the stream. */
void vgpu_graph_ends_follow_legacy(CUstream stream, bool per_thread);

/* Before the context ends. */
void vgpu_graph_ends_forget_context(CUcontext context);

/* After fork, in the child. */
void vgpu_graph_ends_forget(void);

#endif
