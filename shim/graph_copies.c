#include "graph_copies.h"

#include <pthread.h>
#include <stdlib.h>

#include "copy.h"
#include "interpose.h"
#include "map.h"
#include "session.h"

#define DEEPEST 8 /* graphs within graphs */

struct exec {
    struct vgpu_node node;
    struct vgpu_copies copies;
};

static struct vgpu_map execs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void forget_in_child(void) { pthread_mutex_init(&lock, NULL); }

__attribute__((constructor)) static void prepare(void) { vgpu_session_on_fork(forget_in_child); }

static void add_graph(struct vgpu_copies *copies, CUgraph graph, int depth);

static void add_node(struct vgpu_copies *copies, CUgraphNode node, int depth) {
    CUgraphNodeType type;
    CUDA_MEMCPY3D copy;
    CUDA_MEMSET_NODE_PARAMS fill;
    CUgraph child;
    if (CALL(cuGraphNodeGetType)(node, &type) != CUDA_SUCCESS) return;
    if (type == CU_GRAPH_NODE_TYPE_MEMCPY &&
        CALL(cuGraphMemcpyNodeGetParams)(node, &copy) == CUDA_SUCCESS)
        vgpu_copy_add(copies, (struct vgpu_copy_end){copy.dstMemoryType, copy.dstDevice},
                      (struct vgpu_copy_end){copy.srcMemoryType, copy.srcDevice},
                      (uint64_t)copy.WidthInBytes * copy.Height * copy.Depth);
    else if (type == CU_GRAPH_NODE_TYPE_MEMSET &&
             CALL(cuGraphMemsetNodeGetParams)(node, &fill) == CUDA_SUCCESS)
        copies->bytes[VGPU_COPY_D2D] += (uint64_t)fill.width * fill.height * fill.elementSize;
    else if (type == CU_GRAPH_NODE_TYPE_GRAPH && depth < DEEPEST &&
             CALL(cuGraphChildGraphNodeGetGraph)(node, &child) == CUDA_SUCCESS)
        add_graph(copies, child, depth + 1);
}

static void add_graph(struct vgpu_copies *copies, CUgraph graph, int depth) {
    size_t count = 0;
    if (CALL(cuGraphGetNodes)(graph, NULL, &count) != CUDA_SUCCESS || !count) return;
    CUgraphNode *nodes = calloc(count, sizeof *nodes);
    if (nodes && CALL(cuGraphGetNodes)(graph, nodes, &count) == CUDA_SUCCESS)
        for (size_t i = 0; i < count; i++) add_node(copies, nodes[i], depth);
    free(nodes);
}

void vgpu_graph_copies_enter(CUgraphExec handle, CUgraph graph) {
    struct vgpu_copies copies = {{0}};
    if (!vgpu_copy_limited()) return;
    add_graph(&copies, graph, 0);
    if (!(copies.bytes[0] | copies.bytes[1] | copies.bytes[2])) return;
    struct exec *exec = calloc(1, sizeof *exec);
    if (!exec) return;
    exec->node.key = (uint64_t)(uintptr_t)handle;
    exec->copies = copies;
    pthread_mutex_lock(&lock);
    bool entered = vgpu_map_put(&execs, &exec->node);
    pthread_mutex_unlock(&lock);
    if (!entered) free(exec);
}

void vgpu_graph_copies_leave(CUgraphExec handle) {
    if (!vgpu_copy_limited()) return;
    pthread_mutex_lock(&lock);
    struct vgpu_node *node = vgpu_map_take(&execs, (uint64_t)(uintptr_t)handle);
    pthread_mutex_unlock(&lock);
    free(node); /* the entry begins with it */
}

void vgpu_graph_copies_wait(CUgraphExec handle, CUstream stream, bool per_thread) {
    if (__builtin_expect(!vgpu_copy_limited(), 1)) return;
    struct vgpu_copies copies = {{0}};
    pthread_mutex_lock(&lock);
    const struct vgpu_node *node = vgpu_map_find(&execs, (uint64_t)(uintptr_t)handle);
    if (node) copies = ((const struct exec *)node)->copies;
    pthread_mutex_unlock(&lock);
    if (node) vgpu_copy_wait_in(&copies, stream, per_thread);
}
