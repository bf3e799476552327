/* What NVML tells of processes is the session's own, in every form that it has. Compiled twice by
 * memory_run.sh: with -DLIBRARY as an NVML on whose card this process and pid 1 are, and as the
 * program that asks it through the shim. */
#include "memory_check.h"

#include "../../shim/nvml_abi.h"

#ifdef LIBRARY

#define API __attribute__((visibility("default")))

API nvmlReturn_t nvmlInit_v2(void) { return NVML_SUCCESS; }
API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *out) {
    *out = (nvmlDevice_t)1;
    return index ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned int size) {
    (void)device;
    snprintf(out, size, "GPU-00000000-0000-0000-0000-000000000001");
    return NVML_SUCCESS;
}

static unsigned int pid_of(int i) { return i ? (unsigned int)getpid() : 1; }

#define LIST(symbol, element)                                                                      \
    API nvmlReturn_t symbol(nvmlDevice_t device, unsigned int *count, element *list) {             \
        unsigned int room = *count;                                                                \
        (void)device;                                                                              \
        *count = 2;                                                                                \
        if (room < 2) return NVML_ERROR_INSUFFICIENT_SIZE;                                         \
        for (int i = 0; i < 2; i++) list[i] = (element){.pid = pid_of(i), .usedGpuMemory = MiB};   \
        return NVML_SUCCESS;                                                                       \
    }
LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

API nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                       nvmlProcessDetailList_v1_t *list) {
    (void)device;
    for (int i = 0; i < 2; i++) list->procArray[i].pid = pid_of(i);
    list->numProcArrayEntries = 2;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                 nvmlProcessUtilizationSample_t *samples,
                                                 unsigned int *count, unsigned long long since) {
    (void)device, (void)since;
    for (int i = 0; i < 2 && samples; i++) samples[i].pid = pid_of(i);
    *count = 2;
    return samples ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}
API nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                       nvmlProcessesUtilizationInfo_v1_t *info) {
    (void)device;
    for (int i = 0; i < 2; i++) info->procUtilArray[i].pid = pid_of(i);
    info->processSamplesCount = 2;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count,
                                             unsigned int *pids) {
    (void)device;
    for (int i = 0; i < 2 && pids; i++) pids[i] = pid_of(i);
    *count = 2;
    return pids ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}
API nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid,
                                              nvmlAccountingStats_t *stats) {
    (void)device, (void)pid;
    stats->maxMemoryUsage = MiB;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar) {
    (void)device;
    *bar = (nvmlBAR1Memory_t){.bar1Total = 256 * GiB, .bar1Free = 200 * GiB, .bar1Used = 56 * GiB};
    return NVML_SUCCESS;
}

#else

static nvmlDevice_t card;

#define LISTED(symbol, element)                                                                    \
    do {                                                                                           \
        element list[4] = {{.pid = 0}};                                                            \
        unsigned int count = 4, none = 0;                                                          \
        equal((uint64_t)symbol(card, &count, list), NVML_SUCCESS, #symbol);                        \
        equal(count, 1, "one of two");                                                             \
        equal(list[0].pid, (uint64_t)getpid(), "the session's own");                               \
        equal(list[0].usedGpuMemory, MiB, "with the driver's figure");                             \
        equal((uint64_t)symbol(card, &none, NULL), NVML_ERROR_INSUFFICIENT_SIZE, "no room");       \
        equal(none, 1, "the count that it takes");                                                 \
    } while (0)

int main(void) {
    equal((uint64_t)nvmlInit_v2(), NVML_SUCCESS, "init");
    equal((uint64_t)nvmlDeviceGetHandleByIndex_v2(0, &card), NVML_SUCCESS, "the card");
    LISTED(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t);
    LISTED(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t);
    LISTED(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t);
    LISTED(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t);
    LISTED(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t);
    LISTED(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t);

    unsigned int own = (unsigned int)getpid(), count = 4, pids[4];
    nvmlProcessDetail_v1_t details[4];
    nvmlProcessDetailList_v1_t list = {.numProcArrayEntries = 4, .procArray = details};
    equal((uint64_t)nvmlDeviceGetRunningProcessDetailList(card, &list), NVML_SUCCESS, "details");
    check(list.numProcArrayEntries == 1 && details[0].pid == own, "of one", details[0].pid, own);

    nvmlProcessUtilizationSample_t samples[4];
    equal((uint64_t)nvmlDeviceGetProcessUtilization(card, samples, &count, 0), NVML_SUCCESS,
          "utilisation");
    check(count == 1 && samples[0].pid == own, "of one", samples[0].pid, own);
    nvmlProcessUtilizationInfo_v1_t infos[4];
    nvmlProcessesUtilizationInfo_v1_t all = {.processSamplesCount = 4, .procUtilArray = infos};
    equal((uint64_t)nvmlDeviceGetProcessesUtilizationInfo(card, &all), NVML_SUCCESS,
          "its newer form");
    check(all.processSamplesCount == 1 && infos[0].pid == own, "of one", infos[0].pid, own);

    count = 4;
    equal((uint64_t)nvmlDeviceGetAccountingPids(card, &count, pids), NVML_SUCCESS, "accounting");
    check(count == 1 && pids[0] == own, "of one", pids[0], own);
    nvmlAccountingStats_t stats = {0};
    equal((uint64_t)nvmlDeviceGetAccountingStats(card, own, &stats), NVML_SUCCESS, "our figures");
    equal(stats.maxMemoryUsage, MiB, "the driver's");
    equal((uint64_t)nvmlDeviceGetAccountingStats(card, 1, &stats), NVML_ERROR_NOT_FOUND,
          "not another's");

    nvmlBAR1Memory_t bar;
    equal((uint64_t)nvmlDeviceGetBAR1MemoryInfo(card, &bar), NVML_SUCCESS, "BAR1");
    equal(bar.bar1Total, 256 * GiB, "the aperture's own size");
    equal(bar.bar1Used, 0, "what others map is not told");
    equal(bar.bar1Free, 256 * GiB, "it adds up");
    return failures != 0;
}

#endif
