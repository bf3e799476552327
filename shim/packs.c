#include "packs.h"

#include <pthread.h>
#include <stdlib.h>

#include "blocks.h"

#define UNIT_BYTES UINT64_C(512)

struct vgpu_pack {
    struct vgpu_pack *next;
    uint64_t free_bytes;
    uint32_t owner, device, live;
};

static struct vgpu_pack *first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t whole_units(uint64_t bytes) { return (bytes + UNIT_BYTES - 1) & ~(UNIT_BYTES - 1); }

struct vgpu_pack *vgpu_packs_put(uint32_t owner, uint32_t device, uint64_t bytes, uint64_t *cost) {
    bytes = whole_units(bytes);
    *cost = 0;
    pthread_mutex_lock(&lock);
    struct vgpu_pack **link = &first;
    while (*link &&
           ((*link)->owner != owner || (*link)->device != device || (*link)->free_bytes < bytes))
        link = &(*link)->next;
    if (!*link && (*link = calloc(1, sizeof **link))) {
        **link =
            (struct vgpu_pack){.free_bytes = VGPU_BLOCK_BYTES, .owner = owner, .device = device};
        *cost = VGPU_BLOCK_BYTES;
    }
    struct vgpu_pack *pack = *link;
    if (pack) {
        pack->free_bytes -= bytes;
        pack->live++;
    }
    pthread_mutex_unlock(&lock);
    return pack;
}

uint64_t vgpu_packs_drop(struct vgpu_pack *pack) {
    if (!pack) return 0;
    pthread_mutex_lock(&lock);
    uint64_t given_back = --pack->live ? 0 : VGPU_BLOCK_BYTES;
    if (given_back) {
        struct vgpu_pack **link = &first;
        while (*link != pack) link = &(*link)->next;
        *link = pack->next;
        free(pack);
    }
    pthread_mutex_unlock(&lock);
    return given_back;
}

void vgpu_packs_forget(void) {
    pthread_mutex_init(&lock, NULL);
    first = NULL;
}
