/* NVML's lists of processes: inside a session they hold the session's own, with the driver's true
 * figures. */
#include <string.h>

#include "interpose.h"
#include "nvml_list.h"
#include "nvml_view.h"

/* The session's own processes with the driver's figures. */
static nvmlReturn_t own_processes(vgpu_nvml_query *real, nvmlDevice_t device, unsigned int *count,
                                  void *out, size_t declared) {
    struct vgpu_nvml_view view = {0};
    if (count) view = vgpu_nvml_view(device, 0);
    if (!view.region) return real(device, count, out);

    struct vgpu_nvml_list all;
    unsigned int own = 0;
    nvmlReturn_t rc = vgpu_nvml_list_read(&all, real, device, declared);
    if (rc != NVML_SUCCESS) return rc;
    for (unsigned int i = 0; i < all.count; i++)
        if (vgpu_nvml_in_session(view.region, vgpu_nvml_list_pid(&all, i)))
            memmove(all.bytes + own++ * all.stride, all.bytes + i * all.stride, all.stride);
    rc = NVML_SUCCESS;
    if (own > *count) rc = NVML_ERROR_INSUFFICIENT_SIZE;
    else if (own && !out) rc = NVML_ERROR_INVALID_ARGUMENT;
    else if (own) memcpy(out, all.bytes, own * all.stride);
    if (rc != NVML_ERROR_INVALID_ARGUMENT) *count = own;
    vgpu_nvml_list_free(&all);
    return rc;
}

#define PROCESSES(symbol, element)                                                                 \
    VGPU_EXPORT nvmlReturn_t symbol(nvmlDevice_t device, unsigned int *count, element *list) {     \
        return own_processes((vgpu_nvml_query *)REAL(symbol), device, count, list, sizeof *list);  \
    }
PROCESSES(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

/* The detail list carries its room and its answer in one structure. */
VGPU_EXPORT nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                               nvmlProcessDetailList_v1_t *list) {
    nvmlReturn_t rc = REAL(nvmlDeviceGetRunningProcessDetailList)(device, list);
    struct vgpu_nvml_view view = {0};
    if (rc == NVML_SUCCESS && list->procArray) view = vgpu_nvml_view(device, 0);
    if (!view.region) return rc;
    unsigned int own = 0;
    for (unsigned int i = 0; i < list->numProcArrayEntries; i++)
        if (vgpu_nvml_in_session(view.region, list->procArray[i].pid))
            list->procArray[own++] = list->procArray[i];
    list->numProcArrayEntries = own;
    return rc;
}

/* --- how busy they are, and what they used before --- */

/* What the driver has says nothing about room beyond the caller's, so its answer is thinned in
 * place: a caller that asks for the count first gets the card's, which is room enough. */
VGPU_EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                         nvmlProcessUtilizationSample_t *samples,
                                                         unsigned int *count,
                                                         unsigned long long since) {
    nvmlReturn_t rc = REAL(nvmlDeviceGetProcessUtilization)(device, samples, count, since);
    struct vgpu_nvml_view view = {0};
    if (rc == NVML_SUCCESS && samples) view = vgpu_nvml_view(device, 0);
    if (!view.region) return rc;
    unsigned int own = 0;
    for (unsigned int i = 0; i < *count; i++)
        if (vgpu_nvml_in_session(view.region, samples[i].pid)) samples[own++] = samples[i];
    *count = own;
    return own ? rc : NVML_ERROR_NOT_FOUND; /* as the driver says where nobody was busy */
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(
    nvmlDevice_t device, nvmlProcessesUtilizationInfo_v1_t *info) {
    nvmlReturn_t rc = REAL(nvmlDeviceGetProcessesUtilizationInfo)(device, info);
    struct vgpu_nvml_view view = {0};
    if (rc == NVML_SUCCESS && info->procUtilArray) view = vgpu_nvml_view(device, 0);
    if (!view.region) return rc;
    unsigned int own = 0;
    for (unsigned int i = 0; i < info->processSamplesCount; i++)
        if (vgpu_nvml_in_session(view.region, info->procUtilArray[i].pid))
            info->procUtilArray[own++] = info->procUtilArray[i];
    info->processSamplesCount = own;
    return own ? rc : NVML_ERROR_NOT_FOUND;
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count,
                                                     unsigned int *pids) {
    nvmlReturn_t rc = REAL(nvmlDeviceGetAccountingPids)(device, count, pids);
    struct vgpu_nvml_view view = {0};
    if (rc == NVML_SUCCESS && pids) view = vgpu_nvml_view(device, 0);
    if (!view.region) return rc;
    unsigned int own = 0;
    for (unsigned int i = 0; i < *count; i++)
        if (vgpu_nvml_in_session(view.region, pids[i])) pids[own++] = pids[i];
    *count = own;
    return rc;
}

VGPU_EXPORT nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid,
                                                      nvmlAccountingStats_t *stats) {
    struct vgpu_nvml_view view = vgpu_nvml_view(device, 0);
    if (view.region && !vgpu_nvml_in_session(view.region, pid)) return NVML_ERROR_NOT_FOUND;
    return REAL(nvmlDeviceGetAccountingStats)(device, pid, stats);
}
