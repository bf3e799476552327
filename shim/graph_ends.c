#include "graph_ends.h"

#include <pthread.h>
#include <string.h>

#include "capture.h"
#include "interpose.h"
#include "partition.h"
#include "thread_stream.h"

/* Streams that graphs were launched into. Where there are more, the oldest is no longer waited for.
 */
#define ENDS 256
static struct end {
    CUcontext context;
    CUstream stream;
    CUevent event;
} ends[ENDS];
static unsigned used, oldest;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static CUevent find(CUcontext context, CUstream stream) {
    CUevent event = NULL;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < used && !event; i++)
        if (ends[i].context == context && ends[i].stream == stream) event = ends[i].event;
    pthread_mutex_unlock(&lock);
    return event;
}

/* Another thread may enter the same stream at the same time: then both are waited for. */
static CUevent enter(CUcontext context, CUstream stream) {
    CUevent event = vgpu_partition_event(context), dropped = NULL;
    if (!event) return NULL;
    pthread_mutex_lock(&lock);
    bool full = used == ENDS;
    struct end *end = &ends[full ? oldest++ % ENDS : used++];
    dropped = full ? end->event : NULL;
    *end = (struct end){context, stream, event};
    pthread_mutex_unlock(&lock);
    if (dropped) CALL(cuEventDestroy_v2)(dropped);
    return event;
}

void vgpu_graph_ends_note(CUstream stream, bool per_thread) {
    CUcontext context;
    if (!vgpu_partition_any() || vgpu_capture_holds(stream, per_thread)) return;
    if (vgpu_thread_stream_is(stream, per_thread) && vgpu_thread_stream_swap(&stream)) return;
    if (REAL(cuStreamGetCtx)(stream, &context) != CUDA_SUCCESS ||
        !vgpu_partition_is_inside(context))
        return;
    CUevent event = find(context, stream);
    if (!event) event = enter(context, stream);
    if (!event || !vgpu_capture_record_await(stream, per_thread)) return;
    CALL(cuEventRecord)(event, stream);
    vgpu_capture_record_end();
}

CUresult vgpu_graph_ends_wait(CUcontext context) {
    CUevent events[ENDS];
    unsigned count = 0;
    if (!vgpu_partition_any()) return CUDA_SUCCESS;
    if (!context) REAL(cuCtxGetCurrent)(&context);
    context = vgpu_partition_inside(context);
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < used; i++)
        if (ends[i].context == context) events[count++] = ends[i].event;
    pthread_mutex_unlock(&lock);
    CUresult rc = CUDA_SUCCESS;
    CUstreamCaptureMode mode = vgpu_capture_relax();
    for (unsigned i = 0; i < count && rc == CUDA_SUCCESS; i++)
        rc = REAL(cuEventSynchronize)(events[i]);
    vgpu_capture_restore(mode);
    return rc;
}

void vgpu_graph_ends_forget_context(CUcontext context) {
    CUevent events[ENDS];
    unsigned count = 0, kept = 0;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < used; i++) {
        if (ends[i].context == context) events[count++] = ends[i].event;
        else ends[kept++] = ends[i];
    }
    used = kept;
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < count; i++) CALL(cuEventDestroy_v2)(events[i]);
}

void vgpu_graph_ends_forget(void) {
    pthread_mutex_init(&lock, NULL);
    memset(ends, 0, sizeof ends);
    used = oldest = 0;
}
