/* NVML: initialisation and what a device is. PCI order; CUDA_VISIBLE_DEVICES does not matter here.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "nvml_sim.h"

static int users; /* initialised so many times */
static char handles[SIM_MAX_CARDS];

nvmlReturn_t nvml_ready(void) {
    return __atomic_load_n(&users, __ATOMIC_ACQUIRE) > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t nvml_card(nvmlDevice_t device, int *card) {
    CHECK(nvml_ready());
    for (int i = 0; i < sim_card_count(); i++)
        if ((char *)device == &handles[i]) {
            *card = i;
            return NVML_SUCCESS;
        }
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvml_text(char *out, unsigned int size, const char *text) {
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= size) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(out, text);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    if (!sim_machine()) return NVML_ERROR_DRIVER_NOT_LOADED;
    __atomic_add_fetch(&users, 1, __ATOMIC_ACQ_REL);
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }
API nvmlReturn_t nvmlShutdown(void) {
    CHECK(nvml_ready());
    __atomic_sub_fetch(&users, 1, __ATOMIC_ACQ_REL);
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlInternalGetExportTable(const void **table, const void *id) {
    (void)table, (void)id;
    return NVML_ERROR_NOT_SUPPORTED;
}

API const char *nvmlErrorString(nvmlReturn_t code) {
    switch ((int)code) {
    case NVML_SUCCESS:
        return "Success";
    case NVML_ERROR_UNINITIALIZED:
        return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
        return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
        return "Not Supported";
    case NVML_ERROR_NOT_FOUND:
        return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
        return "Argument version mismatch";
    default:
        return "Unknown Error";
    }
}

/* --- system --- */

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *out) {
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = SIM_DRIVER_VERSION;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *out) {
    return nvmlSystemGetCudaDriverVersion_v2(out);
}
API nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned int size) {
    CHECK(nvml_ready());
    return nvml_text(out, size, SIM_DRIVER_NAME);
}
API nvmlReturn_t nvmlSystemGetNVMLVersion(char *out, unsigned int size) {
    return nvml_text(out, size, "13." SIM_DRIVER_NAME);
}

/* --- handles --- */

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *out) {
    CHECK(nvml_ready());
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = (unsigned int)sim_card_count();
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetCount(unsigned int *out) { return nvmlDeviceGetCount_v2(out); }

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *out) {
    CHECK(nvml_ready());
    if (!out || index >= (unsigned int)sim_card_count()) return NVML_ERROR_INVALID_ARGUMENT;
    *out = (nvmlDevice_t)&handles[index];
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *out) {
    return nvmlDeviceGetHandleByIndex_v2(index, out);
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *out) {
    CHECK(nvml_ready());
    if (!uuid || !out) return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < sim_card_count(); i++) {
        char text[48];
        sim_card_uuid_text(i, text);
        if (!strcasecmp(uuid, text)) return nvmlDeviceGetHandleByIndex_v2((unsigned int)i, out);
    }
    return NVML_ERROR_NOT_FOUND;
}
API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *out) {
    unsigned int a, b, c, bus;
    CHECK(nvml_ready());
    if (!id || !out) return NVML_ERROR_INVALID_ARGUMENT;
    if (sscanf(id, "%x:%x:%x", &a, &b, &c) == 3) bus = b;
    else if (sscanf(id, "%x:%x", &a, &b) == 2) bus = a;
    else return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < sim_card_count(); i++)
        if (sim_card_bus(i) == bus) return nvmlDeviceGetHandleByIndex_v2((unsigned int)i, out);
    return NVML_ERROR_NOT_FOUND;
}
API nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *id, nvmlDevice_t *out) {
    return nvmlDeviceGetHandleByPciBusId_v2(id, out);
}

/* --- identity --- */

API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = (unsigned int)card;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *out) {
    return nvmlDeviceGetIndex(device, out);
}
API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned int size) {
    int card;
    char text[48];
    CHECK(nvml_card(device, &card));
    sim_card_uuid_text(card, text);
    return nvml_text(out, size, text);
}
API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned int size) {
    int card;
    CHECK(nvml_card(device, &card));
    return nvml_text(out, size, sim_model()->name);
}
API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    memset(out, 0, sizeof *out);
    out->bus = sim_card_bus(card);
    out->pciDeviceId = sim_model()->pci_device;
    snprintf(out->busIdLegacy, sizeof out->busIdLegacy, "0000:%02X:00.0", out->bus & 255);
    snprintf(out->busId, sizeof out->busId, "00000000:%02X:00.0", out->bus & 255);
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_v1_t *out) {
    nvmlPciInfo_t info;
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    CHECK(nvmlDeviceGetPciInfo_v3(device, &info));
    memset(out, 0, sizeof *out);
    memcpy(out->busId, info.busIdLegacy, sizeof out->busId);
    out->bus = info.bus;
    out->pciDeviceId = info.pciDeviceId;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_v1_t *out) {
    return nvmlDeviceGetPciInfo_v2(device, out);
}

API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!major || !minor) return NVML_ERROR_INVALID_ARGUMENT;
    *major = (int)sim_model()->major;
    *minor = (int)sim_model()->minor;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = sim_model()->sms * sim_model()->cores_per_sm;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, unsigned int *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = 0;
    return NVML_SUCCESS;
}

/* --- MIG: none --- */

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current,
                                      unsigned int *pending) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!current || !pending) return NVML_ERROR_INVALID_ARGUMENT;
    *current = *pending = 0;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *out) {
    int card;
    CHECK(nvml_card(device, &card));
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = 0;
    return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *out) {
    return nvmlDeviceIsMigDeviceHandle(device, out);
}
API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                     nvmlDevice_t *out) {
    int card;
    (void)index, (void)out;
    CHECK(nvml_card(device, &card));
    return NVML_ERROR_NOT_SUPPORTED;
}
