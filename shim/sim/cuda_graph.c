/* Graphs: nodes and edges, before they are instantiated. Node parameters are in cuda_node.c. */
#include <stdlib.h>
#include <string.h>

#include "cuda_sim.h"

struct graph *graph_new(void) {
    struct graph *graph = object_new(SIM_GRAPH, sizeof *graph);
    if (!graph) return NULL;
    graph->end = &graph->nodes;
    graph->id = ++sim_process.next_id;
    return graph;
}

bool node_set_deps(struct node *node, struct node *const *deps, size_t count) {
    struct node **copy = count ? malloc(count * sizeof *copy) : NULL;
    if (count && !copy) return false;
    for (size_t i = 0; i < count; i++) copy[i] = deps[i];
    free(node->deps);
    node->deps = copy;
    node->dep_count = count;
    return true;
}

struct node *graph_add(struct graph *graph, CUgraphNodeType type, struct node *const *deps,
                       size_t count) {
    struct node *node = object_new(SIM_NODE, sizeof *node);
    if (!node || !node_set_deps(node, deps, count)) return NULL;
    node->graph = graph;
    node->type = type;
    node->index = graph->count++;
    *graph->end = node;
    graph->end = &node->next;
    return node;
}

static void node_drop(struct node *node) {
    if (node->child) graph_drop(node->child);
    free(node->deps);
    node->deps = NULL;
    object_drop(node);
}

void graph_drop(struct graph *graph) {
    for (struct node *node = graph->nodes, *next; node; node = next) {
        next = node->next;
        node_drop(node);
    }
    object_drop(graph);
}

struct graph *graph_copy(struct graph *graph) {
    struct graph *copy = graph_new();
    if (!copy) return NULL;
    for (struct node *node = graph->nodes; node; node = node->next) {
        struct node *twin = graph_add(copy, node->type, NULL, 0);
        if (!twin) return NULL;
        struct node fresh = *node;
        fresh.object = twin->object;
        fresh.graph = copy;
        fresh.next = NULL;
        fresh.index = twin->index;
        fresh.deps = NULL;
        fresh.dep_count = 0;
        fresh.origin = node;
        fresh.twin = NULL;
        if (node->child && !(fresh.child = graph_copy(node->child))) return NULL;
        *twin = fresh;
        node->twin = twin;
    }
    for (struct node *node = graph->nodes; node; node = node->next) {
        if (!node_set_deps(node->twin, node->deps, node->dep_count)) return NULL;
        for (size_t i = 0; i < node->dep_count; i++) node->twin->deps[i] = node->deps[i]->twin;
    }
    return copy;
}

static CUresult graph_find(CUgraph handle, struct graph **graph) {
    if (!object_is(handle, SIM_GRAPH)) return CUDA_ERROR_INVALID_VALUE;
    *graph = (struct graph *)handle;
    return CUDA_SUCCESS;
}
static CUresult node_find(CUgraphNode handle, struct node **node) {
    if (!object_is(handle, SIM_NODE)) return CUDA_ERROR_INVALID_VALUE;
    *node = (struct node *)handle;
    return CUDA_SUCCESS;
}

CUresult graph_node_add(CUgraphNode *out, CUgraph handle, const CUgraphNode *deps, size_t count,
                        CUgraphNodeType type, struct node **node) {
    struct graph *graph;
    if (!out || (count && !deps)) return CUDA_ERROR_INVALID_VALUE;
    CHECK(graph_find(handle, &graph));
    for (size_t i = 0; i < count; i++)
        if (!object_is(deps[i], SIM_NODE) || ((struct node *)deps[i])->graph != graph)
            return CUDA_ERROR_INVALID_VALUE;
    *node = graph_add(graph, type, (struct node *const *)deps, count);
    if (!*node) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = (CUgraphNode)*node;
    return CUDA_SUCCESS;
}

