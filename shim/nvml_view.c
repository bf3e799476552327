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
    uint32_t index = vgpu_device_find(session->region, uuid);
    view.limit = index == VGPU_NO_DEVICE ? session->region->header.default_mem_limit
                                         : vgpu_ledger_limit(session->region, index);
    if (view.limit == VGPU_NO_LIMIT) return view;
    if (card_bytes && view.limit > card_bytes) view.limit = card_bytes;
    if (index != VGPU_NO_DEVICE) view.used = vgpu_ledger_used(session->region, index);
    if (view.used > view.limit) view.used = view.limit;
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
