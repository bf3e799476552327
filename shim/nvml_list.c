#include "nvml_list.h"

#include <stdlib.h>
#include <string.h>

#define LARGEST_ELEMENT sizeof(nvmlProcessInfo_r535_t)
#define UNTOUCHED 0xa5

_Static_assert(offsetof(nvmlProcessInfo_t, pid) == 0, "in every form");
_Static_assert(offsetof(nvmlProcessInfo_t, usedGpuMemory) == 8, "in every form");
_Static_assert(offsetof(nvmlProcessInfo_v1_t, usedGpuMemory) == 8, "in every form");

/* Drivers of the 535 branch write 32-byte elements where the header says 24: look how far the
 * answer reaches into a marked buffer. */
static size_t element_size(const unsigned char *list, unsigned int count, size_t declared) {
    if (declared == sizeof(nvmlProcessInfo_v1_t)) return declared;
    for (size_t i = count * declared; i < count * LARGEST_ELEMENT; i++)
        if (list[i] != UNTOUCHED) return LARGEST_ELEMENT;
    return declared;
}

nvmlReturn_t vgpu_nvml_list_read(struct vgpu_nvml_list *list, vgpu_nvml_query *query,
                                 nvmlDevice_t device, size_t declared) {
    unsigned int room = 64;
    nvmlReturn_t rc = NVML_ERROR_UNKNOWN;
    for (int attempt = 0; attempt < 4; attempt++) {
        /* Twice the room: an answer in larger elements than we think must not overrun it. */
        list->bytes = malloc(2 * room * LARGEST_ELEMENT);
        if (!list->bytes) return NVML_ERROR_MEMORY;
        memset(list->bytes, UNTOUCHED, 2 * room * LARGEST_ELEMENT);
        list->count = room;
        rc = query(device, &list->count, list->bytes);
        list->stride = element_size(list->bytes, list->count < room ? list->count : room, declared);
        if (rc == NVML_SUCCESS) return rc;
        vgpu_nvml_list_free(list);
        if (rc != NVML_ERROR_INSUFFICIENT_SIZE) return rc;
        room = list->count + 16; /* more may start meanwhile */
    }
    return rc;
}

void vgpu_nvml_list_free(struct vgpu_nvml_list *list) { free(list->bytes); }

uint32_t vgpu_nvml_list_pid(const struct vgpu_nvml_list *list, unsigned int index) {
    uint32_t pid;
    memcpy(&pid, list->bytes + index * list->stride, sizeof pid);
    return pid;
}

uint64_t vgpu_nvml_list_used(const struct vgpu_nvml_list *list, unsigned int index) {
    uint64_t bytes;
    memcpy(&bytes, list->bytes + index * list->stride + 8, sizeof bytes);
    return bytes == UINT64_MAX ? 0 : bytes;
}
