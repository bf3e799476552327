/* The calls that take a stream (streams.def), and the copies and fills that go to a default stream
 * without naming it (syncs.def). In a session with a partition the driver's functions are reached
 * through the fronts here, which put the thread's own stream in the place of the per-thread one;
 * those that nothing else hooks are exported here too, and only forward.
 *
 * Arguments are passed on as words: none is a float or a large struct, and on our machines such a
 * call is the same whatever the types. */
#include <string.h>

#include "atomics.h"
#include "capture.h"
#include "interpose.h"
#include "partition.h"
#include "stream_order.h"
#include "thread_stream.h"

/* In most calls of syncs.def the current context is the only one. */
#define SYNC(symbol, count, ...) SYNC_PEERS(symbol, count, 0, 0, __VA_ARGS__)

#define WORDS_1 uint64_t a1
#define WORDS_2 WORDS_1, uint64_t a2
#define WORDS_3 WORDS_2, uint64_t a3
#define WORDS_4 WORDS_3, uint64_t a4
#define WORDS_5 WORDS_4, uint64_t a5
#define WORDS_6 WORDS_5, uint64_t a6
#define WORDS_7 WORDS_6, uint64_t a7
#define WORDS_8 WORDS_7, uint64_t a8
#define WORDS_9 WORDS_8, uint64_t a9
#define WORDS_10 WORDS_9, uint64_t a10
#define WORDS_11 WORDS_10, uint64_t a11
#define PASS_1 a1
#define PASS_2 PASS_1, a2
#define PASS_3 PASS_2, a3
#define PASS_4 PASS_3, a4
#define PASS_5 PASS_4, a5
#define PASS_6 PASS_5, a6
#define PASS_7 PASS_6, a7
#define PASS_8 PASS_7, a8
#define PASS_9 PASS_8, a9
#define PASS_10 PASS_9, a10
#define PASS_11 PASS_10, a11

/* --- the fronts --- */

enum front {
#define STREAM(symbol, count, at, per_thread, kind) FRONT_##symbol,
#define STREAM_ALONE STREAM
#include "streams.def"
#undef STREAM
#define SYNC_PEERS(symbol, ...) FRONT_##symbol, FRONT_##symbol##_ptds,
#include "syncs.def"
#undef SYNC_PEERS
    FRONT_cuStreamCopyAttributes,
    FRONT_cuStreamCopyAttributes_ptsz,
    FRONT_cuLaunchKernelEx,
    FRONT_cuLaunchKernelEx_ptsz,
    FRONT_cuGraphInstantiateWithParams,
    FRONT_cuGraphInstantiateWithParams_ptsz,
    FRONTS
};
static void *behind[FRONTS]; /* the driver's functions */

#define BEHIND(symbol) ((typeof(&symbol))vgpu_load_relaxed(&behind[FRONT_##symbol]))
#define PASS_ON(count, function) ((CUresult(*)(WORDS_##count))(function))(PASS_##count)

static bool is_legacy(CUstream stream, bool per_thread) {
    return stream == CU_STREAM_LEGACY || (!stream && !per_thread);
}

/* The call's stream as the driver is to get it. */
static CUresult swap(CUstream *stream, bool per_thread) {
    return __builtin_expect(vgpu_thread_stream_is(*stream, per_thread), 0)
               ? vgpu_thread_stream_swap(stream)
               : CUDA_SUCCESS;
}

/* The same, and its place in the order of the streams. */
static CUresult enter(CUstream *stream, bool per_thread, enum vgpu_order_kind kind,
                      struct vgpu_order *order) {
    CUresult rc = swap(stream, per_thread);
    if (rc == CUDA_SUCCESS) vgpu_order_begin(order, *stream, is_legacy(*stream, per_thread), kind);
    return rc;
}

