/* Graphs before they are launched: what their nodes cost. The thinking is in graph_memory.c and
 * overhead.c; the launch itself is in hook_launch.c. */
#include "graph_copies.h"
#include "graph_memory.h"
#include "graph_nodes.h"
#include "interpose.h"
#include "local.h"
#include "partition.h"

/* --- allocation nodes --- */

VGPU_EXPORT CUresult cuGraphAddMemAllocNode(CUgraphNode *out, CUgraph graph,
                                            const CUgraphNode *deps, size_t count,
                                            CUDA_MEM_ALLOC_NODE_PARAMS *params) {
    vgpu_graph_memory_note();
    return REAL(cuGraphAddMemAllocNode)(out, graph, deps, count, params);
}

/* A kernel in a graph needs its local memory like any other; it is charged when the node is made.
 */
static CUresult note(const CUgraphNodeParams *params, const char *api) {
    if (!params) return CUDA_SUCCESS;
    if (params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) vgpu_graph_memory_note();
    if (params->type != CU_GRAPH_NODE_TYPE_KERNEL) return CUDA_SUCCESS;
    if (params->kernel.kern) vgpu_local_note_kernel(params->kernel.kern);
    return vgpu_local_launch(
        params->kernel.func ? params->kernel.func : (CUfunction)params->kernel.kern, api);
}

VGPU_EXPORT CUresult cuGraphAddNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
                                    size_t count, CUgraphNodeParams *params) {
    CUgraphNodeParams room;
    CUresult rc = note(params, "cuGraphAddNode");
    params = vgpu_partition_node(params, &room);
    return rc ? rc : REAL(cuGraphAddNode)(out, graph, deps, count, params);
}

VGPU_EXPORT CUresult cuGraphAddNode_v2(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
                                       const CUgraphEdgeData *edges, size_t count,
                                       CUgraphNodeParams *params) {
    CUgraphNodeParams room;
    CUresult rc = note(params, "cuGraphAddNode_v2");
    params = vgpu_partition_node(params, &room);
    return rc ? rc : REAL(cuGraphAddNode_v2)(out, graph, deps, edges, count, params);
}

VGPU_EXPORT CUresult cuGraphAddKernelNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
                                          size_t count, const CUDA_KERNEL_NODE_PARAMS_v1 *params) {
    CUresult rc = params ? vgpu_local_launch(params->func, "cuGraphAddKernelNode") : CUDA_SUCCESS;
    return rc ? rc : REAL(cuGraphAddKernelNode)(out, graph, deps, count, params);
}

VGPU_EXPORT CUresult cuGraphAddKernelNode_v2(CUgraphNode *out, CUgraph graph,
                                             const CUgraphNode *deps, size_t count,
                                             const CUDA_KERNEL_NODE_PARAMS *params) {
    const CUgraphNodeParams node = {.type = CU_GRAPH_NODE_TYPE_KERNEL,
                                    .kernel = params ? *params : (CUDA_KERNEL_NODE_PARAMS){0}};
    CUDA_KERNEL_NODE_PARAMS room;
    CUresult rc = note(params ? &node : NULL, "cuGraphAddKernelNode_v2");
    params = vgpu_partition_kernel(params, &room);
    return rc ? rc : REAL(cuGraphAddKernelNode_v2)(out, graph, deps, count, params);
}

/* --- instantiation --- */

static void entered(CUgraphExec exec, CUgraph graph, const struct vgpu_graph_nodes *nodes) {
    vgpu_graph_nodes_end(nodes, exec);
    if (!exec) return;
    vgpu_graph_memory_enter(exec, graph);
    vgpu_graph_copies_enter(exec, graph);
}

/* INSTANTIATED(call): the driver's answer to `call`, which fills *exec from graph. */
#define INSTANTIATED(symbol, call)                                                                 \
    do {                                                                                           \
        struct vgpu_graph_nodes nodes;                                                             \
        CUresult rc = vgpu_graph_nodes_begin(&nodes, graph, #symbol);                              \
        if (rc != CUDA_SUCCESS) return rc;                                                         \
        rc = call;                                                                                 \
        entered(rc == CUDA_SUCCESS && exec ? *exec : NULL, graph, &nodes);                         \
        return rc;                                                                                 \
    } while (0)

VGPU_EXPORT CUresult cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *node,
                                        char *log, size_t size) {
    INSTANTIATED(cuGraphInstantiate, REAL(cuGraphInstantiate)(exec, graph, node, log, size));
}

VGPU_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *node,
                                           char *log, size_t size) {
    INSTANTIATED(cuGraphInstantiate_v2, REAL(cuGraphInstantiate_v2)(exec, graph, node, log, size));
}

VGPU_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph,
                                                 unsigned long long flags) {
    INSTANTIATED(cuGraphInstantiateWithFlags,
                 REAL(cuGraphInstantiateWithFlags)(exec, graph, flags));
}

/* This one can upload too: the memory is then taken now. */
#define UPLOADING (UINT64_C(2)) /* CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD */

static void uploaded(CUgraph graph, const CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    CUdevice device;
    (void)graph;
    if (params && params->flags & UPLOADING && CALL(cuCtxGetDevice)(&device) == CUDA_SUCCESS)
        vgpu_graph_memory_refresh(device);
}

#define INSTANTIATE_WITH_PARAMS(symbol)                                                            \
    VGPU_EXPORT CUresult symbol(CUgraphExec *exec, CUgraph graph,                                  \
                                CUDA_GRAPH_INSTANTIATE_PARAMS *params) {                           \
        struct vgpu_graph_nodes nodes;                                                             \
        CUresult rc = vgpu_graph_nodes_begin(&nodes, graph, #symbol);                              \
        if (rc != CUDA_SUCCESS) return rc;                                                         \
        rc = REAL(symbol)(exec, graph, params);                                                    \
        entered(rc == CUDA_SUCCESS && exec ? *exec : NULL, graph, &nodes);                         \
        if (rc == CUDA_SUCCESS) uploaded(graph, params);                                           \
        return rc;                                                                                 \
    }
INSTANTIATE_WITH_PARAMS(cuGraphInstantiateWithParams)
INSTANTIATE_WITH_PARAMS(cuGraphInstantiateWithParams_ptsz)

VGPU_EXPORT CUresult cuGraphExecDestroy(CUgraphExec exec) {
    vgpu_graph_memory_leave(exec);
    vgpu_graph_copies_leave(exec);
    return vgpu_graph_nodes_leave(exec, REAL(cuGraphExecDestroy));
}

/* --- memory --- */

#define UPLOAD(symbol)                                                                             \
    VGPU_EXPORT CUresult symbol(CUgraphExec exec, CUstream stream) {                               \
        struct vgpu_graph_growth growth;                                                           \
        CUresult rc = vgpu_graph_memory_begin(&growth, exec, #symbol);                             \
        if (rc != CUDA_SUCCESS) return rc;                                                         \
        rc = REAL(symbol)(exec, stream);                                                           \
        vgpu_graph_memory_end(&growth);                                                            \
        return rc;                                                                                 \
    }
UPLOAD(cuGraphUpload)
UPLOAD(cuGraphUpload_ptsz)

VGPU_EXPORT CUresult cuDeviceGraphMemTrim(CUdevice device) {
    CUresult rc = REAL(cuDeviceGraphMemTrim)(device);
    if (rc == CUDA_SUCCESS) vgpu_graph_memory_refresh(device);
    return rc;
}
