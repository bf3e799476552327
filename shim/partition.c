#include "partition.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "board.h"
#include "device.h"
#include "interpose.h"
#include "session.h"

#define ORDINALS 64

uint32_t vgpu_partition_state;

/* Threads may have a dead view current long after: so many of the last ones are known. */
#define DEAD 16
static struct place {
    CUcontext primary;
    CUcontext view;
    CUgreenCtx green; /* NULL: no view, `view` is dead */
    CUcontext dead[DEAD];
    uint32_t died;
} places[ORDINALS];
static uint32_t places_used; /* above the highest ordinal that ever had a view */
static uint32_t tables_given;

/* Contexts that the program made. Few, and looked up seldom. */
struct room {
    struct room *next;
    CUcontext context;
    CUgreenCtx green;
    CUdevice ordinal;
    unsigned int flags;
};
static struct room *rooms;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

bool vgpu_partition_find_out(void) {
    struct vgpu_session *session = vgpu_session_get();
    bool any = false;
    for (; session; session = session->outer)
        for (int i = 0; i < VGPU_MAX_DEVICES; i++)
            any |= vgpu_load_relaxed(&session->region->devices[i].sm_count) != 0;
    vgpu_store_relaxed(&vgpu_partition_state,
                       (uint32_t)(any ? VGPU_PARTITION_SOME : VGPU_PARTITION_NONE));
    return any;
}

/* NULL: no partition there. */
static const struct vgpu_device *device_of(CUdevice ordinal) {
    struct vgpu_session *session = vgpu_partition_any() ? vgpu_session_get() : NULL;
    uint32_t index = session ? vgpu_device_index(session, ordinal) : VGPU_NO_DEVICE;
    if (index == VGPU_NO_DEVICE) return NULL;
    const struct vgpu_device *device = &session->region->devices[index];
    return device->sm_count ? device : NULL;
}

uint32_t vgpu_partition_sms(CUdevice ordinal) {
    const struct vgpu_device *device = device_of(ordinal);
    return device ? device->sm_count : 0;
}

/* --- the driver's objects --- */

/* Always the whole split: which SMs a group has must not depend on how many groups are asked for.
 */
static CUresult pick_groups(const struct vgpu_device *device, const CUdevResource *card,
                            CUdevResource *groups, unsigned int *picked) {
    unsigned int count = VGPU_MAX_GROUPS, sms = 0;
    CUresult rc =
        CALL(cuDevSmResourceSplitByCount)(groups, &count, card, NULL, 0, device->group_sms);
    if (rc != CUDA_SUCCESS) return rc;
    *picked = 0;
    for (unsigned int i = 0; i < count; i++) {
        if (!(device->sm_groups[i / 64] >> i % 64 & 1)) continue;
        sms += groups[i].sm.smCount;
        groups[(*picked)++] = groups[i];
    }
    return sms == device->sm_count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
}

static CUresult describe(const struct vgpu_device *device, CUdevice ordinal,
                         CUdevResourceDesc *desc) {
    CUdevResource card;
    CUresult rc = REAL(cuDeviceGetDevResource)(ordinal, &card, CU_DEV_RESOURCE_TYPE_SM);
    if (rc != CUDA_SUCCESS) return rc;
    CUdevResource *groups = malloc(VGPU_MAX_GROUPS * sizeof *groups);
    unsigned int picked = 0;
    rc = groups ? pick_groups(device, &card, groups, &picked) : CUDA_ERROR_OUT_OF_MEMORY;
    if (rc == CUDA_SUCCESS) rc = CALL(cuDevResourceGenerateDesc)(desc, groups, picked);
    free(groups);
    return rc;
}

/* The green context holds a reference to the primary one, which must be active. */
static CUresult make(CUdevice ordinal, CUgreenCtx *green, CUcontext *view) {
    const struct vgpu_device *device = device_of(ordinal);
    CUdevResourceDesc desc;
    if (!vgpu_real_exists(VGPU_HOOK_cuGreenCtxCreate)) return CUDA_ERROR_NOT_SUPPORTED;
    CUresult rc = device ? describe(device, ordinal, &desc) : CUDA_ERROR_INVALID_DEVICE;
    if (rc != CUDA_SUCCESS) return rc;
    rc = REAL(cuGreenCtxCreate)(green, desc, ordinal, CU_GREEN_CTX_DEFAULT_STREAM);
    if (rc != CUDA_SUCCESS) return rc;
    rc = REAL(cuCtxFromGreenCtx)(view, *green);
    if (rc != CUDA_SUCCESS) REAL(cuGreenCtxDestroy)(*green);
    return rc;
}

