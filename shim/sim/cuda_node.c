/* What graph nodes do: adding each type, reading and changing its parameters. */
#include "cuda_sim.h"

CUresult graph_kernel_params(struct node *node, const CUDA_KERNEL_NODE_PARAMS *params) {
    struct function *function;
    CUfunction handle = params->func ? params->func : (CUfunction)params->kern;
    CHECK(function_valid(handle, &function));
    if (!params->gridDimX || !params->gridDimY || !params->gridDimZ || !params->blockDimX ||
        !params->blockDimY || !params->blockDimZ)
        return CUDA_ERROR_INVALID_VALUE;
    function_work(function, params->kernelParams, params->extra, &node->work);
    node->kernel = *params;
    node->kernel.func = handle;
    return CUDA_SUCCESS;
}

CUresult graph_node_params(struct node *node, CUgraphNodeParams *params) {
    switch (node->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return graph_kernel_params(node, &params->kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        CHECK(copy_prepare(&params->memcpy.copyParams, &node->work));
        node->copy = params->memcpy.copyParams;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        CHECK(set_prepare(&params->memset.params, &node->work));
        node->set = params->memset.params;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_HOST:
        if (!params->host.fn) return CUDA_ERROR_INVALID_VALUE;
        node->host = params->host;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        if (!object_is(params->graph.graph, SIM_GRAPH)) return CUDA_ERROR_INVALID_VALUE;
        node->child = graph_copy((struct graph *)params->graph.graph);
        return node->child ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        if (!object_is(params->eventWait.event, SIM_EVENT)) return CUDA_ERROR_INVALID_HANDLE;
        node->event = params->eventWait.event;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        CHECK(device_valid(params->alloc.poolProps.location.id));
        if (!params->alloc.bytesize) return CUDA_ERROR_INVALID_VALUE;
        node->alloc = params->alloc;
        CHECK(graph_alloc(params->alloc.poolProps.location.id, params->alloc.bytesize, node,
                          &params->alloc.dptr));
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        node->work =
            (struct work){.kind = WORK_GRAPH_FREE, .freed = {(uintptr_t)params->free.dptr}};
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

static CUresult add(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps, size_t count,
                    CUgraphNodeParams *params) {
    SIM_ENTER();
    struct node *node;
    if (!params) return CUDA_ERROR_INVALID_VALUE;
    struct node probe = {.type = params->type};
    CHECK(graph_node_params(&probe, params)); /* so that a bad one leaves no node behind */
    CHECK(graph_node_add(out, graph, deps, count, params->type, &node));
    node->work = probe.work;
    node->kernel = probe.kernel;
    node->copy = probe.copy;
    node->set = probe.set;
    node->host = probe.host;
    node->alloc = probe.alloc;
    node->event = probe.event;
    node->child = probe.child;
    return CUDA_SUCCESS;
}
API CUresult cuGraphAddNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                            CUgraphNodeParams *params) {
    return add(out, g, deps, n, params);
}
API CUresult cuGraphAddNode_v2(CUgraphNode *out, CUgraph g, const CUgraphNode *deps,
                               const CUgraphEdgeData *edges, size_t n, CUgraphNodeParams *params) {
    (void)edges;
    return add(out, g, deps, n, params);
}

static CUDA_KERNEL_NODE_PARAMS widen(const CUDA_KERNEL_NODE_PARAMS_v1 *p) {
    return (CUDA_KERNEL_NODE_PARAMS){p->func,         p->gridDimX,  p->gridDimY,  p->gridDimZ,
                                     p->blockDimX,    p->blockDimY, p->blockDimZ, p->sharedMemBytes,
                                     p->kernelParams, p->extra,     NULL,         NULL};
}
API CUresult cuGraphAddKernelNode_v2(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                     const CUDA_KERNEL_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL, .kernel = *p};
    return add(out, g, deps, n, &params);
}
API CUresult cuGraphAddKernelNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                  const CUDA_KERNEL_NODE_PARAMS_v1 *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS wide = widen(p);
    return cuGraphAddKernelNode_v2(out, g, deps, n, &wide);
}
API CUresult cuGraphAddMemcpyNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                  const CUDA_MEMCPY3D *p, CUcontext ctx) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMCPY,
                                .memcpy = {.copyCtx = ctx, .copyParams = *p}};
    return add(out, g, deps, n, &params);
}
API CUresult cuGraphAddMemsetNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                  const CUDA_MEMSET_NODE_PARAMS *p, CUcontext ctx) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEMSET,
                                .memset = {.params = *p, .ctx = ctx}};
    return add(out, g, deps, n, &params);
}
API CUresult cuGraphAddHostNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                const CUDA_HOST_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_HOST, .host = *p};
    return add(out, g, deps, n, &params);
}
API CUresult cuGraphAddChildGraphNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps,
                                      size_t n, CUgraph child) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_GRAPH, .graph = {.graph = child}};
    return add(out, g, deps, n, &params);
}
API CUresult cuGraphAddEmptyNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EMPTY};
    return add(out, g, deps, n, &params);
}
API CUresult cuGraphAddEventRecordNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps,
                                       size_t n, CUevent event) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD, .eventRecord = {event}};
    return add(out, g, deps, n, &params);
}
API CUresult cuGraphAddEventWaitNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                     CUevent event) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT, .eventWait = {event}};
    return add(out, g, deps, n, &params);
}
API CUresult cuGraphAddMemAllocNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                    CUDA_MEM_ALLOC_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC, .alloc = *p};
    CHECK(add(out, g, deps, n, &params));
    p->dptr = params.alloc.dptr;
    return CUDA_SUCCESS;
}
API CUresult cuGraphAddMemFreeNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                   CUdeviceptr pointer) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE, .free = {pointer}};
    return add(out, g, deps, n, &params);
}

