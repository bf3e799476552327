/* Instantiated graphs: a copy of the graph in an order that respects its edges, launched as one
 * piece of a stream. */
#include <stdlib.h>

#include "cuda_sim.h"

/* Each graph takes whole steps of its own (measured: 16 graphs of 2 MiB, 512 MiB). */
#define GRAPH_STEP (UINT64_C(32) * SIM_MIB)

struct exec {
    struct object object;
    struct graph *graph;
    struct node **order;
    uint64_t flags, memory;     /* memory: what its allocation nodes need */
    struct context *context;    /* whose memory its nodes take, … */
    uint64_t context_id, nodes; /* … while it is that one; how many; 0: none yet */
};

/* Kahn's algorithm, first come first served. False if there is a cycle. */
static bool order_nodes(const struct graph *graph, struct node **order) {
    size_t done = 0;
    for (struct node *node = graph->nodes; node; node = node->next) node->mark = 0;
    for (bool moved = true; moved && done < graph->count;) {
        moved = false;
        for (struct node *node = graph->nodes; node; node = node->next) {
            bool ready = !node->mark;
            for (size_t i = 0; ready && i < node->dep_count; i++) ready = node->deps[i]->mark;
            if (!ready) continue;
            node->mark = 1;
            order[done++] = node;
            moved = true;
        }
    }
    return done == graph->count;
}

static uint64_t memory_of(const struct graph *graph) {
    uint64_t sum = 0;
    for (const struct node *node = graph->nodes; node; node = node->next) {
        if (node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
            sum += (node->alloc.bytesize + 2 * SIM_MIB - 1) & ~(2 * SIM_MIB - 1);
        if (node->child) sum += memory_of(node->child);
    }
    return sum;
}

/* Measured: 20,000 kernel nodes take 44 MiB that stay with the context when the instance is
 * destroyed, and serve the next one. */
#define CODE_STEPS(nodes) ((nodes)*2307 / (2 * SIM_MIB))

static CUresult charge_code(struct exec *exec, size_t nodes) {
    struct context *context;
    if (context_current(&context)) return CUDA_SUCCESS;
    uint64_t alive = context->graph_nodes + nodes;
    if (alive > context->graph_nodes_paid) {
        uint64_t bytes = (CODE_STEPS(alive) - CODE_STEPS(context->graph_nodes_paid)) * 2 * SIM_MIB;
        if (bytes && !sim_take(sim_process.slot, context_device(context)->card, bytes, 0))
            return CUDA_ERROR_OUT_OF_MEMORY;
        context->charged += bytes;
        context->graph_nodes_paid = alive;
    }
    context->graph_nodes = alive;
    exec->context = context;
    exec->context_id = context->id;
    exec->nodes = nodes;
    return CUDA_SUCCESS;
}

static void exec_drop(struct exec *exec) {
    if (exec->nodes && exec->context->id == exec->context_id)
        exec->context->graph_nodes -= exec->nodes;
    graph_drop(exec->graph);
    free(exec->order);
    exec->order = NULL;
    object_drop(exec);
}

static CUresult instantiate(CUgraphExec *out, CUgraph handle, uint64_t flags) {
    SIM_ENTER();
    if (!out || !object_is(handle, SIM_GRAPH) || flags > 15) return CUDA_ERROR_INVALID_VALUE;
    struct exec *exec = object_new(SIM_EXEC, sizeof *exec);
    if (!exec || !(exec->graph = graph_copy((struct graph *)handle)))
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult rc = charge_code(exec, exec->graph->count);
    if (rc) return exec_drop(exec), rc;
    exec->order = calloc(exec->graph->count + 1, sizeof(struct node *));
    exec->flags = flags;
    exec->memory = (memory_of(exec->graph) + GRAPH_STEP - 1) & ~(GRAPH_STEP - 1);
    if (!exec->order || !order_nodes(exec->graph, exec->order)) {
        exec_drop(exec);
        return CUDA_ERROR_INVALID_VALUE;
    }
    *out = (CUgraphExec)exec;
    return CUDA_SUCCESS;
}
API CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph,
                                         unsigned long long flags) {
    return instantiate(out, graph, flags);
}
static CUresult instantiate_log(CUgraphExec *out, CUgraph graph, CUgraphNode *node, char *log,
                                size_t size) {
    if (node) *node = NULL;
    if (log && size) *log = 0;
    return instantiate(out, graph, 0);
}
API CUresult cuGraphInstantiate(CUgraphExec *out, CUgraph graph, CUgraphNode *node, char *log,
                                size_t size) {
    return instantiate_log(out, graph, node, log, size);
}
API CUresult cuGraphInstantiate_v2(CUgraphExec *out, CUgraph graph, CUgraphNode *node, char *log,
                                   size_t size) {
    return instantiate_log(out, graph, node, log, size);
}
static CUresult instantiate_params(CUgraphExec *out, CUgraph graph,
                                   CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    if (!params) return CUDA_ERROR_INVALID_VALUE;
    CUresult rc = instantiate(out, graph, params->flags);
    params->result_out = rc ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
    params->hErrNode_out = NULL;
    return rc;
}
API CUresult cuGraphInstantiateWithParams(CUgraphExec *out, CUgraph graph,
                                          CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    return instantiate_params(out, graph, params);
}
API CUresult cuGraphInstantiateWithParams_ptsz(CUgraphExec *out, CUgraph graph,
                                               CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    return instantiate_params(out, graph, params);
}

