#include "audit_alone.h"

#include <string.h>

#include "atomics.h"
#include "audit.h"
#include "device.h"
#include "interpose.h"
#include "nvml_list.h"
#include "slot.h"
#include "wait.h"

/* NVML may be low for as long as the driver takes to make a context: a lower figure is believed
 * when all has stood still for so long. */
#define STEADY_NS UINT64_C(3000000000)

/* What the last look saw of one process. */
struct sight {
    uint64_t owner, charged, allocations, nvml, since_ns;
    uint32_t device;
};

enum { UNOPENED, OPEN, ABSENT };

/* By depth: of our session, and of those around it. */
static struct sight sights[VGPU_MAX_DEPTH][VGPU_MAX_SLOTS];
static uint64_t looked_ns[VGPU_MAX_DEPTH];
static int nvml = UNOPENED;
static uint32_t busy; /* 1: a thread is looking; it alone touches the words above */

static void forget_in_child(void) {
    memset(sights, 0, sizeof sights);
    memset(looked_ns, 0, sizeof looked_ns);
    nvml = UNOPENED;
    busy = 0;
}

__attribute__((constructor)) static void register_fork(void) {
    vgpu_session_on_fork(forget_in_child);
}

static bool find_card(const struct vgpu_device *device, nvmlDevice_t *card) {
    unsigned int count = 0;
    char text[NVML_DEVICE_NAME_BUFFER_SIZE];
    uint8_t uuid[16];
    if (nvml == UNOPENED) nvml = REAL(nvmlInit_v2)() == NVML_SUCCESS ? OPEN : ABSENT;
    if (nvml == ABSENT || CALL(nvmlDeviceGetCount_v2)(&count) != NVML_SUCCESS) return false;
    for (unsigned int i = 0; i < count; i++)
        if (CALL(nvmlDeviceGetHandleByIndex_v2)(i, card) == NVML_SUCCESS &&
            CALL(nvmlDeviceGetUUID)(*card, text, sizeof text) == NVML_SUCCESS &&
            vgpu_device_parse_uuid(text, uuid) && memcmp(uuid, device->uuid, sizeof uuid) == 0)
            return true;
    return false;
}

static struct sight see(const struct vgpu_slot *slot, uint32_t device) {
    const struct vgpu_use *use = &slot->use[device];
    return (struct sight){.owner = vgpu_load_acquire(&slot->owner),
                          .charged = vgpu_load_seq_cst(&use->charged_bytes),
                          .allocations = vgpu_load_relaxed(&use->allocations),
                          .device = device};
}

static bool is_same(const struct sight *a, const struct sight *b) {
    return a->owner == b->owner && a->charged == b->charged && a->allocations == b->allocations &&
           a->device == b->device;
}

/* `before`: as the process stood before NVML was asked. */
static void correct(struct vgpu_slot *slot, uint32_t device, const struct sight *before,
                    uint64_t listed, struct sight *last) {
    struct vgpu_use *use = &slot->use[device];
    struct sight now = see(slot, device);
    now.nvml = listed;
    now.since_ns = vgpu_now_ns();
    if (is_same(&now, last) && last->nvml == listed) now.since_ns = last->since_ns;
    *last = now;
    if (!is_same(&now, before)) return; /* moved meanwhile: not comparable */
    int64_t drift = (int64_t)(listed - now.charged);
    /* Managed memory is charged in full and need not lie on the card. */
    if (drift < 0 && vgpu_load_relaxed(&use->managed_bytes)) drift = 0;
    if (drift >= vgpu_load_relaxed(&use->drift_bytes) || vgpu_now_ns() - now.since_ns >= STEADY_NS)
        vgpu_store_relaxed(&use->drift_bytes, drift);
}

static void look(struct vgpu_region *region, uint32_t device, struct sight *last) {
    static struct sight before[VGPU_MAX_SLOTS];
    struct vgpu_nvml_list list;
    nvmlDevice_t card;
    if (!find_card(&region->devices[device], &card)) return;
    uint32_t slots = vgpu_load_acquire(&region->header.slots_used);
    if (slots > VGPU_MAX_SLOTS) slots = VGPU_MAX_SLOTS;
    for (uint32_t i = 0; i < slots; i++) before[i] = see(&region->slots[i], device);
    if (vgpu_nvml_list_read(&list, (vgpu_nvml_query *)REAL(nvmlDeviceGetComputeRunningProcesses_v3),
                            card, sizeof(nvmlProcessInfo_t)) != NVML_SUCCESS)
        return;
    for (uint32_t i = 0; i < slots; i++) {
        uint64_t listed = 0;
        bool is_listed = false;
        if (vgpu_slot_state(before[i].owner) != VGPU_SLOT_LIVE) continue;
        for (unsigned int k = 0; k < list.count; k++) {
            if (vgpu_nvml_list_pid(&list, k) != vgpu_slot_pid(before[i].owner)) continue;
            listed += vgpu_nvml_list_used(&list, k);
            is_listed = true;
        }
        /* Not listed: it has no context yet, or NVML counts in another pid namespace. */
        if (is_listed) correct(&region->slots[i], device, &before[i], listed, &last[i]);
    }
    vgpu_nvml_list_free(&list);
}

void vgpu_audit_alone(struct vgpu_session *session, uint32_t device) {
    const struct vgpu_header *header = &session->region->header;
    uint32_t idle = 0;
    if (!vgpu_load_relaxed(&header->audit) || vgpu_audit_supervised(header) ||
        !vgpu_cas_acq_rel(&busy, &idle, 1U))
        return;
    uint64_t now = vgpu_now_ns();
    if (nvml != ABSENT && now - looked_ns[session->depth] >= VGPU_AUDIT_AGE_NS) {
        look(session->region, device, sights[session->depth]);
        looked_ns[session->depth] = vgpu_now_ns();
    }
    vgpu_store_release(&busy, 0U);
}
