#include "graph_memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "blocks.h"
#include "capture.h"
#include "charge.h"
#include "interpose.h"
#include "map.h"

#define DEEPEST 8                        /* graphs within graphs */
#define GROWTH_STEP (UINT64_C(32) << 20) /* a graph takes whole steps (measured on an H200) */

uint32_t vgpu_graph_memory_nodes;

/* What an executable graph allocates. */
struct need {
    uint64_t sum;        /* of all its allocations: never more */
    uint64_t held, peak; /* if it ran in the order of its nodes, which reuses what was freed */
};

struct exec {
    struct vgpu_node node;
    struct need need;
};

/* As pools.c: the reading that was begun last wins. */
struct stock {
    uint64_t charged, begun, applied;
};

static struct vgpu_map execs;
static struct stock stocks[VGPU_MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void vgpu_graph_memory_note(void) {
    if (!vgpu_graph_memory_used()) vgpu_store_relaxed(&vgpu_graph_memory_nodes, 1U);
}

/* --- what a graph needs --- */

static void add_graph(CUgraph graph, struct need *need, int depth);

static uint64_t freed_bytes(CUgraphNode free_node, const CUgraphNode *nodes, size_t count) {
    CUdeviceptr gone;
    CUDA_MEM_ALLOC_NODE_PARAMS alloc;
    CUgraphNodeType type;
    if (CALL(cuGraphMemFreeNodeGetParams)(free_node, &gone) != CUDA_SUCCESS) return 0;
    for (size_t i = 0; i < count; i++)
        if (CALL(cuGraphNodeGetType)(nodes[i], &type) == CUDA_SUCCESS &&
            type == CU_GRAPH_NODE_TYPE_MEM_ALLOC &&
            CALL(cuGraphMemAllocNodeGetParams)(nodes[i], &alloc) == CUDA_SUCCESS &&
            alloc.dptr == gone)
            return vgpu_block_charge(alloc.bytesize);
    return 0;
}

static void add_node(const CUgraphNode *nodes, size_t index, struct need *need, int depth) {
    CUgraphNodeType type;
    CUDA_MEM_ALLOC_NODE_PARAMS alloc;
    CUgraph child;
    if (CALL(cuGraphNodeGetType)(nodes[index], &type) != CUDA_SUCCESS) return;
    if (type == CU_GRAPH_NODE_TYPE_MEM_ALLOC &&
        CALL(cuGraphMemAllocNodeGetParams)(nodes[index], &alloc) == CUDA_SUCCESS) {
        uint64_t bytes = vgpu_block_charge(alloc.bytesize);
        if (__builtin_add_overflow(need->sum, bytes, &need->sum)) need->sum = UINT64_MAX;
        need->held += bytes;
        if (need->held > need->peak) need->peak = need->held;
    } else if (type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
        uint64_t bytes = freed_bytes(nodes[index], nodes, index);
        need->held -= bytes < need->held ? bytes : need->held;
    } else if (type == CU_GRAPH_NODE_TYPE_GRAPH && depth < DEEPEST &&
               CALL(cuGraphChildGraphNodeGetGraph)(nodes[index], &child) == CUDA_SUCCESS) {
        add_graph(child, need, depth + 1);
    }
}

static void add_graph(CUgraph graph, struct need *need, int depth) {
    size_t count = 0;
    if (CALL(cuGraphGetNodes)(graph, NULL, &count) != CUDA_SUCCESS || !count) return;
    CUgraphNode *nodes = calloc(count, sizeof *nodes);
    if (nodes && CALL(cuGraphGetNodes)(graph, nodes, &count) == CUDA_SUCCESS)
        for (size_t i = 0; i < count; i++) add_node(nodes, i, need, depth);
    free(nodes);
}

void vgpu_graph_memory_enter(CUgraphExec handle, CUgraph graph) {
    struct need need = {0};
    if (!vgpu_graph_memory_used() || !vgpu_session_get()) return;
    add_graph(graph, &need, 0);
    struct exec *exec = need.sum ? calloc(1, sizeof *exec) : NULL;
    if (!exec) return;
    *exec = (struct exec){{(uint64_t)(uintptr_t)handle, NULL}, need};
    pthread_mutex_lock(&lock);
    vgpu_map_put(&execs, &exec->node);
    pthread_mutex_unlock(&lock);
}

void vgpu_graph_memory_leave(CUgraphExec handle) {
    if (!vgpu_graph_memory_used()) return;
    pthread_mutex_lock(&lock);
    struct vgpu_node *node = vgpu_map_take(&execs, (uint64_t)(uintptr_t)handle);
    pthread_mutex_unlock(&lock);
    free(node);
}

/* --- what the device has --- */

/* Legal during capture. */
static uint64_t read_attribute(CUdevice ordinal, CUgraphMem_attribute attribute, bool *good) {
    cuuint64_t value = 0;
    if (CALL(cuDeviceGetGraphMemAttribute)(ordinal, attribute, &value) != CUDA_SUCCESS)
        *good = false;
    return value;
}

/* Replaces the stock's charge and the guess by what the driver says now. */
static void settle(const struct vgpu_place *place, uint64_t guess) {
    struct stock *stock = &stocks[place->account.device];
    bool good = true;
    pthread_mutex_lock(&lock);
    uint64_t ticket = ++stock->begun;
    pthread_mutex_unlock(&lock);
    uint64_t reserved =
        read_attribute(place->ordinal, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &good);
    int64_t change = -(int64_t)guess;
    pthread_mutex_lock(&lock);
    if (good && ticket > stock->applied) {
        change += (int64_t)(reserved - stock->charged);
        stock->charged = reserved;
        stock->applied = ticket;
    }
    if (change) vgpu_ledger_adjust(&place->account, change);
    pthread_mutex_unlock(&lock);
}

static uint64_t whole_steps(uint64_t need) {
    return need > UINT64_MAX - GROWTH_STEP ? need : (need + GROWTH_STEP - 1) & ~(GROWTH_STEP - 1);
}

/* Lets the device have back what no graph uses. */
static void trim(const struct vgpu_place *place) {
    bool is_open = vgpu_capture_is_open();
    CUstreamCaptureMode mode = is_open ? vgpu_capture_relax() : CU_STREAM_CAPTURE_MODE_RELAXED;
    REAL(cuDeviceGraphMemTrim)(place->ordinal);
    if (is_open) vgpu_capture_restore(mode);
    settle(place, 0);
}

CUresult vgpu_graph_memory_ask(struct vgpu_graph_growth *growth, CUgraphExec handle,
                               const char *api) {
    pthread_mutex_lock(&lock);
    const struct exec *exec =
        (const struct exec *)vgpu_map_find(&execs, (uint64_t)(uintptr_t)handle);
    struct need need = exec ? exec->need : (struct need){0};
    pthread_mutex_unlock(&lock);
    if (!need.sum) return CUDA_SUCCESS;
    CUresult rc = vgpu_context_here(&growth->place, api);
    if (rc != CUDA_SUCCESS || !growth->place.session) return rc;
    const struct vgpu_place *place = &growth->place;
    /* The whole of it: what is to spare now, another thread may take or trim before the launch.
     * Near the limit the spare itself makes room. */
    growth->guess = whole_steps(need.sum);
    if (!vgpu_ledger_reserve(&place->account, growth->guess)) {
        trim(place);
        growth->guess = whole_steps(need.peak);
        const struct vgpu_request request = {growth->guess, need.peak, 0, api};
        rc = vgpu_charge(place->session, &place->account, &request);
    }
    growth->counted = rc == CUDA_SUCCESS;
    return rc;
}

void vgpu_graph_memory_tell(const struct vgpu_graph_growth *growth) {
    settle(&growth->place, growth->guess);
}

void vgpu_graph_memory_refresh(CUdevice ordinal) {
    struct vgpu_place place;
    if (!vgpu_graph_memory_used()) return;
    vgpu_context_on_device(&place, ordinal);
    if (place.session) settle(&place, 0);
}

void vgpu_graph_memory_forget(void) {
    pthread_mutex_init(&lock, NULL);
    memset(&execs, 0, sizeof execs);
    memset(stocks, 0, sizeof stocks);
    vgpu_graph_memory_nodes = 0;
}
