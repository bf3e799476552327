/* Spatial mode: the order that the legacy stream and the blocking streams of a context keep. In a
 * green context every stream is a non-blocking one, whatever it was asked to be: neither kernels
 * nor graphs nor copies wait for each other across them (H200, driver 580: 20 of 20). Programs rely
 * on it: a kernel in a stream of their own, then cudaMemcpy. So events keep it here. Whatever goes
 * to the legacy stream waits for the blocking streams that have had work since the last time;
 * whatever goes to a blocking stream waits for the legacy one, if that has had any.
 *
 * A stream counts as having work once the call that gave it has returned: whoever is told of that
 * finds it counted. No driver call that may wait for the GPU is made under the lock here. */
#ifndef VGPU_STREAM_ORDER_H
#define VGPU_STREAM_ORDER_H

#include <stdbool.h>

#include "atomics.h"
#include "cuda_abi.h"

/* What a call does with its stream. */
enum vgpu_order_kind { VGPU_ORDER_ASK, VGPU_ORDER_WAIT, VGPU_ORDER_WORK };

/* One call: to whom it gives work. Neither: it has no place in the order. */
struct vgpu_order {
    CUstream blocking;
    CUcontext legacy; /* its legacy stream */
};

/* Blocking streams in partitions, also ended ones whose work the legacy stream does not know of. */
extern uint32_t vgpu_blocking_streams;

/* After the program has made a stream, with these flags. */
void vgpu_order_enter(CUstream stream, unsigned int flags);

/* Before it is destroyed: its work goes on. */
void vgpu_order_leave(CUstream stream);

/* True for a stream that the program made as a blocking one. */
bool vgpu_order_is_blocking(CUstream stream);

void vgpu_order_begin_now(struct vgpu_order *order, CUstream stream, bool legacy,
                          enum vgpu_order_kind kind);
void vgpu_order_end_now(const struct vgpu_order *order);

/* Before the driver gets the call: `stream` as it will get it; legacy: that means the legacy one.
 */
static inline void vgpu_order_begin(struct vgpu_order *order, CUstream stream, bool legacy,
                                    enum vgpu_order_kind kind) {
    *order = (struct vgpu_order){NULL, NULL};
    if (__builtin_expect(vgpu_load_relaxed(&vgpu_blocking_streams), 0) && kind != VGPU_ORDER_ASK)
        vgpu_order_begin_now(order, stream, legacy, kind);
}

/* And after. */
static inline void vgpu_order_end(const struct vgpu_order *order) {
    if (order->blocking || order->legacy) vgpu_order_end_now(order);
}

/* The driver's answer to a call that goes to the legacy stream without naming it. One that it
 * refuses has given no work. */
#define VGPU_ON_LEGACY(call)                                                                       \
    (__extension__({                                                                               \
        struct vgpu_order order_;                                                                  \
        vgpu_order_begin(&order_, NULL, true, VGPU_ORDER_WORK);                                    \
        CUresult called_ = call;                                                                   \
        if (called_ == CUDA_SUCCESS) vgpu_order_end(&order_);                                      \
        called_;                                                                                   \
    }))

/* A copy between contexts keeps its place also in those that are not current: before it the stream
 * (NULL or CU_STREAM_PER_THREAD) of the current context waits for theirs, after it theirs for that.
 */
void vgpu_order_meet(const CUcontext peers[2], CUstream stream, bool before);

/* Before the context ends. */
void vgpu_order_forget_context(CUcontext context);

/* After fork, in the child. */
void vgpu_order_forget(void);

#endif