static CUresult exec_find(CUgraphExec handle, struct exec **exec) {
    if (!object_is(handle, SIM_EXEC)) return CUDA_ERROR_INVALID_VALUE;
    *exec = (struct exec *)handle;
    return CUDA_SUCCESS;
}
API CUresult cuGraphExecDestroy(CUgraphExec handle) {
    SIM_ENTER();
    struct exec *exec;
    CHECK(exec_find(handle, &exec));
    exec_drop(exec);
    return CUDA_SUCCESS;
}
API CUresult cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t *out) {
    SIM_ENTER();
    struct exec *exec;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(exec_find(handle, &exec));
    *out = exec->flags;
    return CUDA_SUCCESS;
}

/* --- launching --- */

/* Takes the graph's memory: each allocation node's bytes are in use until they are freed. */
static CUresult take_memory(const struct exec *exec, struct node *const *order, size_t count,
                            int device) {
    for (size_t i = 0; i < count; i++) {
        struct range *range = order[i]->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC
                                  ? range_of((uintptr_t)order[i]->alloc.dptr)
                                  : NULL;
        if (!range) continue;
        if (range->charged && !(exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH))
            return CUDA_ERROR_INVALID_VALUE;
        if (range->charged) sim_process.device[range->device].graph_used -= range->charged;
        range->charged = 0;
    }
    CHECK(graph_reserve(device, exec->memory));
    struct device *state = &sim_process.device[device];
    uint64_t rest = exec->memory; /* the first allocation stands for what is left over */
    for (size_t i = 0; i < count; i++)
        if (order[i]->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC &&
            range_of((uintptr_t)order[i]->alloc.dptr))
            rest -= range_of((uintptr_t)order[i]->alloc.dptr)->size;
    for (size_t i = 0; i < count; i++) {
        struct range *range = order[i]->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC
                                  ? range_of((uintptr_t)order[i]->alloc.dptr)
                                  : NULL;
        if (!range) continue;
        range->charged = range->size + rest;
        rest = 0;
        state->graph_used += range->charged;
        if (state->graph_used > state->graph_used_high) state->graph_used_high = state->graph_used;
    }
    return CUDA_SUCCESS;
}

static void flush(struct stream *stream, uint64_t *ns) {
    if (*ns) stream_work(stream, &(struct work){.kind = WORK_NOTHING, .ns = *ns}, false);
    *ns = 0;
}

static void record_event(struct stream *stream, CUevent handle) {
    if (!object_is(handle, SIM_EVENT)) return;
    struct event *event = (struct event *)handle;
    event->capture_id = 0;
    event->recorded = true;
    event->version = ++sim_process.next_id;
    if (stream->first) {
        stream_op(stream, &(struct op){.kind = OP_EVENT, .record = {event, event->version}});
        event->stream = stream;
        event->op = stream->queued;
    } else {
        event_settle(event, context_lane(stream->context), stream->tail);
    }
}

/* Kernels that change no memory add up, so that a graph of thousands is submitted as one. */
static void run_nodes(struct stream *stream, struct node *node, struct node *const *order,
                      size_t count, uint64_t *ns) {
    for (size_t i = 0; order ? i < count : node != NULL; i++) {
        struct node *at = order ? order[i] : node;
        if (!order) node = node->next;
        if (at->disabled) continue;
        if (at->type == CU_GRAPH_NODE_TYPE_HOST) {
            flush(stream, ns);
            stream_op(stream, &(struct op){.kind = OP_HOST,
                                           .host = {at->host.fn, NULL, at->host.userData}});
        } else if (at->type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP) {
            flush(stream, ns);
            stream_op(stream, &at->word);
        } else if (at->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD) {
            flush(stream, ns);
            record_event(stream, at->event);
        } else if (at->child) {
            run_nodes(stream, at->child->nodes, NULL, 0, ns);
        } else if (at->work.kind == WORK_NOTHING) {
            *ns += at->work.ns;
        } else {
            flush(stream, ns);
            stream_work(stream, &at->work, false);
        }
    }
}

CUresult exec_launch(CUgraphExec handle, struct stream *stream) {
    struct exec *exec;
    CHECK(exec_find(handle, &exec));
    if (stream_capturing(stream)) {
        struct node *node;
        CHECK(capture_node(stream, CU_GRAPH_NODE_TYPE_GRAPH, &node));
        node->child = graph_copy(exec->graph);
        return node->child ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    }
    uint64_t ns = 0;
    if (exec->memory)
        CHECK(take_memory(exec, exec->order, exec->graph->count, stream->context->device));
    struct context *context = stream->context;
    context->graph_from = context_lane(context)->submitted;
    run_nodes(stream, NULL, exec->order, exec->graph->count, &ns);
    stream_work(stream, &(struct work){.kind = WORK_NOTHING, .ns = ns},
                true); /* counts as one launch */
    context->graph_to = context_lane(context)->submitted;
    return CUDA_SUCCESS;
}
static CUresult launch(CUgraphExec exec, CUstream handle, bool per_thread) {
    SIM_ENTER();
    struct stream *stream;
    CHECK(stream_find(handle, per_thread, &stream));
    return exec_launch(exec, stream);
}
API CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    return launch(exec, stream, false);
}
API CUresult cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) {
    return launch(exec, stream, true);
}

