/* The calls that take a stream (streams.def). In a session with a partition the driver's functions
 * are reached through the fronts here, which put the thread's own stream in the place of the
 * per-thread one; those that nothing else hooks are exported here too, and only forward.
 *
 * Arguments are passed on as words: none is a float or a large struct, and on our machines such a
 * call is the same whatever the types. */
#include <string.h>

#include "atomics.h"
#include "interpose.h"
#include "partition.h"
#include "stream_order.h"
#include "thread_stream.h"

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
        rc = ((CUresult(*)(WORDS_##count))vgpu_load_relaxed(&behind[FRONT_##symbol]))(             \
            PASS_##count);                                                                         \
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
    FRONT(cuStreamCopyAttributes)            /**/
    FRONT(cuStreamCopyAttributes_ptsz)       /**/
    FRONT(cuLaunchKernelEx)                  /**/
    FRONT(cuLaunchKernelEx_ptsz)             /**/
    FRONT(cuGraphInstantiateWithParams)      /**/
    FRONT(cuGraphInstantiateWithParams_ptsz) /**/
};

/* A synchronous copy on the per-thread stream (_ptds) names no stream to swap: it goes to the
 * legacy one, which waits for ours. */
static void *find_legacy(const char *symbol) {
    char plain[64];
    size_t length = strlen(symbol);
    if (length < 5 || length >= sizeof plain || strcmp(symbol + length - 5, "_ptds") != 0)
        return NULL;
    memcpy(plain, symbol, length - 5);
    plain[length - 5] = 0;
    return vgpu_driver_symbol(plain);
}

void *vgpu_thread_stream_front(const char *symbol, void *real) {
    if (!real || symbol[0] != 'c' || !vgpu_partition_any()) return real;
    for (unsigned i = 0; i < FRONTS; i++) {
        if (strcmp(fronts[i].symbol, symbol) != 0) continue;
        vgpu_store_relaxed(&behind[i], real);
        return fronts[i].function;
    }
    void *legacy = find_legacy(symbol);
    return legacy ? legacy : real;
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