/* --- the primary context's view --- */

bool vgpu_partition_of(CUdevice ordinal, CUcontext *primary, CUcontext *view) {
    if ((unsigned)ordinal >= ORDINALS || !vgpu_load_acquire(&places[ordinal].green)) return false;
    *primary = vgpu_load_relaxed(&places[ordinal].primary);
    *view = vgpu_load_relaxed(&places[ordinal].view);
    return true;
}

/* The driver gives handles again. Caller holds the lock. */
static void forget_dead(CUcontext context) {
    for (uint32_t i = 0; i < places_used; i++) {
        struct place *place = &places[i];
        if (!place->green && place->view == context) vgpu_store_relaxed(&place->view, NULL);
        for (int j = 0; j < DEAD; j++)
            if (place->dead[j] == context) vgpu_store_relaxed(&place->dead[j], NULL);
    }
}

/* True if ours is the one; false if another thread was faster. */
static bool publish(CUdevice ordinal, CUcontext primary, CUcontext view, CUgreenCtx green) {
    struct place *place = &places[ordinal];
    pthread_mutex_lock(&lock);
    bool first = !vgpu_load_relaxed(&place->green);
    if (first) {
        forget_dead(view);
        if (place->view) vgpu_store_relaxed(&place->dead[place->died++ % DEAD], place->view);
        vgpu_store_relaxed(&place->primary, primary);
        vgpu_store_relaxed(&place->view, view);
        vgpu_store_release(&place->green, green);
        if (places_used <= (unsigned)ordinal)
            vgpu_store_release(&places_used, (uint32_t)ordinal + 1);
    }
    pthread_mutex_unlock(&lock);
    return first;
}

