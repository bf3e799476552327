#include "graph_nodes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "contexts.h"
#include "interpose.h"
#include "map.h"
#include "overhead.h"
#include "session.h"

/* The tally's word: nodes paid for << 32 | nodes alive. */
#define PAID(word) ((word) >> 32)
#define ALIVE(word) ((word)&UINT32_MAX)
#define WORD(paid, alive) ((paid) << 32 | (alive))

struct exec {
    struct vgpu_node node;
    CUcontext context;
    uint64_t count;
};

static struct vgpu_map execs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void forget_in_child(void) {
    pthread_mutex_init(&lock, NULL);
    memset(&execs, 0, sizeof execs);
}

__attribute__((constructor)) static void register_fork(void) {
    vgpu_session_on_fork(forget_in_child);
}

static uint64_t cost_of(uint64_t nodes) { return vgpu_overhead_blocks(nodes * VGPU_NODE_BYTES); }

/* Moves the word; the bytes by which its cost fell. */
static uint64_t take_back(struct vgpu_tally *tally, uint64_t paid, uint64_t alive) {
    uint64_t word = vgpu_load_relaxed(&tally->graphs), next;
    do {
        uint64_t still = ALIVE(word) > alive ? ALIVE(word) - alive : 0;
        next = WORD(PAID(word) - (paid < PAID(word) ? paid : PAID(word)), still);
    } while (!vgpu_cas_acq_rel(&tally->graphs, &word, next));
    return cost_of(PAID(word)) - cost_of(PAID(next));
}

CUresult vgpu_graph_nodes_begin(struct vgpu_graph_nodes *nodes, CUgraph graph, const char *api) {
    size_t count = 0;
    nodes->count = 0;
    CUresult rc = vgpu_context_here(&nodes->place, api);
    const struct vgpu_place *place = &nodes->place;
    struct vgpu_tally *tally = rc || !place->session ? NULL : vgpu_contexts_tally(place->context);
    if (!tally || CALL(cuGraphGetNodes)(graph, NULL, &count) != CUDA_SUCCESS) return rc;
    uint64_t word = vgpu_load_relaxed(&tally->graphs), next, bytes;
    for (;;) {
        uint64_t alive = ALIVE(word) + count;
        next = WORD(alive > PAID(word) ? alive : PAID(word), alive);
        bytes = cost_of(PAID(next)) - cost_of(PAID(word));
        if (bytes && (rc = vgpu_overhead_grow(place, bytes, api))) return rc;
        if (vgpu_cas_acq_rel(&tally->graphs, &word, next)) break;
        if (bytes) vgpu_overhead_shrink(place, bytes);
    }
    nodes->count = count;
    nodes->paid = PAID(next) - PAID(word);
    return CUDA_SUCCESS;
}

void vgpu_graph_nodes_end(const struct vgpu_graph_nodes *nodes, CUgraphExec handle) {
    struct vgpu_tally *tally = nodes->count ? vgpu_contexts_tally(nodes->place.context) : NULL;
    if (!tally) return;
    struct exec *exec = handle ? calloc(1, sizeof *exec) : NULL;
    if (!handle) {
        uint64_t bytes = take_back(tally, nodes->paid, nodes->count);
        if (bytes) vgpu_overhead_shrink(&nodes->place, bytes);
    } else if (exec) {
        exec->node.key = (uint64_t)(uintptr_t)handle;
        exec->context = nodes->place.context;
        exec->count = nodes->count;
        pthread_mutex_lock(&lock);
        bool kept = vgpu_map_put(&execs, &exec->node);
        pthread_mutex_unlock(&lock);
        if (!kept) free(exec); /* its nodes count as alive until the context ends */
    }
}

CUresult vgpu_graph_nodes_leave(CUgraphExec handle, CUresult (*end)(CUgraphExec)) {
    pthread_mutex_lock(&lock); /* before the handle can come back as another's */
    struct exec *exec = (struct exec *)vgpu_map_take(&execs, (uint64_t)(uintptr_t)handle);
    pthread_mutex_unlock(&lock);
    CUresult rc = end(handle);
    struct vgpu_tally *tally =
        exec && rc == CUDA_SUCCESS ? vgpu_contexts_tally(exec->context) : NULL;
    if (tally) take_back(tally, 0, exec->count);
    free(exec);
    return rc;
}
