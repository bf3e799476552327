/* Between the copy and fill entry points and what they have in common. */
#ifndef VGPU_CUDA_COPY_CALLS_H
#define VGPU_CUDA_COPY_CALLS_H

#include "cuda_sim.h"

/* OWN: stream 0 means the thread's own default stream (the _ptds and _ptsz symbols). */
enum copy_mode { COPY_ASYNC = 0, COPY_SYNC = 1, COPY_OWN = 2 };

LOCAL CUresult copy_submit(const CUDA_MEMCPY3D *copy, CUstream stream, enum copy_mode mode);
LOCAL CUresult copy_linear(CUmemorytype to, uintptr_t dst, CUmemorytype from, uintptr_t src,
                           size_t bytes, CUstream stream, enum copy_mode mode);
LOCAL CUresult set_submit(const CUDA_MEMSET_NODE_PARAMS *set, CUstream stream, enum copy_mode mode);

#endif