CUresult vgpu_partition_view(CUdevice ordinal, CUcontext primary, CUcontext *view, bool *made) {
    CUcontext known;
    CUgreenCtx green;
    *made = false;
    if ((unsigned)ordinal >= ORDINALS) return CUDA_ERROR_INVALID_DEVICE;
    if (vgpu_partition_of(ordinal, &known, view)) return CUDA_SUCCESS;
    CUresult rc = make(ordinal, &green, view);
    if (rc != CUDA_SUCCESS) return rc;
    *made = publish(ordinal, primary, *view, green);
    if (*made) return CUDA_SUCCESS;
    REAL(cuGreenCtxDestroy)(green);
    return vgpu_partition_of(ordinal, &known, view) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

void vgpu_partition_end_view(CUdevice ordinal) {
    pthread_mutex_lock(&lock);
    CUgreenCtx green = places[ordinal].green;
    vgpu_store_release(&places[ordinal].green, NULL);
    pthread_mutex_unlock(&lock);
    if (green) REAL(cuGreenCtxDestroy)(green);
}

void vgpu_partition_taken_over(CUcontext context) {
    pthread_mutex_lock(&lock);
    forget_dead(context);
    pthread_mutex_unlock(&lock);
}

CUcontext vgpu_partition_inside(CUcontext context) {
    uint32_t used = vgpu_load_acquire(&places_used);
    for (uint32_t i = 0; context && i < used; i++)
        if (vgpu_load_acquire(&places[i].green) && vgpu_load_relaxed(&places[i].primary) == context)
            return vgpu_load_relaxed(&places[i].view);
    return context;
}

static bool is_dead(const struct place *place, CUcontext context) {
    for (int i = 0; i < DEAD; i++)
        if (vgpu_load_relaxed(&place->dead[i]) == context) return true;
    return false;
}

CUcontext vgpu_partition_outside(CUcontext context) {
    uint32_t used = vgpu_load_acquire(&places_used);
    for (uint32_t i = 0; context && i < used; i++)
        if (vgpu_load_relaxed(&places[i].view) == context || is_dead(&places[i], context))
            return vgpu_load_relaxed(&places[i].primary);
    return context;
}

bool vgpu_partition_is_inside(CUcontext context) {
    return vgpu_partition_outside(context) != context ||
           vgpu_partition_is_room(context, NULL, NULL);
}

CUevent vgpu_partition_event(CUcontext context) {
    CUcontext popped;
    CUevent event = NULL;
    if (REAL(cuCtxPushCurrent_v2)(context) != CUDA_SUCCESS) return NULL;
    if (CALL(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING) != CUDA_SUCCESS) event = NULL;
    CALL(cuCtxPopCurrent_v2)(&popped);
    return event;
}

/* --- rooms --- */

CUresult vgpu_partition_open_room(CUdevice ordinal, unsigned int flags, CUcontext *out) {
    struct room *room = malloc(sizeof *room);
    if (!room) return CUDA_ERROR_OUT_OF_MEMORY;
    *room = (struct room){.ordinal = ordinal, .flags = flags};
    CUresult rc = make(ordinal, &room->green, &room->context);
    if (rc != CUDA_SUCCESS) {
        free(room);
        return rc;
    }
    *out = room->context;
    vgpu_partition_taken_over(*out);
    pthread_mutex_lock(&lock);
    room->next = rooms;
    rooms = room;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

/* Caller holds the lock. */
static struct room *find_room(CUcontext context) {
    struct room *room = rooms;
    while (room && room->context != context) room = room->next;
    return room;
}

bool vgpu_partition_is_room(CUcontext context, CUdevice *ordinal, unsigned int *flags) {
    pthread_mutex_lock(&lock);
    const struct room *room = find_room(context);
    if (room && ordinal) *ordinal = room->ordinal;
    if (room && flags) *flags = room->flags;
    pthread_mutex_unlock(&lock);
    return room != NULL;
}

bool vgpu_partition_set_flags(CUcontext context, unsigned int flags) {
    pthread_mutex_lock(&lock);
    struct room *room = find_room(context);
    if (room) room->flags = flags;
    pthread_mutex_unlock(&lock);
    return room != NULL;
}

bool vgpu_partition_has_room(CUdevice ordinal) {
    pthread_mutex_lock(&lock);
    struct room *room = rooms;
    while (room && room->ordinal != ordinal) room = room->next;
    pthread_mutex_unlock(&lock);
    return room != NULL;
}

CUresult vgpu_partition_close_room(CUcontext context) {
    pthread_mutex_lock(&lock);
    struct room **link = &rooms;
    while (*link && (*link)->context != context) link = &(*link)->next;
    struct room *room = *link;
    if (room) *link = room->next;
    pthread_mutex_unlock(&lock);
    if (!room) return CUDA_ERROR_INVALID_CONTEXT;
    CUresult rc = REAL(cuGreenCtxDestroy)(room->green);
    free(room);
    return rc;
}

/* --- graph nodes --- */

const CUDA_KERNEL_NODE_PARAMS *vgpu_partition_kernel(const CUDA_KERNEL_NODE_PARAMS *params,
                                                     CUDA_KERNEL_NODE_PARAMS *room) {
    if (!params || !vgpu_partition_any() || vgpu_partition_inside(params->ctx) == params->ctx)
        return params;
    *room = *params;
    room->ctx = vgpu_partition_inside(params->ctx);
    return room;
}

CUgraphNodeParams *vgpu_partition_node(CUgraphNodeParams *params, CUgraphNodeParams *room) {
    CUcontext *context;
    if (!params || !vgpu_partition_any()) return params;
    /* Only kinds that the driver does not write to: what it would write must reach the caller. */
    switch (params->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        context = &room->kernel.ctx;
        break;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        context = &room->memcpy.copyCtx;
        break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        context = &room->memset.ctx;
        break;
    default:
        return params;
    }
    *room = *params;
    *context = vgpu_partition_inside(*context);
    return room;
}

/* --- the rest --- */

void vgpu_partition_note_tables(void) { vgpu_store_relaxed(&tables_given, 1U); }

bool vgpu_partition_is_shared(void) { return vgpu_load_relaxed(&tables_given) != 0; }

void vgpu_partition_forget(void) {
    pthread_mutex_init(&lock, NULL);
    memset(places, 0, sizeof places);
    places_used = 0;
    rooms = NULL;
    vgpu_partition_state = VGPU_PARTITION_UNKNOWN;
}
