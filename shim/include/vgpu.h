/* What a program under `vgpu run` may ask about its limits. Nothing to link: the preload library of
 * the session exports these functions, so look them up
 *
 *     int (*get)(int, struct vgpu_memory *, size_t) = dlsym(RTLD_DEFAULT, "vgpu_memory_get");
 *
 * or define VGPU_WEAK before including this file and test `if (vgpu_memory_get)`. Outside a session
 * they are absent (NULL). No callbacks: nothing of yours runs on the thread that allocates.
 */
#ifndef VGPU_H
#define VGPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef VGPU_WEAK
#define VGPU_PUBLIC __attribute__((weak))
#else
#define VGPU_PUBLIC
#endif

#define VGPU_MEMORY_UNLIMITED UINT64_MAX

/* The whole session's memory on one GPU: all its processes together. Bytes. */
struct vgpu_memory {
    uint64_t limit;      /* VGPU_MEMORY_UNLIMITED: none */
    uint64_t soft;       /* --mem-soft; VGPU_MEMORY_UNLIMITED: none */
    uint64_t used;       /* now, contexts and allocations in progress included */
    uint64_t peak;       /* the most so far */
    uint64_t own;        /* of used: this process's */
    uint64_t velocity;   /* growth in bytes/s, averaged over about a second; as vgpu last looked */
    uint32_t pressure;   /* 0, or the percentage of the limit that was reached: 70, 85, 95. It falls
                            5 points later than it rises. As vgpu last looked */
    uint32_t above_soft; /* 1: use is above the soft limit; likewise */
    uint32_t changes;    /* counts every change of the two above */
    uint32_t denials;    /* requests refused in the session */
};

/* Fills at most `bytes` (sizeof *memory) for a CUDA device as this process numbers it. Call it
 * after cuInit (any CUDA runtime call). Returns 0, or -1 with errno: ENOENT outside a session,
 * ENODEV for a device that the driver does not know (or before cuInit). Takes no lock; safe in any
 * thread. */
VGPU_PUBLIC int vgpu_memory_get(int device, struct vgpu_memory *memory, size_t bytes);

/* A descriptor that becomes readable whenever `pressure` or `above_soft` of any device has changed,
 * for poll, epoll or an event loop. Non-blocking, close-on-exec, the caller's own: read it empty
 * (the content means nothing), then ask vgpu_memory_get; close it at the end. Changes come while
 * the session's supervisor lives. Returns -1 with errno: ENOENT outside a session, or inotify's
 * own. */
VGPU_PUBLIC int vgpu_pressure_fd(void);

/* What the work of a stream is. The profile may weigh a class's time in the charge (`classes:`);
 * communication is charged but never made to wait (NCCL's kernels are known by name without this).
 */
enum vgpu_class {
    VGPU_CLASS_DEFAULT,
    VGPU_CLASS_ATTENTION,
    VGPU_CLASS_FFN,
    VGPU_CLASS_COPY,
    VGPU_CLASS_COMMUNICATION
};

/* Says what class a stream (a CUstream or cudaStream_t of the current context) is, for all its
 * launches from now on; it is forgotten with the stream. Returns 0, or -1 with errno: ENOENT
 * outside a session or where the GPU's time is not limited, EINVAL for a class that there is not.
 */
VGPU_PUBLIC int vgpu_stream_class(void *stream, enum vgpu_class what);

#ifdef __cplusplus
}
#endif

#endif
