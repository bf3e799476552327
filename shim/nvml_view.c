#include "nvml_view.h"

#include "atomics.h"
#include "device.h"
#include "interpose.h"
#include "ledger.h"
#include "session.h"
#include "slot.h"

struct vgpu_nvml_view vgpu_nvml_view(nvmlDevice_t device, uint64_t card_bytes) {
    struct vgpu_nvml_view view = {0};
    struct vgpu_session *session = vgpu_session_get();
    char text[NVML_DEVICE_NAME_BUFFER_SIZE];
    uint8_t uuid[16];
    if (!session || CALL(nvmlDeviceGetUUID)(device, text, sizeof text) != NVML_SUCCESS ||
        !vgpu_device_parse_uuid(text, uuid))
        return view;
    uint64_t left = card_bytes ? card_bytes : VGPU_NO_LIMIT;
    view.limit = left;
    bool limited = false;
    for (const struct vgpu_session *at = session; at; at = at->outer) {
        uint32_t index = vgpu_device_find(at->region, uuid);
        bool known = index != VGPU_NO_DEVICE;
        uint64_t limit =
            known ? vgpu_ledger_limit(at->region, index) : at->region->header.default_mem_limit;
        if (limit == VGPU_NO_LIMIT) continue;
        limited = true;
        uint64_t used = known ? vgpu_ledger_used(at->region, index) : 0;
        uint64_t left_here = used < limit ? limit - used : 0;
        if (limit < view.limit) view.limit = limit;
        if (left_here < left) left = left_here;
    }
    if (!limited) return view;
    view.used = left < view.limit ? view.limit - left : 0;
    view.region = session->region;
    return view;
}

bool vgpu_nvml_in_session(const struct vgpu_region *region, uint32_t pid) {
    uint32_t slots = vgpu_load_acquire(&region->header.slots_used);
    for (uint32_t i = 0; i < slots && i < VGPU_MAX_SLOTS; i++) {
        uint64_t owner = vgpu_load_acquire(&region->slots[i].owner);
        if (vgpu_slot_state(owner) != VGPU_SLOT_FREE && vgpu_slot_pid(owner) == pid) return true;
    }
    return false;
}
