/* Copies, fills and prefetches: under --copy-bw they wait for their bucket (copy.h), else they cost
 * one line of memory and one branch. */
#include "copy.h"
#include "interpose.h"
#include "pace.h"

/* COPY(symbol, parameters, arguments, charge): `charge` adds to `copies` and waits. */
#define COPY(symbol, parameters, arguments, charge)                                                \
    VGPU_EXPORT CUresult symbol parameters {                                                       \
        if (__builtin_expect(vgpu_copy_limited(), 0)) {                                            \
            struct vgpu_copies copies = {{0}};                                                     \
            charge;                                                                                \
        }                                                                                          \
        return REAL(symbol) arguments;                                                             \
    }

/* On a default stream, without naming it; the program waits for it. */
#define COPY_NOW(symbol, parameters, arguments, add)                                               \
    VGPU_EXPORT CUresult symbol parameters {                                                       \
        if (__builtin_expect(vgpu_copy_limited(), 0)) {                                            \
            struct vgpu_copies copies = {{0}};                                                     \
            add;                                                                                   \
            vgpu_copy_wait(&copies);                                                               \
        }                                                                                          \
        struct vgpu_sync sync;                                                                     \
        vgpu_pace_sync_begin(&sync, NULL, false, false);                                           \
        CUresult result = REAL(symbol) arguments;                                                  \
        vgpu_pace_look(&sync);                                                                     \
        return result;                                                                             \
    }

#define IN(per_thread) vgpu_copy_wait_in(&copies, stream, per_thread)

