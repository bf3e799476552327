/* Devices: the region keys them by UUID, since ordinals differ with CUDA_VISIBLE_DEVICES and
 * between CUDA and NVML. An entry is filled by the supervisor or claimed by the first process that
 * meets the card; it never moves. */
#ifndef VGPU_DEVICE_H
#define VGPU_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "cuda_abi.h"
#include "region.h"
#include "session.h"

/* Index of the entry with this UUID, or VGPU_NO_DEVICE. */
uint32_t vgpu_device_find(const struct vgpu_region *region, const uint8_t uuid[16]);

/* Index of the entry with this UUID, claimed with the session's default limits if there is none.
 * VGPU_NO_DEVICE if all entries are taken. Waits at most a few tens of ms, and only for a claimer
 * that was interrupted in the middle of its few stores. */
uint32_t vgpu_device_claim(struct vgpu_region *region, uint32_t pid, const uint8_t uuid[16]);

/* Index of a CUDA device, VGPU_NO_DEVICE if the driver does not know it. One load once known. */
uint32_t vgpu_device_index(struct vgpu_session *session, CUdevice ordinal);

/* What a context costs on the device, by the table learnt beforehand. */
uint64_t vgpu_device_context_bytes(const struct vgpu_region *region, uint32_t index);

/* "GPU-8-4-4-4-12" or "MIG-…" as bytes; false for anything else (also "MIG-GPU-…/1/0"). */
bool vgpu_device_parse_uuid(const char *text, uint8_t uuid[16]);

#endif