#define STREAM(symbol, count, at, per_thread, kind)                                                \
    static CUresult front_##symbol(WORDS_##count) {                                                \
        CUstream stream = (CUstream)(uintptr_t)a##at;                                              \
        struct vgpu_order order;                                                                   \
        CUresult rc = enter(&stream, per_thread, VGPU_ORDER_##kind, &order);                       \
        if (rc != CUDA_SUCCESS) return rc;                                                         \
        a##at = (uintptr_t)stream;                                                                 \
        rc = PASS_ON(count, vgpu_load_relaxed(&behind[FRONT_##symbol]));                           \
        vgpu_order_end(&order);                                                                    \
        return rc;                                                                                 \
    }
#include "streams.def"
#undef STREAM
#undef STREAM_ALONE

#define COPY_ATTRIBUTES(symbol, per_thread)                                                        \
    static CUresult front_##symbol(CUstream to, CUstream from) {                                   \
        CUresult rc = swap(&to, per_thread);                                                       \
        if (rc == CUDA_SUCCESS) rc = swap(&from, per_thread);                                      \
        return rc ? rc : BEHIND(symbol)(to, from);                                                 \
    }
COPY_ATTRIBUTES(cuStreamCopyAttributes, false)
COPY_ATTRIBUTES(cuStreamCopyAttributes_ptsz, true)

#define LAUNCH_EX(symbol, per_thread)                                                              \
    static CUresult front_##symbol(const CUlaunchConfig *config, CUfunction f, void **params,      \
                                   void **extra) {                                                 \
        if (!config) return BEHIND(symbol)(config, f, params, extra);                              \
        CUlaunchConfig own = *config;                                                              \
        struct vgpu_order order;                                                                   \
        CUresult rc = enter(&own.hStream, per_thread, VGPU_ORDER_WORK, &order);                    \
        if (rc != CUDA_SUCCESS) return rc;                                                         \
        rc = BEHIND(symbol)(&own, f, params, extra);                                               \
        vgpu_order_end(&order);                                                                    \
        return rc;                                                                                 \
    }
LAUNCH_EX(cuLaunchKernelEx, false)
LAUNCH_EX(cuLaunchKernelEx_ptsz, true)

/* The driver answers in the parameters, so they stay the caller's. */
#define INSTANTIATE(symbol, per_thread)                                                            \
    static CUresult front_##symbol(CUgraphExec *exec, CUgraph graph,                               \
                                   CUDA_GRAPH_INSTANTIATE_PARAMS *params) {                        \
        if (!params || !vgpu_thread_stream_is(params->hUploadStream, per_thread))                  \
            return BEHIND(symbol)(exec, graph, params);                                            \
        CUstream said = params->hUploadStream;                                                     \
        CUresult rc = vgpu_thread_stream_swap(&params->hUploadStream);                             \
        if (rc == CUDA_SUCCESS) rc = BEHIND(symbol)(exec, graph, params);                          \
        params->hUploadStream = said;                                                              \
        return rc;                                                                                 \
    }
INSTANTIATE(cuGraphInstantiateWithParams, false)
INSTANTIATE(cuGraphInstantiateWithParams_ptsz, true)

/* A copy or a fill on the per-thread stream (_ptds): its twin in the thread's own stream, which
 * waits for no other thread's. */
static CUresult find_own(CUstream *own) {
    *own = CU_STREAM_PER_THREAD;
    CUresult rc = vgpu_thread_stream_swap(own);
    /* While it captures that is an error, and the capture's end; the twin would be captured. */
    if (rc == CUDA_SUCCESS && *own != CU_STREAM_PER_THREAD && vgpu_capture_holds(*own, false))
        rc = REAL(cuStreamSynchronize)(*own);
    return rc;
}

/* Unlike a copy, a wait would end the captures of other streams. */
static CUresult wait_for(CUstream own) {
    CUstreamCaptureMode mode = vgpu_capture_relax();
    CUresult rc = REAL(cuStreamSynchronize)(own);
    vgpu_capture_restore(mode);
    return rc;
}

/* Whether the host may look at (or write) it as soon as the call has returned. */
static bool host_sees(CUmemorytype type, CUdeviceptr address) {
    unsigned int found = CU_MEMORYTYPE_HOST, managed = 0;
    if (type == CU_MEMORYTYPE_HOST || type == CU_MEMORYTYPE_ARRAY)
        return type == CU_MEMORYTYPE_HOST;
    CALL(cuPointerGetAttribute)(&found, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address);
    CALL(cuPointerGetAttribute)(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, address);
    return found == CU_MEMORYTYPE_HOST || managed;
}

#define SEEN(address) host_sees(CU_MEMORYTYPE_UNIFIED, address)
#define SHAPE_SEEN(type)                                                                           \
    (host_sees(((const type *)a1)->dstMemoryType, ((const type *)a1)->dstDevice) ||                \
     host_sees(((const type *)a1)->srcMemoryType, ((const type *)a1)->srcDevice))