/* Each family is there for the legacy and for the per-thread default stream. */
#define BOTH_SYNC(FAMILY, symbol, ...)                                                             \
    FAMILY(symbol, __VA_ARGS__)                                                                    \
    FAMILY(symbol##_ptds, __VA_ARGS__)
#define BOTH_ASYNC(FAMILY, symbol, ...)                                                            \
    FAMILY(symbol, false, __VA_ARGS__)                                                             \
    FAMILY(symbol##_ptsz, true, __VA_ARGS__)

/* --- one stretch, and a part of an array --- */

#define END(type, address) ((struct vgpu_copy_end){type, (CUdeviceptr)(address)})
#define ADD_ONE                                                                                    \
    vgpu_copy_add(&copies, END(CU_MEMORYTYPE_UNIFIED, dst), END(CU_MEMORYTYPE_UNIFIED, src), bytes)
#define ADD(direction) copies.bytes[direction] += bytes

#define LINEAR(symbol, add, to, from)                                                              \
    COPY_NOW(symbol, (to dst, from src, size_t bytes), (dst, src, bytes), add)
#define LINEAR_ASYNC(symbol, per_thread, add, to, from)                                            \
    COPY(symbol, (to dst, from src, size_t bytes, CUstream stream), (dst, src, bytes, stream),     \
         (add, IN(per_thread)))
BOTH_SYNC(LINEAR, cuMemcpy, ADD_ONE, CUdeviceptr, CUdeviceptr)
BOTH_SYNC(LINEAR, cuMemcpyHtoD_v2, ADD(VGPU_COPY_H2D), CUdeviceptr, const void *)
BOTH_SYNC(LINEAR, cuMemcpyDtoH_v2, ADD(VGPU_COPY_D2H), void *, CUdeviceptr)
BOTH_SYNC(LINEAR, cuMemcpyDtoD_v2, ADD(VGPU_COPY_D2D), CUdeviceptr, CUdeviceptr)
BOTH_ASYNC(LINEAR_ASYNC, cuMemcpyAsync, ADD_ONE, CUdeviceptr, CUdeviceptr)
BOTH_ASYNC(LINEAR_ASYNC, cuMemcpyHtoDAsync_v2, ADD(VGPU_COPY_H2D), CUdeviceptr, const void *)
BOTH_ASYNC(LINEAR_ASYNC, cuMemcpyDtoHAsync_v2, ADD(VGPU_COPY_D2H), void *, CUdeviceptr)
BOTH_ASYNC(LINEAR_ASYNC, cuMemcpyDtoDAsync_v2, ADD(VGPU_COPY_D2D), CUdeviceptr, CUdeviceptr)

#define WITH_ATTRIBUTES(symbol, per_thread, add)                                                   \
    COPY(symbol,                                                                                   \
         (CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUmemcpyAttributes * attributes,         \
          CUstream stream),                                                                        \
         (dst, src, bytes, attributes, stream), (add, IN(per_thread)))
BOTH_ASYNC(WITH_ATTRIBUTES, cuMemcpyWithAttributesAsync, ADD_ONE)

#define PEER(symbol, add)                                                                          \
    COPY_NOW(symbol,                                                                               \
             (CUdeviceptr dst, CUcontext to, CUdeviceptr src, CUcontext from, size_t bytes),       \
             (dst, to, src, from, bytes), add)
#define PEER_ASYNC(symbol, per_thread, add)                                                        \
    COPY(symbol,                                                                                   \
         (CUdeviceptr dst, CUcontext to, CUdeviceptr src, CUcontext from, size_t bytes,            \
          CUstream stream),                                                                        \
         (dst, to, src, from, bytes, stream), (add, IN(per_thread)))
BOTH_SYNC(PEER, cuMemcpyPeer, ADD(VGPU_COPY_D2D))
BOTH_ASYNC(PEER_ASYNC, cuMemcpyPeerAsync, ADD(VGPU_COPY_D2D))

#define TO_ARRAY(symbol, add, from)                                                                \
    COPY_NOW(symbol, (CUarray to, size_t at, from src, size_t bytes), (to, at, src, bytes), add)
#define FROM_ARRAY(symbol, add, to)                                                                \
    COPY_NOW(symbol, (to dst, CUarray from, size_t at, size_t bytes), (dst, from, at, bytes), add)
#define BETWEEN_ARRAYS(symbol, add)                                                                \
    COPY_NOW(symbol, (CUarray to, size_t to_at, CUarray from, size_t from_at, size_t bytes),       \
             (to, to_at, from, from_at, bytes), add)
BOTH_SYNC(TO_ARRAY, cuMemcpyDtoA_v2, ADD(VGPU_COPY_D2D), CUdeviceptr)
BOTH_SYNC(TO_ARRAY, cuMemcpyHtoA_v2, ADD(VGPU_COPY_H2D), const void *)
BOTH_SYNC(FROM_ARRAY, cuMemcpyAtoD_v2, ADD(VGPU_COPY_D2D), CUdeviceptr)
BOTH_SYNC(FROM_ARRAY, cuMemcpyAtoH_v2, ADD(VGPU_COPY_D2H), void *)
BOTH_SYNC(BETWEEN_ARRAYS, cuMemcpyAtoA_v2, ADD(VGPU_COPY_D2D))

#define TO_ARRAY_ASYNC(symbol, per_thread, add)                                                    \
    COPY(symbol, (CUarray to, size_t at, const void *src, size_t bytes, CUstream stream),          \
         (to, at, src, bytes, stream), (add, IN(per_thread)))
#define FROM_ARRAY_ASYNC(symbol, per_thread, add)                                                  \
    COPY(symbol, (void *dst, CUarray from, size_t at, size_t bytes, CUstream stream),              \
         (dst, from, at, bytes, stream), (add, IN(per_thread)))
BOTH_ASYNC(TO_ARRAY_ASYNC, cuMemcpyHtoAAsync_v2, ADD(VGPU_COPY_H2D))
BOTH_ASYNC(FROM_ARRAY_ASYNC, cuMemcpyAtoHAsync_v2, ADD(VGPU_COPY_D2H))

/* --- two and three dimensions --- */

#define AREA(c) ((uint64_t)(c)->WidthInBytes * (c)->Height)
#define VOLUME(c) (AREA(c) * (c)->Depth)
#define ADD_SHAPE(c, size)                                                                         \
    ((c) ? vgpu_copy_add(&copies, END((c)->dstMemoryType, (c)->dstDevice),                         \
                         END((c)->srcMemoryType, (c)->srcDevice), size(c))                         \
         : (void)0)

#define SHAPE(symbol, type, size)                                                                  \
    COPY_NOW(symbol, (const type *shape), (shape), ADD_SHAPE(shape, size))
#define SHAPE_ASYNC(symbol, per_thread, type, size)                                                \
    COPY(symbol, (const type *shape, CUstream stream), (shape, stream),                            \
         (ADD_SHAPE(shape, size), IN(per_thread)))
BOTH_SYNC(SHAPE, cuMemcpy2D_v2, CUDA_MEMCPY2D, AREA)
BOTH_SYNC(SHAPE, cuMemcpy2DUnaligned_v2, CUDA_MEMCPY2D, AREA)
BOTH_SYNC(SHAPE, cuMemcpy3D_v2, CUDA_MEMCPY3D, VOLUME)
BOTH_SYNC(SHAPE, cuMemcpy3DPeer, CUDA_MEMCPY3D_PEER, VOLUME)
BOTH_ASYNC(SHAPE_ASYNC, cuMemcpy2DAsync_v2, CUDA_MEMCPY2D, AREA)
BOTH_ASYNC(SHAPE_ASYNC, cuMemcpy3DAsync_v2, CUDA_MEMCPY3D, VOLUME)
BOTH_ASYNC(SHAPE_ASYNC, cuMemcpy3DPeerAsync, CUDA_MEMCPY3D_PEER, VOLUME)

#define BOX_ASYNC(symbol, per_thread, add)                                                         \
    COPY(symbol, (CUDA_MEMCPY3D_BATCH_OP * boxes, unsigned long long flags, CUstream stream),      \
         (boxes, flags, stream), (add, IN(per_thread)))
BOTH_ASYNC(BOX_ASYNC, cuMemcpy3DWithAttributesAsync, vgpu_copy_add_boxes(&copies, boxes, 1))

/* --- batches --- */

#define ADD_BATCH vgpu_copy_add_batch(&copies, dsts, srcs, sizes, count)
#define BATCH_1(symbol, per_thread, add)                                                           \
    COPY(symbol,                                                                                   \
         (CUdeviceptr * dsts, CUdeviceptr * srcs, size_t * sizes, size_t count,                    \
          CUmemcpyAttributes * attributes, size_t * first, size_t attribute_count,                 \
          size_t * failed, CUstream stream),                                                       \
         (dsts, srcs, sizes, count, attributes, first, attribute_count, failed, stream),           \
         (add, IN(per_thread)))
#define BATCH_2(symbol, per_thread, add)                                                           \
    COPY(symbol,                                                                                   \
         (CUdeviceptr * dsts, CUdeviceptr * srcs, size_t * sizes, size_t count,                    \
          CUmemcpyAttributes * attributes, size_t * first, size_t attribute_count,                 \
          CUstream stream),                                                                        \
         (dsts, srcs, sizes, count, attributes, first, attribute_count, stream),                   \
         (add, IN(per_thread)))
BOTH_ASYNC(BATCH_1, cuMemcpyBatchAsync, ADD_BATCH)
BOTH_ASYNC(BATCH_2, cuMemcpyBatchAsync_v2, ADD_BATCH)

#define ADD_BOXES vgpu_copy_add_boxes(&copies, boxes, count)
#define BOXES_1(symbol, per_thread, add)                                                           \
    COPY(symbol,                                                                                   \
         (size_t count, CUDA_MEMCPY3D_BATCH_OP * boxes, size_t * failed, unsigned long long flags, \
          CUstream stream),                                                                        \
         (count, boxes, failed, flags, stream), (add, IN(per_thread)))
#define BOXES_2(symbol, per_thread, add)                                                           \
    COPY(                                                                                          \
        symbol,                                                                                    \
        (size_t count, CUDA_MEMCPY3D_BATCH_OP * boxes, unsigned long long flags, CUstream stream), \
        (count, boxes, flags, stream), (add, IN(per_thread)))
BOTH_ASYNC(BOXES_1, cuMemcpy3DBatchAsync, ADD_BOXES)
BOTH_ASYNC(BOXES_2, cuMemcpy3DBatchAsync_v2, ADD_BOXES)

/* --- fills: a write inside the device --- */

#define ADD_FILL(elements, width)                                                                  \
    copies.bytes[VGPU_COPY_D2D] += (uint64_t)(elements) * sizeof(width)
#define FILL(symbol, value_type)                                                                   \
    COPY_NOW(symbol, (CUdeviceptr dst, value_type value, size_t count), (dst, value, count),       \
             ADD_FILL(count, value_type))
#define FILL_ASYNC(symbol, per_thread, value_type)                                                 \
    COPY(symbol, (CUdeviceptr dst, value_type value, size_t count, CUstream stream),               \
         (dst, value, count, stream), (ADD_FILL(count, value_type), IN(per_thread)))
#define FILL_ROWS(symbol, value_type)                                                              \
    COPY_NOW(symbol,                                                                               \
             (CUdeviceptr dst, size_t pitch, value_type value, size_t width, size_t height),       \
             (dst, pitch, value, width, height), ADD_FILL(width *height, value_type))
#define FILL_ROWS_ASYNC(symbol, per_thread, value_type)                                            \
    COPY(symbol,                                                                                   \
         (CUdeviceptr dst, size_t pitch, value_type value, size_t width, size_t height,            \
          CUstream stream),                                                                        \
         (dst, pitch, value, width, height, stream),                                               \
         (ADD_FILL(width * height, value_type), IN(per_thread)))
#define FILLS(bits, value_type)                                                                    \
    BOTH_SYNC(FILL, cuMemsetD##bits##_v2, value_type)                                              \
    BOTH_ASYNC(FILL_ASYNC, cuMemsetD##bits##Async, value_type)                                     \
    BOTH_SYNC(FILL_ROWS, cuMemsetD2D##bits##_v2, value_type)                                       \
    BOTH_ASYNC(FILL_ROWS_ASYNC, cuMemsetD2D##bits##Async, value_type)
FILLS(8, unsigned char)
FILLS(16, unsigned short)
FILLS(32, unsigned int)

/* --- managed memory on its way --- */

#define ADD_PREFETCH(is_host) copies.bytes[(is_host) ? VGPU_COPY_D2H : VGPU_COPY_H2D] += bytes
#define CPU (-1) /* CU_DEVICE_CPU */
#define PREFETCH_1(symbol, per_thread, add)                                                        \
    COPY(symbol, (CUdeviceptr pointer, size_t bytes, CUdevice to, CUstream stream),                \
         (pointer, bytes, to, stream), (add, IN(per_thread)))
#define PREFETCH_2(symbol, per_thread, add)                                                        \
    COPY(symbol,                                                                                   \
         (CUdeviceptr pointer, size_t bytes, CUmemLocation to, unsigned int flags,                 \
          CUstream stream),                                                                        \
         (pointer, bytes, to, flags, stream), (add, IN(per_thread)))
#define PREFETCH_BATCH(symbol, per_thread, add)                                                    \
    COPY(symbol,                                                                                   \
         (CUdeviceptr * pointers, size_t * sizes, size_t count, CUmemLocation * locations,         \
          size_t * first, size_t location_count, unsigned long long flags, CUstream stream),       \
         (pointers, sizes, count, locations, first, location_count, flags, stream),                \
         (add, IN(per_thread)))
BOTH_ASYNC(PREFETCH_1, cuMemPrefetchAsync, ADD_PREFETCH(to == CPU))
BOTH_ASYNC(PREFETCH_2, cuMemPrefetchAsync_v2, ADD_PREFETCH(to.type != CU_MEM_LOCATION_TYPE_DEVICE))
BOTH_ASYNC(PREFETCH_BATCH, cuMemPrefetchBatchAsync,
           vgpu_copy_add_prefetches(&copies, sizes, count, locations, first, location_count))
