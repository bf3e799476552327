/* Virtual memory management: cuMemCreate and what refers to it. The counting is in handles.c. */
#include "charge.h"
#include "context.h"
#include "exports.h"
#include "handles.h"
#include "interpose.h"

static void refund(struct vgpu_freed freed) {
    struct vgpu_session *session = freed.bytes ? vgpu_session_get() : NULL;
    if (!session) return;
    const struct vgpu_account account = vgpu_session_account(session, freed.device);
    if (freed.exported) vgpu_exports_refund_late(&account, freed.bytes);
    else vgpu_ledger_refund(&account, freed.bytes);
}

VGPU_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle *out, size_t bytes,
                                 const CUmemAllocationProp *properties, unsigned long long flags) {
    struct vgpu_place place = {0};
    if (out && bytes && properties && properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE)
        vgpu_context_on_device(&place, properties->location.id);
    if (!place.session) return REAL(cuMemCreate)(out, bytes, properties, flags);
    const struct vgpu_request request = {bytes, bytes, 0, "cuMemCreate"};
    CUresult rc = vgpu_charge(place.session, &place.account, &request);
    if (rc != CUDA_SUCCESS) return rc;
    rc = REAL(cuMemCreate)(out, bytes, properties, flags);
    if (rc != CUDA_SUCCESS) {
        vgpu_ledger_refund(&place.account, bytes);
        return rc;
    }
    vgpu_handles_put(*out, bytes, place.account.device);
    vgpu_ledger_allocated(&place.account);
    return rc;
}

VGPU_EXPORT CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *out, void *handle,
                                                    CUmemAllocationHandleType type) {
    CUresult rc = REAL(cuMemImportFromShareableHandle)(out, handle, type);
    /* The bytes are the exporter's charge. */
    if (rc == CUDA_SUCCESS && vgpu_session_get()) vgpu_handles_put(*out, 0, 0);
    return rc;
}

VGPU_EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *out, void *address) {
    CUresult rc = REAL(cuMemRetainAllocationHandle)(out, address);
    if (rc == CUDA_SUCCESS && vgpu_session_get())
        vgpu_handles_retain(*out, (uint64_t)(uintptr_t)address);
    return rc;
}

VGPU_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    struct vgpu_backing *backing = vgpu_session_get() ? vgpu_handles_release(handle) : NULL;
    CUresult rc = REAL(cuMemRelease)(handle);
    if (!backing) return rc;
    if (rc == CUDA_SUCCESS) refund(vgpu_handles_released(backing));
    else vgpu_handles_unrelease(handle, backing);
    return rc;
}

VGPU_EXPORT CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset,
                              CUmemGenericAllocationHandle handle, unsigned long long flags) {
    if (!vgpu_session_get()) return REAL(cuMemMap)(address, bytes, offset, handle, flags);
    struct vgpu_mapping *mapping = vgpu_handles_map(handle, address, bytes);
    CUresult rc = REAL(cuMemMap)(address, bytes, offset, handle, flags);
    if (rc == CUDA_SUCCESS) vgpu_handles_mapped(mapping);
    else refund(vgpu_handles_unmapped(mapping));
    return rc;
}

VGPU_EXPORT CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
    struct vgpu_mapping *mappings = vgpu_session_get() ? vgpu_handles_unmap(address, bytes) : NULL;
    CUresult rc = REAL(cuMemUnmap)(address, bytes);
    while (mappings) {
        struct vgpu_mapping *next = vgpu_handles_next(mappings);
        if (rc == CUDA_SUCCESS) refund(vgpu_handles_unmapped(mappings));
        else vgpu_handles_mapped(mappings);
        mappings = next;
    }
    return rc;
}