static CUresult upload(CUgraphExec handle, CUstream stream_handle, bool per_thread) {
    SIM_ENTER();
    struct stream *stream;
    struct exec *exec;
    CHECK(stream_find(stream_handle, per_thread, &stream));
    CHECK(exec_find(handle, &exec));
    return graph_reserve(stream->context->device, exec->memory);
}
API CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) {
    return upload(exec, stream, false);
}
API CUresult cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream) {
    return upload(exec, stream, true);
}

/* --- changing one that exists --- */

static CUresult exec_update(CUgraphExec handle, CUgraph graph_handle,
                            CUgraphExecUpdateResult *result) {
    SIM_ENTER();
    struct exec *exec;
    CHECK(exec_find(handle, &exec));
    if (!object_is(graph_handle, SIM_GRAPH)) return CUDA_ERROR_INVALID_VALUE;
    struct graph *graph = (struct graph *)graph_handle;
    struct node *old = exec->graph->nodes, *new = graph->nodes;
    *result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    for (; old && new; old = old->next, new = new->next) {
        if (old->dep_count != new->dep_count) return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
        if (old->type != new->type) {
            *result = CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
            return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
        }
    }
    if (old || new) return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    struct graph *copy = graph_copy(graph);
    if (!copy || !order_nodes(copy, exec->order)) return CUDA_ERROR_OUT_OF_MEMORY;
    for (old = exec->graph->nodes, new = copy->nodes; old; old = old->next, new = new->next)
        new->origin = old->origin;
    graph_drop(exec->graph);
    exec->graph = copy;
    *result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
    return CUDA_SUCCESS;
}
API CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph,
                                  CUgraphExecUpdateResultInfo *info) {
    CUgraphExecUpdateResult result = CU_GRAPH_EXEC_UPDATE_ERROR;
    CUresult rc = exec_update(exec, graph, &result);
    if (info) *info = (CUgraphExecUpdateResultInfo){result, NULL, NULL};
    return rc;
}
API CUresult cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *node,
                               CUgraphExecUpdateResult *out) {
    CUgraphExecUpdateResult result = CU_GRAPH_EXEC_UPDATE_ERROR;
    CUresult rc = exec_update(exec, graph, &result);
    if (node) *node = NULL;
    if (out) *out = result;
    return rc;
}

static CUresult exec_node(CUgraphExec handle, CUgraphNode original, struct node **node) {
    struct exec *exec;
    CHECK(exec_find(handle, &exec));
    *node = exec->graph->nodes;
    while (*node && (*node)->origin != (struct node *)original) *node = (*node)->next;
    return *node ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
static CUresult exec_set(CUgraphExec exec, CUgraphNode original, CUgraphNodeParams *params) {
    SIM_ENTER();
    struct node *node;
    if (!params) return CUDA_ERROR_INVALID_VALUE;
    CHECK(exec_node(exec, original, &node));
    return node->type == params->type ? graph_node_params(node, params) : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                      CUgraphNodeParams *params) {
    return exec_set(exec, node, params);
}
API CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                               const CUDA_KERNEL_NODE_PARAMS *p) {
    return p ? exec_set(exec, node,
                        &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_KERNEL, .kernel = *p})
             : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                            const CUDA_KERNEL_NODE_PARAMS_v1 *p) {
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    __builtin_memcpy(&params.kernel, p, sizeof *p); /* the older one is its beginning */
    return exec_set(exec, node, &params);
}
API CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                            const CUDA_MEMCPY3D *p, CUcontext ctx) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    return exec_set(exec, node,
                    &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_MEMCPY,
                                         .memcpy = {.copyCtx = ctx, .copyParams = *p}});
}
API CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                            const CUDA_MEMSET_NODE_PARAMS *p, CUcontext ctx) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    return exec_set(exec, node,
                    &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_MEMSET,
                                         .memset = {.params = *p, .ctx = ctx}});
}
API CUresult cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                          const CUDA_HOST_NODE_PARAMS *p) {
    return p ? exec_set(exec, node,
                        &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_HOST, .host = *p})
             : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode original, unsigned int enabled) {
    SIM_ENTER();
    struct node *node;
    CHECK(exec_node(exec, original, &node));
    node->disabled = !enabled;
    return CUDA_SUCCESS;
}
API CUresult cuGraphNodeGetEnabled(CUgraphExec exec, CUgraphNode original, unsigned int *out) {
    SIM_ENTER();
    struct node *node;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(exec_node(exec, original, &node));
    *out = !node->disabled;
    return CUDA_SUCCESS;
}