API CUresult cuGraphCreate(CUgraph *out, unsigned int flags) {
    SIM_ENTER();
    if (!out || flags) return CUDA_ERROR_INVALID_VALUE;
    struct graph *graph = graph_new();
    *out = (CUgraph)graph;
    return graph ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
API CUresult cuGraphDestroy(CUgraph handle) {
    SIM_ENTER();
    struct graph *graph;
    CHECK(graph_find(handle, &graph));
    graph_drop(graph);
    return CUDA_SUCCESS;
}
API CUresult cuGraphClone(CUgraph *out, CUgraph handle) {
    SIM_ENTER();
    struct graph *graph;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(graph_find(handle, &graph));
    graph = graph_copy(graph);
    *out = (CUgraph)graph;
    return graph ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
API CUresult cuGraphNodeFindInClone(CUgraphNode *out, CUgraphNode original, CUgraph handle) {
    SIM_ENTER();
    struct graph *graph;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(graph_find(handle, &graph));
    struct node *node = graph->nodes;
    while (node && node->origin != (struct node *)original) node = node->next;
    *out = (CUgraphNode)node;
    return node ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuGraphDestroyNode(CUgraphNode handle) {
    SIM_ENTER();
    struct node *node;
    CHECK(node_find(handle, &node));
    struct graph *graph = node->graph;
    struct node **link = &graph->nodes;
    while (*link != node) link = &(*link)->next;
    *link = node->next;
    if (!*link) graph->end = link;
    graph->count--;
    for (struct node *other = graph->nodes; other; other = other->next)
        for (size_t i = 0; i < other->dep_count;)
            if (other->deps[i] == node) other->deps[i] = other->deps[--other->dep_count];
            else i++;
    node_drop(node);
    return CUDA_SUCCESS;
}

/* --- lists: with no array the number; otherwise at most *count, the rest NULL --- */

struct list {
    CUgraphNode *out;
    size_t room, found;
};
static void list_add(struct list *list, struct node *node) {
    if (list->out && list->found < list->room) list->out[list->found] = (CUgraphNode)node;
    list->found++;
}
static CUresult list_end(struct list *list, size_t *count) {
    for (size_t i = list->found; list->out && i < list->room; i++) list->out[i] = NULL;
    *count = list->out && list->found > list->room ? list->room : list->found;
    return CUDA_SUCCESS;
}
static CUresult graph_list(CUgraph handle, CUgraphNode *out, size_t *count, bool roots) {
    SIM_ENTER();
    struct graph *graph;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    CHECK(graph_find(handle, &graph));
    struct list list = {out, *count, 0};
    for (struct node *node = graph->nodes; node; node = node->next)
        if (!roots || !node->dep_count) list_add(&list, node);
    return list_end(&list, count);
}
API CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    return graph_list(graph, nodes, count, false);
}
API CUresult cuGraphGetRootNodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    return graph_list(graph, nodes, count, true);
}

static CUresult node_neighbours(CUgraphNode handle, CUgraphNode *out, CUgraphEdgeData *edges,
                                size_t *count, bool before) {
    SIM_ENTER();
    struct node *node;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    CHECK(node_find(handle, &node));
    struct list list = {out, *count, 0};
    for (size_t i = 0; before && i < node->dep_count; i++) list_add(&list, node->deps[i]);
    for (struct node *other = before ? NULL : node->graph->nodes; other; other = other->next)
        for (size_t i = 0; i < other->dep_count; i++)
            if (other->deps[i] == node) list_add(&list, other);
    if (edges) memset(edges, 0, *count * sizeof *edges);
    return list_end(&list, count);
}
API CUresult cuGraphNodeGetDependencies(CUgraphNode n, CUgraphNode *out, size_t *count) {
    return node_neighbours(n, out, NULL, count, true);
}
API CUresult cuGraphNodeGetDependencies_v2(CUgraphNode n, CUgraphNode *out, CUgraphEdgeData *edges,
                                           size_t *count) {
    return node_neighbours(n, out, edges, count, true);
}
API CUresult cuGraphNodeGetDependentNodes(CUgraphNode n, CUgraphNode *out, size_t *count) {
    return node_neighbours(n, out, NULL, count, false);
}
API CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode n, CUgraphNode *out,
                                             CUgraphEdgeData *edges, size_t *count) {
    return node_neighbours(n, out, edges, count, false);
}

static CUresult edge_list(CUgraph handle, CUgraphNode *from, CUgraphNode *to,
                          CUgraphEdgeData *edges, size_t *count) {
    SIM_ENTER();
    struct graph *graph;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    CHECK(graph_find(handle, &graph));
    struct list froms = {from, *count, 0}, tos = {to, *count, 0};
    for (struct node *node = graph->nodes; node; node = node->next)
        for (size_t i = 0; i < node->dep_count; i++) {
            list_add(&froms, node->deps[i]);
            list_add(&tos, node);
        }
    if (edges && from) memset(edges, 0, *count * sizeof *edges);
    size_t same = *count;
    list_end(&froms, &same);
    return list_end(&tos, count);
}
API CUresult cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count) {
    return edge_list(graph, from, to, NULL, count);
}
API CUresult cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *from, CUgraphNode *to,
                                CUgraphEdgeData *edges, size_t *count) {
    return edge_list(graph, from, to, edges, count);
}

/* --- edges --- */

static CUresult edit_edges(CUgraph handle, const CUgraphNode *from, const CUgraphNode *to,
                           size_t count, bool add) {
    SIM_ENTER();
    struct graph *graph;
    CHECK(graph_find(handle, &graph));
    for (size_t i = 0; i < count; i++) {
        struct node *a, *b;
        CHECK(node_find(from[i], &a));
        CHECK(node_find(to[i], &b));
        size_t at = 0;
        while (at < b->dep_count && b->deps[at] != a) at++;
        if (add == (at < b->dep_count) || a == b) return CUDA_ERROR_INVALID_VALUE;
        if (!add) {
            b->deps[at] = b->deps[--b->dep_count];
            continue;
        }
        struct node **grown = realloc(b->deps, (b->dep_count + 1) * sizeof(struct node *));
        if (!grown) return CUDA_ERROR_OUT_OF_MEMORY;
        b->deps = grown;
        b->deps[b->dep_count++] = a;
    }
    return CUDA_SUCCESS;
}
API CUresult cuGraphAddDependencies(CUgraph g, const CUgraphNode *from, const CUgraphNode *to,
                                    size_t n) {
    return edit_edges(g, from, to, n, true);
}
API CUresult cuGraphAddDependencies_v2(CUgraph g, const CUgraphNode *from, const CUgraphNode *to,
                                       const CUgraphEdgeData *e, size_t n) {
    (void)e;
    return edit_edges(g, from, to, n, true);
}
API CUresult cuGraphRemoveDependencies(CUgraph g, const CUgraphNode *from, const CUgraphNode *to,
                                       size_t n) {
    return edit_edges(g, from, to, n, false);
}
API CUresult cuGraphRemoveDependencies_v2(CUgraph g, const CUgraphNode *from, const CUgraphNode *to,
                                          const CUgraphEdgeData *e, size_t n) {
    (void)e;
    return edit_edges(g, from, to, n, false);
}
API CUresult cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType *out) {
    SIM_ENTER();
    struct node *node;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(node_find(handle, &node));
    *out = node->type;
    return CUDA_SUCCESS;
}
