/* Stream-ordered memory: a pool costs what it has reserved, not what is handed out of it.
 *
 * Each pool is charged its RESERVED figure as last read from the driver. Before a call the greatest
 * growth it can cause is reserved, if need be from what the pool itself can give back; after it the
 * figure is read again and replaces the guess. Only on a stream that is still at work a request may
 * be let through with less: memory freed there may serve it. What
 * the pool gives back (at a synchronisation, by trimming) is noticed by reading again.
 */
#ifndef VGPU_POOLS_H
#define VGPU_POOLS_H

#include <stdbool.h>
#include <stdint.h>

#include "context.h"
#include "cuda_abi.h"

/* Not zero while freed memory may leave a pool at a synchronisation: one load decides whether
 * vgpu_pools_refresh is worth calling after it. */
extern uint64_t vgpu_pools_frees;
static inline bool vgpu_pools_dirty(void) {
    return __builtin_expect(__atomic_load_n(&vgpu_pools_frees, __ATOMIC_RELAXED) != 0, 0);
}
static inline void vgpu_pools_mark_dirty(void) {
    __atomic_fetch_add(&vgpu_pools_frees, UINT64_C(1), __ATOMIC_RELAXED);
}

/* Reads what each known pool holds now and corrects the charges. Safe during capture. */
void vgpu_pools_refresh(void);

/* An allocation of `bytes` from the pool by alloc(how), which fills *out. place says whose account
 * a pool is charged to that was not seen before. give_back frees what turned out too much. */
struct vgpu_pool_call {
    CUmemoryPool pool;
    uint64_t bytes;
    const char *api;
    CUdeviceptr *out;
    CUstream stream;
    CUresult (*alloc)(const struct vgpu_pool_call *call);
    CUresult (*give_back)(CUdeviceptr address, CUstream stream);
    CUresult (*query)(CUstream stream);
};
CUresult vgpu_pools_alloc(const struct vgpu_place *place, const struct vgpu_pool_call *call);

/* A pool made by the program; place NULL: it lies in host memory and is never charged. */
void vgpu_pools_enter(CUmemoryPool pool, const struct vgpu_place *place);

/* Destroys a pool by end(pool). Its live blocks keep their memory until the last of them is freed;
 * until then the pool's charge stays. */
CUresult vgpu_pools_end(CUmemoryPool pool, CUresult (*end)(CUmemoryPool));

/* Around the free of a pointer that is no plain allocation. before: bytes of a destroyed pool that
 * go with it (one load and 0 when no pool was destroyed with live blocks). */
struct vgpu_orphan {
    CUmemoryPool pool;
    uint64_t bytes;
};
struct vgpu_orphan vgpu_pools_before_free(CUdeviceptr address);
void vgpu_pools_after_free(const struct vgpu_orphan *orphan);

#endif
