#include "contexts.h"

#include <pthread.h>
#include <string.h>

#include "atomics.h"

/* More contexts than any card has room for: each takes some 500 MiB. */
#define PLACES 512
#define REMOVED ((const void *)1)

/* Written under the lock; read without it. The handle is published last. A place is reused only for
 * handles made after the old one was destroyed, so a reader that raced with that was using a dead
 * context anyway. */
struct place {
    const void *handle;
    uint64_t owner_device; /* serial << 32 | device, one word so that they always match */
    int ordinal;
    uint64_t charge;
    struct vgpu_tally tally;
};

static struct place places[PLACES];
static uint32_t last_owner;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static uint64_t home(const void *handle) {
    return (uint64_t)(uintptr_t)handle * UINT64_C(0x9e3779b97f4a7c15) >> 55;
}

static struct place *find(const void *handle) {
    uint64_t start = home(handle);
    for (uint64_t i = 0; i < PLACES; i++) {
        struct place *place = &places[(start + i) % PLACES];
        const void *seen = vgpu_load_acquire(&place->handle);
        if (seen == handle) return place;
        if (!seen) return NULL;
    }
    return NULL;
}

static void read_place(struct place *place, const void *handle, struct vgpu_context *context) {
    uint64_t packed = vgpu_load_relaxed(&place->owner_device);
    *context = (struct vgpu_context){.handle = handle,
                                     .owner = (uint32_t)(packed >> 32),
                                     .device = (uint32_t)packed,
                                     .ordinal = vgpu_load_relaxed(&place->ordinal),
                                     .charge = vgpu_load_relaxed(&place->charge)};
}

bool vgpu_contexts_find(const void *handle, struct vgpu_context *context) {
    struct place *place = find(handle);
    if (!place) return false;
    read_place(place, handle, context);
    return true;
}

static struct place *free_place(const void *handle) {
    uint64_t start = home(handle);
    for (uint64_t i = 0; i < PLACES; i++) {
        struct place *place = &places[(start + i) % PLACES];
        if (!place->handle || place->handle == REMOVED) return place;
    }
    return NULL;
}

bool vgpu_contexts_put(struct vgpu_context *context) {
    pthread_mutex_lock(&writing);
    struct place *place = find(context->handle) ? NULL : free_place(context->handle);
    if (place) {
        if (!context->owner) context->owner = ++last_owner;
        vgpu_store_relaxed(&place->owner_device, (uint64_t)context->owner << 32 | context->device);
        vgpu_store_relaxed(&place->ordinal, context->ordinal);
        vgpu_store_relaxed(&place->charge, context->charge);
        place->tally = (struct vgpu_tally){0};
        vgpu_store_release(&place->handle, context->handle);
    }
    pthread_mutex_unlock(&writing);
    return place != NULL;
}

bool vgpu_contexts_take(const void *handle, struct vgpu_context *context) {
    pthread_mutex_lock(&writing);
    struct place *place = find(handle);
    if (place) {
        read_place(place, handle, context);
        vgpu_store_release(&place->handle, REMOVED);
    }
    pthread_mutex_unlock(&writing);
    return place != NULL;
}

bool vgpu_contexts_grow(const void *handle, int64_t bytes) {
    pthread_mutex_lock(&writing);
    struct place *place = handle ? find(handle) : NULL;
    if (place) vgpu_store_relaxed(&place->charge, place->charge + (uint64_t)bytes);
    pthread_mutex_unlock(&writing);
    return place != NULL;
}

struct vgpu_tally *vgpu_contexts_tally(const void *handle) {
    struct place *place = handle ? find(handle) : NULL;
    return place ? &place->tally : NULL;
}

bool vgpu_contexts_alive(uint32_t owner) {
    for (int i = 0; i < PLACES; i++) {
        const void *handle = vgpu_load_acquire(&places[i].handle);
        if (handle && handle != REMOVED &&
            vgpu_load_relaxed(&places[i].owner_device) >> 32 == owner)
            return true;
    }
    return false;
}

void vgpu_contexts_forget(void) {
    pthread_mutex_init(&writing, NULL);
    memset(places, 0, sizeof places);
}
