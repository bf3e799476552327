#include "device.h"

#include <sched.h>
#include <string.h>
#include <time.h>

#include "atomics.h"
#include "interpose.h"
#include "slot.h"

/* While an entry is being filled its state names the claimer (pid in the upper 24 bits), so that a
 * claim of a dead process can be told from that of a slow one. ABANDONED: the claimer was alive but
 * stopped; it may still write into the entry, so nobody else ever uses it. */
#define STATE(word) ((word)&0xff)
#define CLAIM_OF(pid) (VGPU_DEVICE_CLAIMING | (pid) << 8)
#define ABANDONED 0xffU
#define CLAIM_DEADLINE_NS 10000000

#define ORDINALS 64
static uint32_t index_of_ordinal[ORDINALS]; /* index + 1, 0 = not looked up yet */

static bool same_uuid(const struct vgpu_device *entry, const uint8_t uuid[16]) {
    return memcmp(entry->uuid, uuid, 16) == 0;
}

uint32_t vgpu_device_find(const struct vgpu_region *region, const uint8_t uuid[16]) {
    for (uint32_t i = 0; i < VGPU_MAX_DEVICES; i++) {
        const struct vgpu_device *entry = &region->devices[i];
        if (vgpu_load_acquire(&entry->state) == VGPU_DEVICE_READY && same_uuid(entry, uuid))
            return i;
    }
    return VGPU_NO_DEVICE;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Waits for another's claim. Returns the state it ended in: READY, or still the claim after the
 * deadline. */
static uint32_t await_claim(const uint32_t *state) {
    int64_t deadline = now_ns() + CLAIM_DEADLINE_NS;
    uint32_t word;
    while (STATE(word = vgpu_load_acquire(state)) == VGPU_DEVICE_CLAIMING && now_ns() < deadline)
        sched_yield();
    return word;
}

/* False if we were so slow that another process gave the entry up. */
static bool fill_entry(struct vgpu_region *region, struct vgpu_device *entry, uint32_t pid,
                       const uint8_t uuid[16]) {
    memcpy(entry->uuid, uuid, 16);
    vgpu_store_relaxed(&entry->mem_limit, region->header.default_mem_limit);
    vgpu_store_relaxed(&entry->share_ppm, region->header.default_share_ppm);
    vgpu_store_relaxed(&entry->burst_ppm, region->header.default_burst_ppm);
    uint32_t expected = CLAIM_OF(pid);
    return vgpu_cas_acq_rel(&entry->state, &expected, (uint32_t)VGPU_DEVICE_READY);
}

uint32_t vgpu_device_claim(struct vgpu_region *region, uint32_t pid, const uint8_t uuid[16]) {
    /* Front to back, and never past an undecided entry: it may be about to get our UUID. */
    for (uint32_t i = 0; i < VGPU_MAX_DEVICES; i++) {
        struct vgpu_device *entry = &region->devices[i];
        uint32_t word = vgpu_load_acquire(&entry->state);
        if (word == VGPU_DEVICE_EMPTY) {
            if (vgpu_cas_acq_rel(&entry->state, &word, CLAIM_OF(pid)) &&
                fill_entry(region, entry, pid, uuid))
                return i;
        }
        if (STATE(word) == VGPU_DEVICE_CLAIMING) {
            word = await_claim(&entry->state);
            uint64_t start, flags;
            char life;
            if (STATE(word) == VGPU_DEVICE_CLAIMING) {
                bool dead = !vgpu_process_stat(word >> 8, &start, &life, &flags) || life == 'Z' ||
                            life == 'X';
                if (!dead) {
                    vgpu_cas_acq_rel(&entry->state, &word, ABANDONED);
                } else if (vgpu_cas_acq_rel(&entry->state, &word, CLAIM_OF(pid)) &&
                           fill_entry(region, entry, pid, uuid)) {
                    return i;
                }
                word = await_claim(&entry->state);
            }
        }
        if (vgpu_load_acquire(&entry->state) == VGPU_DEVICE_READY && same_uuid(entry, uuid))
            return i;
    }
    return VGPU_NO_DEVICE;
}

static bool driver_uuid(CUdevice ordinal, uint8_t uuid[16]) {
    CUuuid answer;
    /* _v2 names a MIG instance by its own UUID, v1 by its card's. */
    typeof(&cuDeviceGetUuid_v2) get = vgpu_driver_symbol("cuDeviceGetUuid_v2");
    if (!get) get = vgpu_driver_symbol("cuDeviceGetUuid");
    if (!get || get(&answer, ordinal) != CUDA_SUCCESS) return false;
    memcpy(uuid, answer.bytes, 16);
    return true;
}

/* A session's SMs are those of the one around it; and what a context costs that one may have learnt
 * where this one, without a limit, did not need to. */
static void inherit(struct vgpu_region *region, uint32_t index, const struct vgpu_account *outer) {
    struct vgpu_device *device = &region->devices[index];
    const struct vgpu_device *known = &outer->region->devices[outer->device];
    if (!vgpu_device_context_bytes(region, index))
        vgpu_store_relaxed(&device->context_bytes,
                           vgpu_device_context_bytes(outer->region, outer->device));
    if (!known->sm_count) return;
    device->mode = known->mode;
    device->sm_total = known->sm_total;
    device->group_sms = known->group_sms;
    memcpy(device->sm_groups, known->sm_groups, sizeof device->sm_groups);
    vgpu_store_release(&device->sm_count, known->sm_count);
}

/* The device's entry in the session and in those around it. */
static uint32_t enter(struct vgpu_session *session, CUdevice ordinal, const uint8_t uuid[16]) {
    size_t total;
    uint32_t index = vgpu_device_claim(session->region, session->pid, uuid);
    if (index == VGPU_NO_DEVICE) return index;
    uint64_t *known = &session->region->devices[index].total_bytes;
    if (!vgpu_load_relaxed(known) && REAL(cuDeviceTotalMem_v2)(&total, ordinal) == CUDA_SUCCESS)
        vgpu_store_relaxed(known, total);
    if (!session->outer) return index;
    uint32_t outer = enter(session->outer, ordinal, uuid);
    if (outer == VGPU_NO_DEVICE) return outer;
    session->outer_accounts[index] = vgpu_session_account(session->outer, outer);
    inherit(session->region, index, &session->outer_accounts[index]);
    return index;
}

static uint32_t look_up(struct vgpu_session *session, CUdevice ordinal) {
    uint8_t uuid[16];
    if (!driver_uuid(ordinal, uuid)) return VGPU_NO_DEVICE;
    uint32_t index = enter(session, ordinal, uuid);
    if (index == VGPU_NO_DEVICE) return index;
    if ((unsigned)ordinal < ORDINALS) vgpu_store_release(&index_of_ordinal[ordinal], index + 1);
    return index;
}

uint32_t vgpu_device_index(struct vgpu_session *session, CUdevice ordinal) {
    if ((unsigned)ordinal < ORDINALS) {
        uint32_t known = vgpu_load_acquire(&index_of_ordinal[ordinal]);
        if (known) return known - 1;
    }
    return look_up(session, ordinal);
}

uint64_t vgpu_device_context_bytes(const struct vgpu_region *region, uint32_t index) {
    uint64_t learnt = vgpu_load_relaxed(&region->devices[index].context_bytes);
    return learnt ? learnt : region->header.default_context_bytes;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool vgpu_device_parse_uuid(const char *text, uint8_t uuid[16]) {
    if (strncmp(text, "GPU-", 4) != 0 && strncmp(text, "MIG-", 4) != 0) return false;
    text += 4;
    for (int i = 0; i < 16; i++) {
        if (*text == '-') text++;
        int high = hex_digit(text[0]);
        int low = high < 0 ? -1 : hex_digit(text[1]);
        if (low < 0) return false;
        uuid[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    return *text == '\0';
}
