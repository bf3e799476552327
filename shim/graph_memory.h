/* Memory that graphs allocate: one stock a device, grown when a graph is uploaded or launched, kept
 * when the graph has gone, given back by cuDeviceGraphMemTrim. What a graph can make it grow is
 * reserved before the call; afterwards the driver's own figure replaces the guess. */
#ifndef VGPU_GRAPH_MEMORY_H
#define VGPU_GRAPH_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "context.h"
#include "cuda_abi.h"

/* Not zero once an allocation node was made, by hand or by capture: until then no graph takes
 * memory, and a launch costs one load. */
extern uint32_t vgpu_graph_memory_nodes;
static inline bool vgpu_graph_memory_used(void) {
    return __builtin_expect(__atomic_load_n(&vgpu_graph_memory_nodes, __ATOMIC_RELAXED) != 0, 0);
}
void vgpu_graph_memory_note(void);

/* An executable graph comes (after its instantiation) and goes (before its destruction). */
void vgpu_graph_memory_enter(CUgraphExec exec, CUgraph graph);
void vgpu_graph_memory_leave(CUgraphExec exec);

/* Around a launch or an upload; CUDA_ERROR_OUT_OF_MEMORY: do not make the call, and no end. */
struct vgpu_graph_growth {
    bool counted;
    struct vgpu_place place;
    uint64_t guess;
};
CUresult vgpu_graph_memory_ask(struct vgpu_graph_growth *growth, CUgraphExec exec, const char *api);
void vgpu_graph_memory_tell(const struct vgpu_graph_growth *growth);

static inline CUresult vgpu_graph_memory_begin(struct vgpu_graph_growth *growth, CUgraphExec exec,
                                               const char *api) {
    growth->counted = false;
    return vgpu_graph_memory_used() ? vgpu_graph_memory_ask(growth, exec, api) : CUDA_SUCCESS;
}
static inline void vgpu_graph_memory_end(const struct vgpu_graph_growth *growth) {
    if (growth->counted) vgpu_graph_memory_tell(growth);
}

/* Reads the device's figure again: after a trim. */
void vgpu_graph_memory_refresh(CUdevice ordinal);

void vgpu_graph_memory_forget(void);

#endif
