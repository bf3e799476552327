/* cuGetProcAddress, exactly as drivers from 470 to 615 answer it, and the private tables that we do
 * not have. */
#include <stdio.h>
#include <string.h>

#include "cuda_sim.h"

/* The newest variant that the version allows. The name must be a base name: "cuMemAlloc", not
 * "cuMemAlloc_v2". */
static void *resolve(const char *name, int version, bool per_thread,
                     CUdriverProcAddressQueryResult *status) {
    void *found = NULL;
    int newest = 0;
    *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    for (const struct sim_name *entry = sim_names; entry->base; entry++) {
        if (strcmp(entry->base, name)) continue;
        if (entry->plain || entry->per_thread) {
            if (!found) *status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
        }
        int from = per_thread ? entry->per_thread : entry->plain;
        if (!from || from > version || from < newest) continue;
        newest = from;
        found = entry->address;
        *status = CU_GET_PROC_ADDRESS_SUCCESS;
    }
    return found;
}

API CUresult cuGetProcAddress_v2(const char *name, void **out, int version, cuuint64_t flags,
                                 CUdriverProcAddressQueryResult *status) {
    CUdriverProcAddressQueryResult result;
    if (!out || flags > 3 || version > SIM_DRIVER_VERSION) return CUDA_ERROR_INVALID_VALUE;
    *out = resolve(name, version, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &result);
    if (status) *status = result;
    return CUDA_SUCCESS;
}

API CUresult cuGetProcAddress(const char *name, void **out, int version, cuuint64_t flags) {
    CUdriverProcAddressQueryResult result;
    if (!out || flags > 3 || version > SIM_DRIVER_VERSION) return CUDA_ERROR_INVALID_VALUE;
    void *found =
        resolve(name, version, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &result);
    if (!found) return CUDA_ERROR_NOT_FOUND;
    *out = found;
    return CUDA_SUCCESS;
}

/* The CUDA runtime asks for private tables first. Without them it cannot start, and its own message
 * does not say why. */
API CUresult cuGetExportTable(const void **table, const CUuuid *id) {
    static int said;
    static const unsigned char runtime[][4] = {{0x6b, 0xd5, 0xfb, 0x6c}, {0xa0, 0x94, 0x79, 0x8c},
                                               {0x42, 0xd8, 0x5a, 0x81}, {0xc6, 0x93, 0x33, 0x6e},
                                               {0x26, 0x3e, 0x88, 0x60}, {0xd4, 0x08, 0x20, 0x55}};
    if (!table || !id) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < sizeof runtime / sizeof *runtime; i++)
        if (!memcmp(id->bytes, runtime[i], 4) && !__atomic_exchange_n(&said, 1, __ATOMIC_RELAXED))
            fputs("vgpu: the simulated GPU runs programs of the CUDA driver API; this one uses the "
                  "CUDA runtime, which needs "
                  "the real driver\n",
                  stderr);
    return CUDA_ERROR_NOT_SUPPORTED;
}