/* --- parameters of a node --- */

static CUresult typed(CUgraphNode handle, CUgraphNodeType type, struct node **node) {
    if (!object_is(handle, SIM_NODE)) return CUDA_ERROR_INVALID_VALUE;
    *node = (struct node *)handle;
    return (*node)->type == type ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
#define GETTER(name, type, node_type, value)                                                       \
    API CUresult name(CUgraphNode handle, type *out) {                                             \
        SIM_ENTER();                                                                               \
        struct node *node;                                                                         \
        if (!out) return CUDA_ERROR_INVALID_VALUE;                                                 \
        CHECK(typed(handle, CU_GRAPH_NODE_TYPE_##node_type, &node));                               \
        *out = value;                                                                              \
        return CUDA_SUCCESS;                                                                       \
    }
GETTER(cuGraphKernelNodeGetParams_v2, CUDA_KERNEL_NODE_PARAMS, KERNEL, node->kernel)
GETTER(cuGraphMemcpyNodeGetParams, CUDA_MEMCPY3D, MEMCPY, node->copy)
GETTER(cuGraphMemsetNodeGetParams, CUDA_MEMSET_NODE_PARAMS, MEMSET, node->set)
GETTER(cuGraphHostNodeGetParams, CUDA_HOST_NODE_PARAMS, HOST, node->host)
GETTER(cuGraphChildGraphNodeGetGraph, CUgraph, GRAPH, (CUgraph)node->child)
GETTER(cuGraphEventRecordNodeGetEvent, CUevent, EVENT_RECORD, node->event)
GETTER(cuGraphEventWaitNodeGetEvent, CUevent, WAIT_EVENT, node->event)
GETTER(cuGraphMemAllocNodeGetParams, CUDA_MEM_ALLOC_NODE_PARAMS, MEM_ALLOC, node->alloc)
GETTER(cuGraphMemFreeNodeGetParams, CUdeviceptr, MEM_FREE, node->work.freed.pointer)
API CUresult cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1 *out) {
    CUDA_KERNEL_NODE_PARAMS p;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(cuGraphKernelNodeGetParams_v2(node, &p));
    *out = (CUDA_KERNEL_NODE_PARAMS_v1){p.func,         p.gridDimX,  p.gridDimY,  p.gridDimZ,
                                        p.blockDimX,    p.blockDimY, p.blockDimZ, p.sharedMemBytes,
                                        p.kernelParams, p.extra};
    return CUDA_SUCCESS;
}

static CUresult set_params(CUgraphNode handle, CUgraphNodeParams *params) {
    SIM_ENTER();
    struct node *node;
    if (!params || params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
        params->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
        return CUDA_ERROR_INVALID_VALUE;
    CHECK(typed(handle, params->type, &node));
    return graph_node_params(node, params);
}
API CUresult cuGraphNodeSetParams(CUgraphNode node, CUgraphNodeParams *params) {
    return set_params(node, params);
}
API CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    return set_params(node, &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_KERNEL, .kernel = *p});
}
API CUresult cuGraphKernelNodeSetParams(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    return set_params(node,
                      &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_KERNEL, .kernel = widen(p)});
}
API CUresult cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    return set_params(node, &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_MEMCPY,
                                                 .memcpy = {.copyParams = *p}});
}
API CUresult cuGraphMemsetNodeSetParams(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    return set_params(
        node, &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_MEMSET, .memset = {.params = *p}});
}
API CUresult cuGraphHostNodeSetParams(CUgraphNode node, const CUDA_HOST_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    return set_params(node, &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_HOST, .host = *p});
}
