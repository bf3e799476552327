/* vgpu-probe: what a bare context costs on each visible GPU, and how its SMs can be given out. One
 * line for each:
 *     UUID DRIVER CONTEXT_BYTES SMS GROUP_SMS GROUPS
 * (GROUPS 0: the driver has no green contexts.)
 * The figure is what NVML lists for this process once its primary context exists and nothing else.
 * In a container NVML may not list us by our own pid; then it is what the card's use grew by. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_abi.h"
#include "nvml_abi.h"

#define MAX_PROCESSES 1024
#define MAX_GROUPS 256

static void *cuda, *nvml;

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (found) return found;
    fprintf(stderr, "%s is missing\n", name);
    exit(1);
}

#define CUDA(name) ((typeof(&name))symbol(cuda, #name))
#define NVML(name) ((typeof(&name))symbol(nvml, #name))

static void *open_library(const char *name) {
    void *library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (library) return library;
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
}

static void format_uuid(const CUuuid *uuid, char text[64]) {
    char *at = text + sprintf(text, "GPU-");
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) *at++ = '-';
        at += sprintf(at, "%02x", (unsigned char)uuid->bytes[i]);
    }
}

/* Elements of _v3 are 24 bytes, on R535 drivers 32; pid and memory lead in both. */
static unsigned long long own_memory(nvmlDevice_t device) {
    static nvmlProcessInfo_r535_t room[MAX_PROCESSES];
    memset(room, 0xa5, sizeof room);
    unsigned int count = MAX_PROCESSES;
    if (NVML(nvmlDeviceGetComputeRunningProcesses_v3)(device, &count, (nvmlProcessInfo_t *)room) ||
        count == 0)
        return 0;
    const unsigned char *bytes = (const unsigned char *)room;
    size_t written = sizeof room;
    while (written > 0 && bytes[written - 1] == 0xa5) written--;
    size_t stride = (written + count - 1) / count > 24 ? 32 : 24;
    for (unsigned int i = 0; i < count; i++) {
        nvmlProcessInfo_v1_t entry;
        memcpy(&entry, bytes + i * stride, sizeof entry);
        if (entry.pid == (unsigned int)getpid() && entry.usedGpuMemory != NVML_VALUE_NOT_AVAILABLE)
            return entry.usedGpuMemory;
    }
    return 0;
}

static unsigned long long card_used(nvmlDevice_t device) {
    nvmlMemory_t memory = {0};
    return NVML(nvmlDeviceGetMemoryInfo)(device, &memory) == NVML_SUCCESS ? memory.used : 0;
}

/* The groups that every process will split the card into: the smallest that the chip allows. */
static void print_split(CUdevice device) {
    static CUdevResource card, groups[MAX_GROUPS];
    unsigned int count = MAX_GROUPS;
    int sms = 0;
    typeof(&cuDeviceGetDevResource) get = dlsym(cuda, "cuDeviceGetDevResource");
    typeof(&cuDevSmResourceSplitByCount) split = dlsym(cuda, "cuDevSmResourceSplitByCount");
    CUDA(cuDeviceGetAttribute)(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    if (!get || !split || get(device, &card, CU_DEV_RESOURCE_TYPE_SM) != CUDA_SUCCESS ||
        split(groups, &count, &card, NULL, 0, 1) != CUDA_SUCCESS || count == 0)
        printf(" %d 0 0\n", sms);
    else printf(" %d %u %u\n", sms, groups[0].sm.smCount, count);
}

static bool probe(CUdevice device, const char *driver) {
    CUuuid uuid;
    char text[64];
    nvmlDevice_t handle;
    CUcontext context;
    if (CUDA(cuDeviceGetUuid)(&uuid, device) != CUDA_SUCCESS) return false;
    format_uuid(&uuid, text);
    if (NVML(nvmlDeviceGetHandleByUUID)(text, &handle) != NVML_SUCCESS) return false;
    unsigned long long before = card_used(handle);
    if (CUDA(cuDevicePrimaryCtxRetain)(&context, device) != CUDA_SUCCESS) return false;
    if (CUDA(cuCtxSetCurrent)(context) != CUDA_SUCCESS) return false;
    unsigned long long bytes = own_memory(handle), after = card_used(handle);
    if (bytes == 0 && after > before) bytes = after - before;
    if (bytes == 0) return false;
    printf("%s %s %llu", text, driver, bytes);
    print_split(device);
    return true;
}

int main(void) {
    cuda = open_library("libcuda.so.1");
    nvml = open_library("libnvidia-ml.so.1");
    char driver[80] = "";
    int count = 0, learnt = 0;
    if (NVML(nvmlInit_v2)() != NVML_SUCCESS ||
        NVML(nvmlSystemGetDriverVersion)(driver, sizeof driver) != NVML_SUCCESS ||
        CUDA(cuInit)(0) != CUDA_SUCCESS || CUDA(cuDeviceGetCount)(&count) != CUDA_SUCCESS) {
        fputs("no usable driver\n", stderr);
        return 1;
    }
    for (int i = 0; i < count; i++) {
        CUdevice device;
        if (CUDA(cuDeviceGet)(&device, i) == CUDA_SUCCESS) learnt += probe(device, driver);
    }
    return learnt > 0 ? 0 : 1;
}
