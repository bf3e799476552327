/* The copies and fills of graphs under --copy-bw: counted when a graph is instantiated, waited for
 * at each launch. What conditional nodes hold, and what an update of the executable graph changes,
 * is not seen. Process-local; safe from any thread. */
#ifndef VGPU_GRAPH_COPIES_H
#define VGPU_GRAPH_COPIES_H

#include <stdbool.h>

#include "cuda_abi.h"

/* After a graph was instantiated, and before that instance ends. */
void vgpu_graph_copies_enter(CUgraphExec exec, CUgraph graph);
void vgpu_graph_copies_leave(CUgraphExec exec);

/* Before a launch: waits for the buckets, unless the stream is capturing. */
void vgpu_graph_copies_wait(CUgraphExec exec, CUstream stream, bool per_thread);

#endif
