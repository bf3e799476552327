/* NVML seen through the limit: a limited device looks like a card of that size on which only the
 * session runs. */
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "device.h"
#include "interpose.h"
#include "ledger.h"
#include "nvml_abi.h"
#include "slot.h"

VGPU_EXPORT nvmlReturn_t nvmlInit(void) {
    return vgpu_session_failed() ? NVML_ERROR_UNKNOWN : REAL(nvmlInit)();
}

VGPU_EXPORT nvmlReturn_t nvmlInit_v2(void) {
    return vgpu_session_failed() ? NVML_ERROR_UNKNOWN : REAL(nvmlInit_v2)();
}

VGPU_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    return vgpu_session_failed() ? NVML_ERROR_UNKNOWN : REAL(nvmlInitWithFlags)(flags);
}

struct view {
    const struct vgpu_region *region; /* NULL: no session, or no limit on this device */
    uint64_t limit, used;
};

/* The session's view of a device, found by its UUID: NVML's order and CUDA's differ. A device that
 * no process has used yet is not claimed for a query: it has the default limit. */
static struct view view_of(nvmlDevice_t device, uint64_t card_bytes) {
    struct view view = {0};
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

/* v1 has no "reserved": what others hold of the limit counts as used, as the driver does with its
 * own reserve. */
VGPU_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    nvmlReturn_t rc = REAL(nvmlDeviceGetMemoryInfo)(device, memory);
    if (rc != NVML_SUCCESS) return rc;
    struct view view = view_of(device, memory->total);
    if (!view.region) return rc;
    uint64_t left = view.limit - view.used;
    if (left < memory->free) memory->free = left;
    memory->total = view.limit;
    memory->used = memory->total - memory->free;
    return rc;
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    nvmlReturn_t rc = REAL(nvmlDeviceGetMemoryInfo_v2)(device, memory);
    if (rc != NVML_SUCCESS) return rc;
    struct view view = view_of(device, memory->total - memory->reserved);
    if (!view.region) return rc;
    uint64_t left = view.limit - view.used;
    if (left < memory->free) memory->free = left;
    memory->total = view.limit;
    memory->used = view.used;
    memory->reserved = memory->total - memory->used - memory->free;
    return rc;
}

/* --- Processes --- */

#define LARGEST_ELEMENT sizeof(nvmlProcessInfo_r535_t)
#define UNTOUCHED 0xa5

typedef nvmlReturn_t process_query(nvmlDevice_t device, unsigned int *count, void *list);

static bool in_session(const struct vgpu_region *region, uint32_t pid) {
    uint32_t slots = vgpu_load_acquire(&region->header.slots_used);
    for (uint32_t i = 0; i < slots && i < VGPU_MAX_SLOTS; i++) {
        uint64_t owner = vgpu_load_acquire(&region->slots[i].owner);
        if (vgpu_slot_state(owner) != VGPU_SLOT_FREE && vgpu_slot_pid(owner) == pid) return true;
    }
    return false;
}

/* Drivers of the 535 branch write 32-byte elements where the header says 24: look how far the
 * answer reaches into a marked buffer. */
static size_t element_size(const unsigned char *list, unsigned int count, size_t declared) {
    for (size_t i = count * declared; i < count * LARGEST_ELEMENT; i++)
        if (list[i] != UNTOUCHED) return LARGEST_ELEMENT;
    return declared;
}

/* The card's whole list, in memory to be freed; NULL if the driver fails (then *rc says how). */
static unsigned char *whole_list(process_query *real, nvmlDevice_t device, unsigned int *count,
                                 nvmlReturn_t *rc) {
    unsigned int room = 64;
    for (int attempt = 0; attempt < 4; attempt++) {
        /* Twice the room: an answer in larger elements than we think must not overrun it. */
        unsigned char *list = malloc(2 * room * LARGEST_ELEMENT);
        if (!list) break;
        memset(list, UNTOUCHED, 2 * room * LARGEST_ELEMENT);
        *count = room;
        *rc = real(device, count, list);
        if (*rc == NVML_SUCCESS) return list;
        free(list);
        if (*rc != NVML_ERROR_INSUFFICIENT_SIZE) return NULL;
        room = *count + 16; /* more may start meanwhile */
    }
    return NULL;
}

/* The session's own processes with the driver's figures. */
static nvmlReturn_t own_processes(process_query *real, nvmlDevice_t device, unsigned int *count,
                                  void *out, size_t declared) {
    struct view view = {0};
    if (count) view = view_of(device, 0);
    if (!view.region) return real(device, count, out);

    unsigned int all, own = 0;
    nvmlReturn_t rc = NVML_ERROR_UNKNOWN;
    unsigned char *list = whole_list(real, device, &all, &rc);
    if (!list) return rc;
    size_t size = declared == sizeof(nvmlProcessInfo_v1_t) ? declared
                                                           : element_size(list, all, declared);
    for (unsigned int i = 0; i < all; i++) {
        uint32_t pid; /* the first field of every version */
        memcpy(&pid, list + i * size, sizeof pid);
        if (in_session(view.region, pid)) memmove(list + own++ * size, list + i * size, size);
    }
    rc = NVML_SUCCESS;
    if (own > *count) rc = NVML_ERROR_INSUFFICIENT_SIZE;
    else if (own && !out) rc = NVML_ERROR_INVALID_ARGUMENT;
    else if (own) memcpy(out, list, own * size);
    if (rc != NVML_ERROR_INVALID_ARGUMENT) *count = own;
    free(list);
    return rc;
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device,
                                                              unsigned int *count,
                                                              nvmlProcessInfo_v1_t *list) {
    return own_processes((process_query *)REAL(nvmlDeviceGetComputeRunningProcesses), device, count,
                         list, sizeof *list);
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device,
                                                                 unsigned int *count,
                                                                 nvmlProcessInfo_v2_t *list) {
    return own_processes((process_query *)REAL(nvmlDeviceGetComputeRunningProcesses_v2), device,
                         count, list, sizeof *list);
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
                                                                 unsigned int *count,
                                                                 nvmlProcessInfo_t *list) {
    return own_processes((process_query *)REAL(nvmlDeviceGetComputeRunningProcesses_v3), device,
                         count, list, sizeof *list);
}
