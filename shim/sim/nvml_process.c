/* NVML: memory, the processes on a card, and how busy it is. */
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include "nvml_sim.h"

/* --- memory --- */

API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    const struct sim_model *model = sim_model();
    uint64_t taken = sim_taken(card);
    *out = (nvmlMemory_t){model->total + model->reserved, model->total - taken,
                          taken + model->reserved};
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    if (out->version != NVML_MEMORY_V2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const struct sim_model *model = sim_model();
    uint64_t taken = sim_taken(card);
    *out = (nvmlMemory_v2_t){NVML_MEMORY_V2, model->total + model->reserved, model->reserved,
                             model->total - taken, taken};
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    const uint64_t size = UINT64_C(256) << 30, used = 2 * SIM_MIB;
    *out = (nvmlBAR1Memory_t){size, size - used, used};
    return NVML_SUCCESS;
}

/* --- processes: those with a context --- */

struct process {
    int pid;
    uint64_t bytes;
    unsigned int percent;
};

static unsigned int processes(int card, struct process list[SIM_MAX_PROCS]) {
    struct sim_machine *machine = sim_machine();
    unsigned int count = 0;
    uint64_t now = sim_now();
    sim_lock(machine);
    sim_reap(machine);
    sim_advance(machine, card, now);
    for (int i = 0; i < machine->proc_end; i++) {
        const struct sim_proc *proc = &machine->proc[i];
        if (proc->pid && (proc->contexts[card] || proc->listed[card]))
            list[count++] = (struct process){proc->pid, proc->listed[card],
                                             sim_busy_percent(&proc->busy[card], now)};
    }
    sim_unlock(machine);
    return count;
}

/* *count: in how many fit, out how many there are. */
static nvmlReturn_t fill(nvmlDevice_t device, unsigned int *count, void *out, size_t stride,
                         bool any) {
    int card;
    struct process list[SIM_MAX_PROCS];
    CHECK(nvml_card(device, &card));
    if (!count || (*count && !out)) return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int found = any ? processes(card, list) : 0, room = *count;
    *count = found;
    if (found > room) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < found; i++) {
        nvmlProcessInfo_t info = {(unsigned int)list[i].pid, list[i].bytes, UINT32_MAX, UINT32_MAX};
        memcpy((char *)out + i * stride, &info, stride);
    }
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t d, unsigned int *n,
                                                      nvmlProcessInfo_v1_t *out) {
    return fill(d, n, out, sizeof *out, true);
}
API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t d, unsigned int *n,
                                                         nvmlProcessInfo_v2_t *out) {
    return fill(d, n, out, sizeof *out, true);
}
API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned int *n,
                                                         nvmlProcessInfo_t *out) {
    return fill(d, n, out, sizeof *out, true);
}
API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t d, unsigned int *n,
                                                       nvmlProcessInfo_v1_t *out) {
    return fill(d, n, out, sizeof *out, false);
}
API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t d, unsigned int *n,
                                                          nvmlProcessInfo_v2_t *out) {
    return fill(d, n, out, sizeof *out, false);
}
API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t d, unsigned int *n,
                                                          nvmlProcessInfo_t *out) {
    return fill(d, n, out, sizeof *out, false);
}
API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t d, unsigned int *n,
                                                         nvmlProcessInfo_v1_t *out) {
    return fill(d, n, out, sizeof *out, false);
}
API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t d, unsigned int *n,
                                                            nvmlProcessInfo_v2_t *out) {
    return fill(d, n, out, sizeof *out, false);
}
API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t d, unsigned int *n,
                                                            nvmlProcessInfo_t *out) {
    return fill(d, n, out, sizeof *out, false);
}
API nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *out, unsigned int size) {
    char path[40];
    CHECK(nvml_ready());
    if (!out || !size) return NVML_ERROR_INVALID_ARGUMENT;
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    if (!file) return NVML_ERROR_NOT_FOUND;
    size_t length = fread(out, 1, size - 1, file);
    fclose(file);
    out[length] = 0; /* arguments are separated by zeros: the first one is the name */
    return NVML_SUCCESS;
}

/* --- how busy --- */

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    struct sim_machine *machine = sim_machine();
    uint64_t now = sim_now();
    sim_lock(machine);
    sim_advance(machine, card, now);
    unsigned int percent = sim_busy_percent(&machine->card[card].busy, now);
    sim_unlock(machine);
    *out = (nvmlUtilization_t){percent, percent / 2};
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                 nvmlProcessUtilizationSample_t *out,
                                                 unsigned int *count, unsigned long long since) {
    int card;
    struct process list[SIM_MAX_PROCS];
    struct timeval t;
    CHECK(nvml_card(device, &card));
    if (!count) return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int found = processes(card, list), room = *count, busy = 0;
    gettimeofday(&t, NULL);
    unsigned long long now = (unsigned long long)t.tv_sec * 1000000 + (unsigned long long)t.tv_usec;
    for (unsigned int i = 0; i < found; i++) busy += list[i].percent > 0;
    *count = busy;
    if (!busy || since > now) return NVML_ERROR_NOT_FOUND;
    if (!out || room < busy) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned int i = 0, at = 0; i < found; i++)
        if (list[i].percent)
            out[at++] = (nvmlProcessUtilizationSample_t){
                (unsigned int)list[i].pid, now, list[i].percent, list[i].percent / 2, 0, 0};
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor,
                                          unsigned int *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (sensor || !out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = 40;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = 100000;
    return NVML_SUCCESS;
}
