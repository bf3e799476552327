#include "exports.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "blocks.h"
#include "map.h"
#include "slot.h"

uint32_t vgpu_exports_count;

static struct vgpu_map exported; /* by block number: the first of a large allocation */
static uint64_t kept[VGPU_MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void vgpu_exports_note(uint64_t address) {
    uint64_t block = address / VGPU_BLOCK_BYTES;
    pthread_mutex_lock(&lock);
    if (!vgpu_map_find(&exported, block)) {
        struct vgpu_node *node = calloc(1, sizeof *node);
        if (node) node->key = block;
        if (node && !vgpu_map_put(&exported, node)) free(node);
    }
    pthread_mutex_unlock(&lock);
    vgpu_store_relaxed(&vgpu_exports_count, 1U);
}

/* Whoever imports may be in any of the sessions around us: the outermost one lists them all. */
static bool is_alone(const struct vgpu_account *account) {
    uint32_t pid = vgpu_slot_pid(vgpu_load_relaxed(&account->slot->owner));
    while (account->outer) account = account->outer;
    struct vgpu_region *region = account->region;
    vgpu_slot_reap(region);
    uint32_t slots = vgpu_load_acquire(&region->header.slots_used);
    for (uint32_t i = 0; i < slots && i < VGPU_MAX_SLOTS; i++) {
        uint64_t owner = vgpu_load_acquire(&region->slots[i].owner);
        if (vgpu_slot_state(owner) != VGPU_SLOT_FREE && vgpu_slot_pid(owner) != pid) return false;
    }
    return true;
}

void vgpu_exports_refund_late(const struct vgpu_account *account, uint64_t bytes) {
    if (is_alone(account)) {
        vgpu_ledger_refund(account, bytes);
        return;
    }
    pthread_mutex_lock(&lock);
    vgpu_store_relaxed(&kept[account->device], kept[account->device] + bytes);
    pthread_mutex_unlock(&lock);
}

void vgpu_exports_refund(const struct vgpu_account *account, uint64_t address, uint64_t bytes) {
    if (!bytes) return;
    pthread_mutex_lock(&lock);
    struct vgpu_node *node = vgpu_map_take(&exported, address / VGPU_BLOCK_BYTES);
    pthread_mutex_unlock(&lock);
    if (node) vgpu_exports_refund_late(account, bytes);
    else vgpu_ledger_refund(account, bytes);
    free(node);
}

void vgpu_exports_reclaim(struct vgpu_session *session) {
    if (!vgpu_exports_any()) return;
    for (uint32_t i = 0; i < VGPU_MAX_DEVICES; i++) {
        const struct vgpu_account account = vgpu_session_account(session, i);
        if (!vgpu_load_relaxed(&kept[i]) || !is_alone(&account)) continue;
        pthread_mutex_lock(&lock);
        uint64_t bytes = kept[i];
        vgpu_store_relaxed(&kept[i], UINT64_C(0));
        pthread_mutex_unlock(&lock);
        vgpu_ledger_refund(&account, bytes);
    }
}

void vgpu_exports_forget(void) {
    pthread_mutex_init(&lock, NULL);
    memset(&exported, 0, sizeof exported);
    memset(kept, 0, sizeof kept);
    vgpu_exports_count = 0;
}
