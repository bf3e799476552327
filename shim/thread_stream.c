#include "thread_stream.h"

#include <pthread.h>
#include <stdlib.h>

#include "context.h"
#include "interpose.h"
#include "partition.h"

/* A thread's streams: one for each context that it uses so, few. */
struct own {
    struct own *next;
    CUcontext context;
    uint32_t owner; /* handles are used again, serials are not */
    CUstream stream;
};
static __thread struct own *owned __attribute__((tls_model("initial-exec")));
static pthread_key_t at_end;
static bool has_key;

/* A thread ends: its streams finish their work and go, unless their context has gone before. */
static void end_streams(void *first) {
    struct own *own = first;
    while (own) {
        struct own *next = own->next;
        struct vgpu_context known;
        if (vgpu_contexts_find(own->context, &known) && known.owner == own->owner)
            cuStreamDestroy_v2(own->stream);
        free(own);
        own = next;
    }
    owned = NULL;
}

static void make_key(void) { has_key = pthread_key_create(&at_end, end_streams) == 0; }

static CUresult make(const struct vgpu_place *place, CUstream *stream) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    struct own *own = malloc(sizeof *own);
    if (!own) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult rc = cuStreamCreate(stream, CU_STREAM_DEFAULT);
    if (rc != CUDA_SUCCESS) {
        free(own);
        return rc;
    }
    *own = (struct own){owned, place->context, place->owner, *stream};
    owned = own;
    if (has_key) pthread_setspecific(at_end, own);
    return CUDA_SUCCESS;
}

CUresult vgpu_thread_stream_swap(CUstream *stream) {
    struct vgpu_place place;
    CUresult rc = vgpu_context_here(&place, "the per-thread stream");
    if (rc != CUDA_SUCCESS || !place.context || !vgpu_partition_sms(place.ordinal)) return rc;
    for (const struct own *own = owned; own; own = own->next) {
        if (own->context != place.context || own->owner != place.owner) continue;
        *stream = own->stream;
        return CUDA_SUCCESS;
    }
    return make(&place, stream);
}
