/* Spatial mode: the per-thread default stream. The driver has none in a green context (400), so
 * each thread gets a stream of ours for each context with a partition: a blocking one, which waits
 * for the legacy stream and is waited for as the per-thread stream is.
 *
 * It takes the special stream's place below all wrappers: where the shim asks for the driver's own
 * function it gets one that swaps first (hook_stream.c). Without a partition it gets the driver's.
 */
#ifndef VGPU_THREAD_STREAM_H
#define VGPU_THREAD_STREAM_H

#include <stdbool.h>

#include "cuda_abi.h"

/* per_thread: NULL means the per-thread stream too, as in the _ptsz calls. */
static inline bool vgpu_thread_stream_is(CUstream stream, bool per_thread) {
    return stream == CU_STREAM_PER_THREAD || (!stream && per_thread);
}

/* Puts the calling thread's own stream into *stream, made if there is none; leaves it where the
 * current context has no partition. CUDA_ERROR_OUT_OF_MEMORY if the stream does not fit. */
CUresult vgpu_thread_stream_swap(CUstream *stream);

/* What is to be called for the driver's function `real` of this name: itself, or in a session with
 * a partition one that swaps the stream. */
void *vgpu_thread_stream_front(const char *symbol, void *real);

#endif
