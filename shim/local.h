/* Local memory and stacks: each context has one pool of them, for every thread that the card can
 * hold at once: bytes a thread × threads an SM × SMs (measured: exact). The default stack's share
 * is part of the context. The pool grows at once with the stack limit, and at the first launch of a
 * kernel that needs more than it has; what a kernel made it stays. */
#ifndef VGPU_LOCAL_H
#define VGPU_LOCAL_H

#include <stdbool.h>
#include <stdint.h>

#include "cuda_abi.h"

/* cuCtxSetLimit, with what it makes the pool take charged beforehand. */
CUresult vgpu_local_set_limit(CUlimit limit, size_t value);

/* A function is what cuLibraryGetKernel gave out: to be asked as a kernel. */
void vgpu_local_note_kernel(CUkernel kernel);
bool vgpu_local_is_kernel(const void *function);

/* Functions seen that need no more than every context has, by the hash of their handle; one whose
 * place is taken sits in one of the seven beside it. */
#define VGPU_LOCAL_SEEN 4096U
#define VGPU_LOCAL_NEAR 8U
extern const void *vgpu_local_seen[VGPU_LOCAL_SEEN];

CUresult vgpu_local_first_launch(CUfunction function, const char *api);

/* To be called before each launch: charges what the kernel's local memory makes the pool grow, or
 * refuses with CUDA_ERROR_OUT_OF_MEMORY. One load and one comparison for a kernel seen before. */
static inline uint64_t vgpu_local_place(const void *function) {
    return ((uint64_t)(uintptr_t)function * UINT64_C(0x9e3779b97f4a7c15)) >> 52;
}
static inline CUresult vgpu_local_launch(CUfunction function, const char *api) {
    if (__builtin_expect(__atomic_load_n(&vgpu_local_seen[vgpu_local_place(function)],
                                         __ATOMIC_RELAXED) == (const void *)function,
                         1))
        return CUDA_SUCCESS;
    return vgpu_local_first_launch(function, api);
}

/* Function handles may be used again after an unload. */
void vgpu_local_forget_functions(void);

void vgpu_local_forget(void);

#endif
