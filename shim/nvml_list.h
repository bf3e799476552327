/* NVML's list of the processes on a card, whole, in whichever of its three forms. */
#ifndef VGPU_NVML_LIST_H
#define VGPU_NVML_LIST_H

#include <stddef.h>
#include <stdint.h>

#include "nvml_abi.h"

/* nvmlDeviceGet…RunningProcesses, any version. */
typedef nvmlReturn_t vgpu_nvml_query(nvmlDevice_t device, unsigned int *count, void *list);

struct vgpu_nvml_list {
    unsigned char *bytes;
    unsigned int count;
    size_t stride; /* bytes from one element to the next */
};

/* `declared`: the size of the query's element by the header. Returns NVML's code; on success the
 * list is to be freed. */
nvmlReturn_t vgpu_nvml_list_read(struct vgpu_nvml_list *list, vgpu_nvml_query *query,
                                 nvmlDevice_t device, size_t declared);
void vgpu_nvml_list_free(struct vgpu_nvml_list *list);

uint32_t vgpu_nvml_list_pid(const struct vgpu_nvml_list *list, unsigned int index);

/* Bytes on the card; 0 if NVML does not know. */
uint64_t vgpu_nvml_list_used(const struct vgpu_nvml_list *list, unsigned int index);

#endif
