/* What the nodes of executable graphs take of their context. A destroyed graph's memory stays with
 * the context, which uses it for the next one (measured): so the most nodes that were ever alive at
 * once are charged. */
#ifndef VGPU_GRAPH_NODES_H
#define VGPU_GRAPH_NODES_H

#include <stdint.h>

#include "context.h"
#include "cuda_abi.h"

#define VGPU_NODE_BYTES UINT64_C(2307) /* 20,000 kernel nodes took 44 MiB on an H200 */

/* The nodes of a graph that is being instantiated; paid: those that were charged for it. */
struct vgpu_graph_nodes {
    struct vgpu_place place;
    uint64_t count, paid; /* count 0: nothing was counted */
};

/* Before a graph is instantiated: charges its nodes, CUDA_ERROR_OUT_OF_MEMORY if they do not fit.
 */
CUresult vgpu_graph_nodes_begin(struct vgpu_graph_nodes *nodes, CUgraph graph, const char *api);

/* With the driver's answer: exec is the instance, NULL if there is none. */
void vgpu_graph_nodes_end(const struct vgpu_graph_nodes *nodes, CUgraphExec exec);

/* Around the instance's destruction by end(exec). */
CUresult vgpu_graph_nodes_leave(CUgraphExec exec, CUresult (*end)(CUgraphExec));

#endif
