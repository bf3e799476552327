/* Launches and the calls by which a program waits for them. */
#include "context.h"
#include "cuda_abi.h"
#include "graph_copies.h"
#include "graph_ends.h"
#include "graph_memory.h"
#include "interpose.h"
#include "local.h"
#include "overhead.h"
#include "pace.h"
#include "pools.h"
#include "stream_order.h"

/* GATED(result, call, stream, per_thread, key, function): the driver's answer to `call`, made when
 * the gate lets it; without a share, one load and one branch. */
#define GATED(result, call, stream, per_thread, key, function)                                     \
    do {                                                                                           \
        if (__builtin_expect(!vgpu_pace_gated(), 1)) {                                             \
            result = call;                                                                         \
            break;                                                                                 \
        }                                                                                          \
        struct vgpu_passage passage;                                                               \
        vgpu_pace_enter(&passage, stream, per_thread, key, function);                              \
        result = call;                                                                             \
        vgpu_pace_leave(&passage);                                                                 \
    } while (0)

/* A kernel: its local memory must fit, then the gate. */
#define LAUNCH(symbol, f, call, stream, per_thread, key)                                           \
    do {                                                                                           \
        CUresult result = vgpu_local_launch(f, #symbol);                                           \
        if (__builtin_expect(result == CUDA_SUCCESS, 1))                                           \
            GATED(result, call, stream, per_thread, key, f);                                       \
        return result;                                                                             \
    } while (0)

#define PRODUCT(x, y, z) ((uint64_t)(x) * (y) * (z))

#define KERNEL(symbol, per_thread)                                                                 \
    VGPU_EXPORT VGPU_HOT CUresult symbol(CUfunction f, unsigned gx, unsigned gy, unsigned gz,      \
                                         unsigned bx, unsigned by, unsigned bz, unsigned shared,   \
                                         CUstream stream, void **params, void **extra) {           \
        LAUNCH(symbol, f, REAL(symbol)(f, gx, gy, gz, bx, by, bz, shared, stream, params, extra),  \
               stream, per_thread, vgpu_book_key(f, PRODUCT(gx, gy, gz), PRODUCT(bx, by, bz)));    \
    }
KERNEL(cuLaunchKernel, false)
KERNEL(cuLaunchKernel_ptsz, true)

#define KERNEL_EX(symbol, per_thread)                                                              \
    VGPU_EXPORT VGPU_HOT CUresult symbol(const CUlaunchConfig *c, CUfunction f, void **params,     \
                                         void **extra) {                                           \
        if (!c) return REAL(symbol)(c, f, params, extra);                                          \
        LAUNCH(symbol, f, REAL(symbol)(c, f, params, extra), c->hStream, per_thread,               \
               vgpu_book_key(f, PRODUCT(c->gridDimX, c->gridDimY, c->gridDimZ),                    \
                             PRODUCT(c->blockDimX, c->blockDimY, c->blockDimZ)));                  \
    }
KERNEL_EX(cuLaunchKernelEx, false)
KERNEL_EX(cuLaunchKernelEx_ptsz, true)

#define COOPERATIVE(symbol, per_thread)                                                            \
    VGPU_EXPORT CUresult symbol(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,  \
                                unsigned by, unsigned bz, unsigned shared, CUstream stream,        \
                                void **params) {                                                   \
        LAUNCH(symbol, f, REAL(symbol)(f, gx, gy, gz, bx, by, bz, shared, stream, params), stream, \
               per_thread, vgpu_book_key(f, PRODUCT(gx, gy, gz), PRODUCT(bx, by, bz)));            \
    }
COOPERATIVE(cuLaunchCooperativeKernel, false)
COOPERATIVE(cuLaunchCooperativeKernel_ptsz, true)

VGPU_EXPORT CUresult cuLaunch(CUfunction f) {
    LAUNCH(cuLaunch, f, VGPU_ON_LEGACY(REAL(cuLaunch)(f)), NULL, false, vgpu_book_key(f, 1, 0));
}

VGPU_EXPORT CUresult cuLaunchGrid(CUfunction f, int width, int height) {
    LAUNCH(cuLaunchGrid, f, VGPU_ON_LEGACY(REAL(cuLaunchGrid)(f, width, height)), NULL, false,
           vgpu_book_key(f, (uint64_t)width * (uint64_t)height, 0));
}

VGPU_EXPORT CUresult cuLaunchGridAsync(CUfunction f, int width, int height, CUstream stream) {
    LAUNCH(cuLaunchGridAsync, f, REAL(cuLaunchGridAsync)(f, width, height, stream), stream, false,
           vgpu_book_key(f, (uint64_t)width * (uint64_t)height, 0));
}

/* A graph is one submission; its duration is learnt like a kernel's. What its allocation nodes take
 * is charged first. */
#define GRAPH(symbol, per_thread)                                                                  \
    VGPU_EXPORT CUresult symbol(CUgraphExec graph, CUstream stream) {                              \
        struct vgpu_graph_growth growth;                                                           \
        vgpu_graph_copies_wait(graph, stream, per_thread);                                         \
        CUresult result = vgpu_graph_memory_begin(&growth, graph, #symbol);                        \
        if (result != CUDA_SUCCESS) return result;                                                 \
        GATED(result, REAL(symbol)(graph, stream), stream, per_thread, vgpu_book_key(graph, 0, 0), \
              NULL);                                                                               \
        vgpu_graph_memory_end(&growth);                                                            \
        if (result == CUDA_SUCCESS) vgpu_graph_ends_note(stream, per_thread);                      \
        return result;                                                                             \
    }
GRAPH(cuGraphLaunch, false)
GRAPH(cuGraphLaunch_ptsz, true)

/* Waiting: a free mark for the gate, and the moment at which pools give memory back. */
#define WAITED(call, stream, per_thread, given)                                                    \
    do {                                                                                           \
        struct vgpu_sync sync;                                                                     \
        vgpu_pace_sync_begin(&sync, stream, per_thread, given);                                    \
        CUresult result = call;                                                                    \
        vgpu_pace_sync_end(&sync, result);                                                         \
        if (vgpu_pools_dirty()) vgpu_pools_refresh();                                              \
        return result;                                                                             \
    } while (0)

VGPU_EXPORT CUresult cuStreamSynchronize(CUstream stream) {
    WAITED(REAL(cuStreamSynchronize)(stream), stream, false, true);
}

VGPU_EXPORT CUresult cuStreamSynchronize_ptsz(CUstream stream) {
    WAITED(REAL(cuStreamSynchronize_ptsz)(stream), stream, true, true);
}

static CUresult with_graphs(CUresult result, CUcontext context) {
    return result == CUDA_SUCCESS ? vgpu_graph_ends_wait(context) : result;
}

VGPU_EXPORT CUresult cuCtxSynchronize(void) {
    WAITED(with_graphs(vgpu_context_synchronize(), NULL), NULL, false, false);
}

/* Another context than the current one is looked after when the next launch comes. */
VGPU_EXPORT CUresult cuCtxSynchronize_v2(CUcontext context) {
    CUcontext current = NULL;
    if (CALL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && (!context || current == context))
        WAITED(with_graphs(REAL(cuCtxSynchronize_v2)(context), context), NULL, false, false);
    CUresult result = with_graphs(REAL(cuCtxSynchronize_v2)(context), context);
    if (vgpu_pools_dirty()) vgpu_pools_refresh();
    return result;
}

VGPU_EXPORT CUresult cuEventSynchronize(CUevent event) {
    struct vgpu_sync sync;
    vgpu_pace_sync_begin(&sync, NULL, false, false);
    CUresult result = REAL(cuEventSynchronize)(event);
    vgpu_pace_look(&sync);
    if (vgpu_pools_dirty()) vgpu_pools_refresh();
    return result;
}

VGPU_EXPORT CUresult cuStreamDestroy(CUstream stream) {
    vgpu_pace_forget_stream(stream);
    vgpu_order_leave(stream);
    return vgpu_overhead_stream_end(stream, REAL(cuStreamDestroy));
}

VGPU_EXPORT CUresult cuStreamDestroy_v2(CUstream stream) {
    vgpu_pace_forget_stream(stream);
    vgpu_order_leave(stream);
    return vgpu_overhead_stream_end(stream, REAL(cuStreamDestroy_v2));
}

/* --- one kernel on several devices at once ---------------------------------------------------- */

/* The kernel's part on one device: in the stream's own context its local memory must fit, then the
 * gate. */
static CUresult part_enter(struct vgpu_passage *passage, const CUDA_LAUNCH_PARAMS *part) {
    CUcontext context, popped;
    passage->pace = NULL;
    if (CALL(cuStreamGetCtx)(part->hStream, &context) != CUDA_SUCCESS ||
        REAL(cuCtxPushCurrent_v2)(context) != CUDA_SUCCESS)
        return CUDA_SUCCESS; /* the driver will say what is wrong */
    CUresult result = vgpu_local_launch(part->function, "cuLaunchCooperativeKernelMultiDevice");
    if (result == CUDA_SUCCESS && vgpu_pace_gated()) {
        uint64_t blocks = PRODUCT(part->gridDimX, part->gridDimY, part->gridDimZ);
        uint64_t threads = PRODUCT(part->blockDimX, part->blockDimY, part->blockDimZ);
        vgpu_pace_enter(passage, part->hStream, false,
                        vgpu_book_key(part->function, blocks, threads), part->function);
    }
    CALL(cuCtxPopCurrent_v2)(&popped);
    return result;
}

/* Every part waits for its own device's gate, and pays there. The driver itself refuses the special
 * streams here, more devices than there are, and one of them twice. */
VGPU_EXPORT CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *list, unsigned count,
                                                          unsigned flags) {
    struct vgpu_passage passages[VGPU_MAX_DEVICES];
    struct vgpu_order orders[VGPU_MAX_DEVICES];
    CUresult result = CUDA_SUCCESS;
    unsigned entered = 0, most = list && count <= VGPU_MAX_DEVICES ? count : 0;
    while (result == CUDA_SUCCESS && entered < most && (uintptr_t)list[entered].hStream > 2) {
        result = part_enter(&passages[entered], &list[entered]);
        vgpu_order_begin(&orders[entered], list[entered].hStream, false, VGPU_ORDER_WORK);
        entered++;
    }
    if (result == CUDA_SUCCESS)
        result = REAL(cuLaunchCooperativeKernelMultiDevice)(list, count, flags);
    while (entered) {
        vgpu_order_end(&orders[--entered]);
        vgpu_pace_leave(&passages[entered]);
    }
    return result;
}