#define IN_OWN(twin, count)                                                                        \
    ((CUresult(*)(WORDS_##count, CUstream))vgpu_real(VGPU_HOOK_##twin))(PASS_##count, own)

/* A part of a one-dimensional array has twins only for the host's memory. */
#define ROW(from, to, bytes)                                                                       \
    REAL(cuMemcpy2DAsync_v2)(&(CUDA_MEMCPY2D){from, to, .WidthInBytes = bytes, .Height = 1}, own)
#define FROM_DEVICE(address, pitch)                                                                \
    .srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = address, .srcPitch = pitch
#define TO_DEVICE(address, pitch)                                                                  \
    .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = address, .dstPitch = pitch
#define FROM_ARRAY(array, at)                                                                      \
    .srcMemoryType = CU_MEMORYTYPE_ARRAY, .srcArray = (CUarray)array, .srcXInBytes = at
#define TO_ARRAY(array, at)                                                                        \
    .dstMemoryType = CU_MEMORYTYPE_ARRAY, .dstArray = (CUarray)array, .dstXInBytes = at

/* A copy between contexts, with its place in the order of each. */
#define BETWEEN(to, from, stream, call)                                                            \
    (__extension__({                                                                               \
        const CUcontext peers_[2] = {(CUcontext)(to), (CUcontext)(from)};                          \
        if (peers_[0] || peers_[1]) vgpu_order_meet(peers_, stream, true);                         \
        CUresult copied_ = call;                                                                   \
        if (copied_ == CUDA_SUCCESS && (peers_[0] || peers_[1]))                                   \
            vgpu_order_meet(peers_, stream, false);                                                \
        copied_;                                                                                   \
    }))
#define SHAPE(context) (a1 ? ((const CUDA_MEMCPY3D_PEER *)a1)->context : NULL)

/* What a twin does not take goes to the legacy stream: there the driver does it, or says what is
 * wrong. */
#define SYNC_PEERS(symbol, count, to, from, twin, host)                                            \
    static CUresult front_##symbol(WORDS_##count) {                                                \
        return VGPU_ON_LEGACY(                                                                     \
            BETWEEN(to, from, NULL, PASS_ON(count, vgpu_load_relaxed(&behind[FRONT_##symbol]))));  \
    }                                                                                              \
    static CUresult own_##symbol(WORDS_##count, CUstream own) {                                    \
        if (own == CU_STREAM_PER_THREAD)                                                           \
            return PASS_ON(count, vgpu_load_relaxed(&behind[FRONT_##symbol##_ptds]));              \
        CUresult rc = twin;                                                                        \
        if (rc == CUDA_ERROR_INVALID_VALUE) return PASS_ON(count, vgpu_real(VGPU_HOOK_##symbol));  \
        return rc == CUDA_SUCCESS && (host) ? wait_for(own) : rc;                                  \
    }                                                                                              \
    static CUresult front_##symbol##_ptds(WORDS_##count) {                                         \
        CUstream own;                                                                              \
        CUresult rc = find_own(&own);                                                              \
        return rc ? rc : BETWEEN(to, from, CU_STREAM_PER_THREAD, own_##symbol(PASS_##count, own)); \
    }
#include "syncs.def"
#undef SYNC_PEERS

static const struct {
    const char *symbol;
    void *function;
} fronts[FRONTS] = {
#define FRONT(symbol) [FRONT_##symbol] = {#symbol, (void *)front_##symbol},
#define STREAM(symbol, count, at, per_thread, kind) FRONT(symbol)
#define STREAM_ALONE STREAM
#include "streams.def"
#undef STREAM
#undef STREAM_ALONE
#define SYNC_PEERS(symbol, ...) FRONT(symbol) FRONT(symbol##_ptds)
#include "syncs.def"
#undef SYNC_PEERS
    FRONT(cuStreamCopyAttributes)            /**/
    FRONT(cuStreamCopyAttributes_ptsz)       /**/
    FRONT(cuLaunchKernelEx)                  /**/
    FRONT(cuLaunchKernelEx_ptsz)             /**/
    FRONT(cuGraphInstantiateWithParams)      /**/
    FRONT(cuGraphInstantiateWithParams_ptsz) /**/
};

void *vgpu_thread_stream_front(const char *symbol, void *real) {
    if (!real || symbol[0] != 'c' || !vgpu_partition_any()) return real;
    for (unsigned i = 0; i < FRONTS; i++) {
        if (strcmp(fronts[i].symbol, symbol) != 0) continue;
        vgpu_store_relaxed(&behind[i], real);
        return fronts[i].function;
    }
    return real;
}

/* --- exported --- */

#define STREAM(symbol, count, at, per_thread, kind)
#define STREAM_ALONE(symbol, count, at, per_thread, kind)                                          \
    VGPU_EXPORT CUresult forward_##symbol(WORDS_##count) __asm__(#symbol);                         \
    CUresult forward_##symbol(WORDS_##count) {                                                     \
        return ((CUresult(*)(WORDS_##count))vgpu_real(VGPU_HOOK_##symbol))(PASS_##count);          \
    }
#include "streams.def"

VGPU_EXPORT CUresult cuStreamCopyAttributes(CUstream to, CUstream from) {
    return REAL(cuStreamCopyAttributes)(to, from);
}

VGPU_EXPORT CUresult cuStreamCopyAttributes_ptsz(CUstream to, CUstream from) {
    return REAL(cuStreamCopyAttributes_ptsz)(to, from);
}

/* A blocking stream is one for the program, though the driver knows better. */
#define GET_FLAGS(symbol, per_thread)                                                              \
    VGPU_EXPORT CUresult symbol(CUstream stream, unsigned int *flags) {                            \
        CUresult rc = vgpu_partition_any() ? swap(&stream, per_thread) : CUDA_SUCCESS;             \
        if (rc == CUDA_SUCCESS) rc = REAL(symbol)(stream, flags);                                  \
        if (rc == CUDA_SUCCESS && vgpu_order_is_blocking(stream))                                  \
            *flags &= ~(unsigned int)CU_STREAM_NON_BLOCKING;                                       \
        return rc;                                                                                 \
    }
GET_FLAGS(cuStreamGetFlags, false)
GET_FLAGS(cuStreamGetFlags_ptsz, true)
