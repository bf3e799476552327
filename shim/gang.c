#include "gang.h"

#include <string.h>

#include "atomics.h"
#include "gate.h"

_Static_assert(VGPU_MAX_DEVICES <= 16, "a bit each in half a word");

/* ---- who belongs -------------------------------------------------------------------------------
 */

static uint64_t bit_of(uint32_t device) { return UINT64_C(1) << device; }

uint64_t vgpu_gang_members(const struct vgpu_region *region, uint32_t device) {
    uint64_t members = vgpu_load_acquire(&region->header.gang_members);
    return members & bit_of(device) ? members : bit_of(device);
}

bool vgpu_gang_enter(struct vgpu_region *region, uint32_t device) {
    uint64_t before =
        __atomic_fetch_or(&region->header.gang_members, bit_of(device), __ATOMIC_SEQ_CST);
    return !(before & bit_of(device));
}

uint32_t vgpu_gang_order(const struct vgpu_region *region, uint64_t members,
                         uint32_t order[VGPU_MAX_DEVICES]) {
    uint32_t count = 0;
    for (uint32_t device = 0; device < VGPU_MAX_DEVICES; device++) {
        if (!(members & bit_of(device))) continue;
        const uint8_t *uuid = region->devices[device].uuid;
        uint32_t i = count++;
        for (; i && memcmp(uuid, region->devices[order[i - 1]].uuid, 16) < 0; i--)
            order[i] = order[i - 1];
        order[i] = device;
    }
    return count;
}

uint32_t vgpu_gang_share(const struct vgpu_region *region, uint64_t members) {
    uint32_t least = VGPU_WHOLE_GPU;
    for (uint32_t device = 0; device < VGPU_MAX_DEVICES; device++) {
        if (!(members & bit_of(device))) continue;
        uint32_t share = vgpu_gate_share(&region->devices[device]);
        if (share < least) least = share;
    }
    return least ? least : 1;
}

/* ---- the parts of a slice ----------------------------------------------------------------------
 */

static uint32_t epoch_of(uint64_t word) { return (uint32_t)(word >> 32); }
static uint64_t busy_of(uint64_t word) { return word & 0xffff; }
static uint64_t stuck_of(uint64_t word) { return word >> 16 & 0xffff; }

void vgpu_gang_open(struct vgpu_device *leader, uint32_t epoch, uint32_t device) {
    vgpu_store_seq_cst(&leader->gang_word, (uint64_t)epoch << 32 | bit_of(device));
}

bool vgpu_gang_join(struct vgpu_device *leader, uint32_t epoch, uint32_t device, bool over) {
    uint64_t word = vgpu_load_seq_cst(&leader->gang_word);
    do {
        if (epoch_of(word) != epoch || !busy_of(word) || word & bit_of(device)) return false;
        if (over && !stuck_of(word)) return false;
    } while (!vgpu_cas_seq_cst(&leader->gang_word, &word, word | bit_of(device)));
    return true;
}

bool vgpu_gang_leave(struct vgpu_device *leader, uint32_t epoch, uint32_t device) {
    uint64_t bits = bit_of(device) | bit_of(device) << 16, word, left;
    word = vgpu_load_seq_cst(&leader->gang_word);
    do {
        if (epoch_of(word) != epoch || !(word & bit_of(device))) return false;
        left = word & ~bits;
    } while (!vgpu_cas_seq_cst(&leader->gang_word, &word, left));
    return !busy_of(left);
}

bool vgpu_gang_say_stuck(struct vgpu_device *leader, uint32_t epoch, uint32_t device, bool stuck) {
    uint64_t bit = bit_of(device) << 16, word = vgpu_load_seq_cst(&leader->gang_word), said;
    do {
        said = stuck ? word | bit : word & ~bit;
        if (epoch_of(word) != epoch || !(word & bit_of(device)) || said == word) return false;
    } while (!vgpu_cas_seq_cst(&leader->gang_word, &word, said));
    return true;
}

bool vgpu_gang_peer_is_stuck(const struct vgpu_device *leader, uint32_t epoch, uint32_t device) {
    uint64_t word = vgpu_load_seq_cst(&leader->gang_word);
    return epoch_of(word) == epoch && stuck_of(word) & ~bit_of(device);
}

bool vgpu_gang_is_opening(const struct vgpu_device *leader, uint32_t epoch) {
    return epoch_of(vgpu_load_seq_cst(&leader->gang_word)) != epoch;
}
