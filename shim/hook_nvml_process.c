/* NVML's lists of processes: inside a session they hold the session's own, with the driver's true
 * figures. */
#include <stdlib.h>
#include <string.h>

#include "interpose.h"
#include "nvml_view.h"

#define LARGEST_ELEMENT sizeof(nvmlProcessInfo_r535_t)
#define UNTOUCHED 0xa5

typedef nvmlReturn_t process_query(nvmlDevice_t device, unsigned int *count, void *list);

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
    struct vgpu_nvml_view view = {0};
    if (count) view = vgpu_nvml_view(device, 0);
    if (!view.region) return real(device, count, out);

    unsigned int all, own = 0;
    nvmlReturn_t rc = NVML_ERROR_UNKNOWN;
    unsigned char *list = whole_list(real, device, &all, &rc);
    if (!list) return rc;
    size_t size =
        declared == sizeof(nvmlProcessInfo_v1_t) ? declared : element_size(list, all, declared);
    for (unsigned int i = 0; i < all; i++) {
        uint32_t pid; /* the first field of every version */
        memcpy(&pid, list + i * size, sizeof pid);
        if (vgpu_nvml_in_session(view.region, pid))
            memmove(list + own++ * size, list + i * size, size);
    }
    rc = NVML_SUCCESS;
    if (own > *count) rc = NVML_ERROR_INSUFFICIENT_SIZE;
    else if (own && !out) rc = NVML_ERROR_INVALID_ARGUMENT;
    else if (own) memcpy(out, list, own * size);
    if (rc != NVML_ERROR_INVALID_ARGUMENT) *count = own;
    free(list);
    return rc;
}

#define PROCESSES(symbol, element)                                                                 \
    VGPU_EXPORT nvmlReturn_t symbol(nvmlDevice_t device, unsigned int *count, element *list) {     \
        return own_processes((process_query *)REAL(symbol), device, count, list, sizeof *list);    \
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
