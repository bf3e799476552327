/* Spatial mode: where launched graphs end. In a green context cuCtxSynchronize and cuMemFree return
 * while a graph still runs (H200, driver 580: three of eight times, 20 of 20), though the graph's
 * own stream knows. So an event follows each graph, for which they wait too. */
#ifndef VGPU_GRAPH_ENDS_H
#define VGPU_GRAPH_ENDS_H

#include <stdbool.h>

#include "cuda_abi.h"

/* After a graph was launched into the stream. Does nothing outside a partition, or in capture. */
void vgpu_graph_ends_note(CUstream stream, bool per_thread);

/* Waits for the graphs launched so far in the context (NULL: the current one); the code of the
 * first that failed. */
CUresult vgpu_graph_ends_wait(CUcontext context);

/* Before the context ends. */
void vgpu_graph_ends_forget_context(CUcontext context);

/* After fork, in the child. */
void vgpu_graph_ends_forget(void);

#endif
