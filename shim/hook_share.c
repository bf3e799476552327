/* Memory handed to other processes: thin wrappers, the thinking is in exports.c. */
#include "cuda_abi.h"
#include "exports.h"
#include "handles.h"
#include "interpose.h"

VGPU_EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle *out, CUdeviceptr address) {
    CUdeviceptr base = address;
    CUresult rc = REAL(cuIpcGetMemHandle)(out, address);
    if (rc != CUDA_SUCCESS || !vgpu_session_get()) return rc;
    CALL(cuMemGetAddressRange_v2)(&base, NULL, address);
    vgpu_exports_note(base);
    return rc;
}

VGPU_EXPORT CUresult cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle handle,
                                                  CUmemAllocationHandleType type,
                                                  unsigned long long flags) {
    CUresult rc = REAL(cuMemExportToShareableHandle)(out, handle, type, flags);
    if (rc == CUDA_SUCCESS && vgpu_session_get()) vgpu_handles_export(handle);
    return rc;
}
