/* What the driver says about memory, seen through the limit. A device without one is passed through
 * untouched. */
#include "context.h"
#include "device.h"
#include "interpose.h"

struct view {
    bool limited;
    uint64_t total, left;
};

static struct view view_of(const struct vgpu_place *place) {
    struct view view = {0};
    if (!place->session) return view;
    view.total = vgpu_account_limit(&place->account);
    view.left = vgpu_account_left(&place->account);
    view.limited = view.total != VGPU_NO_LIMIT;
    return view;
}

/* The current context's device. Asking must not charge anything. */
static struct view current_view(void) {
    struct vgpu_place place = {0};
    CUdevice ordinal;
    if (vgpu_session_get() && CALL(cuCtxGetDevice)(&ordinal) == CUDA_SUCCESS)
        vgpu_context_on_device(&place, ordinal);
    return view_of(&place);
}

VGPU_EXPORT CUresult cuMemGetInfo_v2(size_t *left, size_t *total) {
    CUresult rc = REAL(cuMemGetInfo_v2)(left, total);
    if (rc != CUDA_SUCCESS) return rc;
    struct view view = current_view();
    if (view.limited && total) *total = view.total;
    if (view.limited && left && view.left < *left) *left = view.left;
    return rc;
}

static unsigned int saturate(uint64_t bytes) {
    return bytes < UINT32_MAX ? (unsigned int)bytes : UINT32_MAX;
}

VGPU_EXPORT CUresult cuMemGetInfo(unsigned int *left, unsigned int *total) {
    CUresult rc = REAL(cuMemGetInfo)(left, total);
    if (rc != CUDA_SUCCESS) return rc;
    struct view view = current_view();
    if (view.limited && total) *total = saturate(view.total);
    if (view.limited && left && view.left < *left) *left = saturate(view.left);
    return rc;
}

static struct view device_view(CUdevice device) {
    struct vgpu_place place;
    vgpu_context_on_device(&place, device);
    return view_of(&place);
}

VGPU_EXPORT CUresult cuDeviceTotalMem_v2(size_t *total, CUdevice device) {
    CUresult rc = REAL(cuDeviceTotalMem_v2)(total, device);
    if (rc != CUDA_SUCCESS || !total) return rc;
    struct view view = device_view(device);
    if (view.limited) *total = view.total;
    return rc;
}

VGPU_EXPORT CUresult cuDeviceTotalMem(unsigned int *total, CUdevice device) {
    CUresult rc = REAL(cuDeviceTotalMem)(total, device);
    if (rc != CUDA_SUCCESS || !total) return rc;
    struct view view = device_view(device);
    if (view.limited) *total = saturate(view.total);
    return rc;
}
