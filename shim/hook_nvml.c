/* NVML seen through the limit: a limited device looks like a card of that size on which only the
 * session runs. */
#include "interpose.h"
#include "nvml_view.h"
#include "session.h"

VGPU_EXPORT nvmlReturn_t nvmlInit(void) {
    return vgpu_session_failed() ? NVML_ERROR_UNKNOWN : REAL(nvmlInit)();
}

VGPU_EXPORT nvmlReturn_t nvmlInit_v2(void) {
    return vgpu_session_failed() ? NVML_ERROR_UNKNOWN : REAL(nvmlInit_v2)();
}

VGPU_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    return vgpu_session_failed() ? NVML_ERROR_UNKNOWN : REAL(nvmlInitWithFlags)(flags);
}

/* v1 has no "reserved": what others hold of the limit counts as used, as the driver does with its
 * own reserve. */
VGPU_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    nvmlReturn_t rc = REAL(nvmlDeviceGetMemoryInfo)(device, memory);
    if (rc != NVML_SUCCESS) return rc;
    struct vgpu_nvml_view view = vgpu_nvml_view(device, memory->total);
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
    struct vgpu_nvml_view view = vgpu_nvml_view(device, memory->total - memory->reserved);
    if (!view.region) return rc;
    uint64_t left = view.limit - view.used;
    if (left < memory->free) memory->free = left;
    memory->total = view.limit;
    memory->used = view.used;
    memory->reserved = memory->total - memory->used - memory->free;
    return rc;
}

/* BAR1 is an aperture, not memory: its size stays. How much of it is mapped tells what all users of
 * the card do. */
VGPU_EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar) {
    nvmlReturn_t rc = REAL(nvmlDeviceGetBAR1MemoryInfo)(device, bar);
    if (rc != NVML_SUCCESS) return rc;
    struct vgpu_nvml_view view = vgpu_nvml_view(device, 0);
    if (!view.region || bar->bar1Used <= view.used) return rc;
    bar->bar1Used = view.used;
    bar->bar1Free = bar->bar1Total - bar->bar1Used;
    return rc;
}

static nvmlReturn_t limited_attributes(nvmlReturn_t rc, nvmlDevice_t device,
                                       nvmlDeviceAttributes_t *attributes) {
    if (rc != NVML_SUCCESS) return rc;
    struct vgpu_nvml_view view = vgpu_nvml_view(device, attributes->memorySizeMB << 20);
    if (view.region) attributes->memorySizeMB = view.limit >> 20;
    return rc;
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *out) {
    return limited_attributes(REAL(nvmlDeviceGetAttributes)(device, out), device, out);
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device,
                                                    nvmlDeviceAttributes_t *out) {
    return limited_attributes(REAL(nvmlDeviceGetAttributes_v2)(device, out), device, out);
}

/* Driver 615's own limits: what they hold is not published. A limited session neither reads the
 * card's nor sets any. */
VGPU_EXPORT nvmlReturn_t nvmlDeviceGetMemoryLimits_v1(nvmlDevice_t device, void *limits) {
    struct vgpu_nvml_view view = vgpu_nvml_view(device, 0);
    return view.region ? NVML_ERROR_NOT_SUPPORTED
                       : REAL(nvmlDeviceGetMemoryLimits_v1)(device, limits);
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, void *limits) {
    struct vgpu_nvml_view view = vgpu_nvml_view(device, 0);
    return view.region ? NVML_ERROR_NO_PERMISSION
                       : REAL(nvmlDeviceSetMemoryLimits_v1)(device, limits);
}
