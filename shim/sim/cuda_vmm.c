/* Virtual memory management: physical handles, address ranges, mappings. A handle's bytes are the
 * card's until its last reference and its last mapping are gone; neither contexts nor their end
 * matter to it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cuda_sim.h"

#define GRANULARITY ((size_t)(2 * SIM_MIB))

struct handle {
    struct object object;
    size_t size;
    unsigned int refs, maps;
    int device,
        fd; /* fd: -1 = a stretch of the common file; an exportable handle has a file of its own */
    off_t offset;
    uint64_t charged;
    CUmemAllocationProp prop;
};

struct mapping {
    struct mapping *next;
    struct handle *handle;
    uintptr_t start;
    size_t size;
    bool access;
};

/* All handles that are not exportable share one sparse file, so that thousands of them take one
 * descriptor. */
static int common = -1;
static off_t common_end;

static int file_new(off_t size) {
    int fd = (int)syscall(SYS_memfd_create, "vgpu-sim", 1U /* MFD_CLOEXEC */);
    if (fd >= 0 && ftruncate(fd, size)) {
        close(fd);
        return -1;
    }
    return fd;
}

static CUresult handle_find(CUmemGenericAllocationHandle value, struct handle **handle) {
    if (!object_is((void *)(uintptr_t)value, SIM_HANDLE)) return CUDA_ERROR_INVALID_VALUE;
    *handle = (struct handle *)(uintptr_t)value;
    return CUDA_SUCCESS;
}

static void handle_settle(struct handle *handle) {
    if (handle->refs || handle->maps) return;
    if (handle->charged)
        sim_give(sim_process.slot, sim_process.device[handle->device].card, handle->charged, 0);
    if (handle->fd >= 0) close(handle->fd);
    else
        fallocate(common, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, handle->offset,
                  (off_t)handle->size);
    object_drop(handle);
}

static bool on_host(CUmemLocationType type) {
    return type == CU_MEM_LOCATION_TYPE_HOST || type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
           type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
}

static CUresult prop_check(const CUmemAllocationProp *prop) {
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
    if (on_host(prop->location.type)) return CUDA_SUCCESS;
    return prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? device_valid(prop->location.id)
                                                              : CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuMemCreate(CUmemGenericAllocationHandle *out, size_t size,
                         const CUmemAllocationProp *prop, unsigned long long flags) {
    SIM_ENTER();
    if (!out || flags || !size || size % GRANULARITY || prop_check(prop))
        return CUDA_ERROR_INVALID_VALUE;
    if (prop->requestedHandleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    bool host = on_host(prop->location.type);
    int device = host ? 0 : prop->location.id;
    if (!host && !sim_take(sim_process.slot, sim_process.device[device].card, size, 0))
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct handle *handle = object_new(SIM_HANDLE, sizeof *handle);
    if (!handle) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = (struct handle){.object = handle->object,
                              .size = size,
                              .refs = 1,
                              .device = device,
                              .fd = -1,
                              .prop = *prop,
                              .charged = host ? 0 : size};
    if (prop->requestedHandleTypes) {
        handle->fd = file_new((off_t)size);
    } else {
        if (common < 0) common = file_new((off_t)1 << 50);
        handle->offset = common_end;
        common_end += (off_t)size;
    }
    *out = (CUmemGenericAllocationHandle)(uintptr_t)handle;
    return CUDA_SUCCESS;
}

API CUresult cuMemRelease(CUmemGenericAllocationHandle value) {
    SIM_ENTER();
    struct handle *handle;
    CHECK(handle_find(value, &handle));
    if (!handle->refs) return CUDA_ERROR_INVALID_VALUE;
    handle->refs--;
    handle_settle(handle);
    return CUDA_SUCCESS;
}

API CUresult cuMemGetAllocationGranularity(size_t *out, const CUmemAllocationProp *prop,
                                           CUmemAllocationGranularity_flags option) {
    SIM_ENTER();
    if (!out || (unsigned int)option > 1 || prop_check(prop)) return CUDA_ERROR_INVALID_VALUE;
    *out = GRANULARITY;
    return CUDA_SUCCESS;
}
API CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *out,
                                                    CUmemGenericAllocationHandle value) {
    SIM_ENTER();
    struct handle *handle;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(handle_find(value, &handle));
    *out = handle->prop;
    return CUDA_SUCCESS;
}

/* --- addresses --- */

API CUresult cuMemAddressReserve(CUdeviceptr *out, size_t size, size_t alignment, CUdeviceptr wish,
                                 unsigned long long flags) {
    SIM_ENTER();
    (void)wish;
    if (!out || flags || !size || size % GRANULARITY || alignment & (alignment - 1))
        return CUDA_ERROR_INVALID_VALUE;
    char *start = pages_new(size);
    if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
    mprotect(start, size, PROT_NONE);
    struct range *range = range_add((uintptr_t)start, size, RANGE_RESERVED);
    if (!range) return CUDA_ERROR_OUT_OF_MEMORY;
    range->mappings = NULL;
    *out = (CUdeviceptr)(uintptr_t)start;
    return CUDA_SUCCESS;
}

static struct range *reservation(CUdeviceptr pointer) {
    struct range *range = range_of((uintptr_t)pointer);
    return range && range->kind == RANGE_RESERVED ? range : NULL;
}

API CUresult cuMemAddressFree(CUdeviceptr pointer, size_t size) {
    SIM_ENTER();
    struct range *range = reservation(pointer);
    if (!range || range->start != pointer || range->size != size || range->mappings)
        return CUDA_ERROR_INVALID_VALUE;
    pages_drop(range->start, size);
    range_remove(range);
    return CUDA_SUCCESS;
}

API CUresult cuMemMap(CUdeviceptr pointer, size_t size, size_t offset,
                      CUmemGenericAllocationHandle value, unsigned long long flags) {
    SIM_ENTER();
    struct handle *handle;
    struct range *range = reservation(pointer);
    CHECK(handle_find(value, &handle));
    if (!range || flags || offset || size != handle->size || pointer % GRANULARITY ||
        pointer + size > range->start + range->size)
        return CUDA_ERROR_INVALID_VALUE;
    for (const struct mapping *other = range->mappings; other; other = other->next)
        if (other->start < pointer + size && pointer < other->start + other->size)
            return CUDA_ERROR_INVALID_VALUE;
    struct mapping *mapping = malloc(sizeof *mapping);
    if (!mapping) return CUDA_ERROR_OUT_OF_MEMORY;
    int fd = handle->fd >= 0 ? handle->fd : common;
    if (mmap((void *)(uintptr_t)pointer, size, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             fd, handle->offset) == MAP_FAILED) {
        free(mapping);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *mapping = (struct mapping){range->mappings, handle, (uintptr_t)pointer, size, false};
    range->mappings = mapping;
    handle->maps++;
    return CUDA_SUCCESS;
}

API CUresult cuMemSetAccess(CUdeviceptr pointer, size_t size, const CUmemAccessDesc *desc,
                            size_t count) {
    SIM_ENTER();
    struct range *range = reservation(pointer);
    if (!range || !desc || !count) return CUDA_ERROR_INVALID_VALUE;
    size_t covered = 0;
    for (struct mapping *mapping = range->mappings; mapping; mapping = mapping->next) {
        if (mapping->start < pointer || mapping->start + mapping->size > pointer + size) continue;
        mapping->access = desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ||
                          desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READ;
        mprotect((void *)mapping->start, mapping->size,
                 mapping->access ? PROT_READ | PROT_WRITE : PROT_NONE);
        covered += mapping->size;
    }
    return covered == size ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Whole mappings only. */
API CUresult cuMemUnmap(CUdeviceptr pointer, size_t size) {
    SIM_ENTER();
    struct range *range = reservation(pointer);
    if (!range) return CUDA_ERROR_INVALID_VALUE;
    size_t covered = 0;
    for (const struct mapping *mapping = range->mappings; mapping; mapping = mapping->next)
        if (mapping->start >= pointer && mapping->start + mapping->size <= pointer + size)
            covered += mapping->size;
    if (covered != size) return CUDA_ERROR_INVALID_VALUE;
    for (int i = 0; i < sim_process.devices; i++) /* an effect must not find its memory gone */
        for (const struct lane *lane = sim_process.lanes; lane; lane = lane->next)
            if (lane->card == sim_process.device[i].card && lane->effect_count) device_wait(i);
    for (struct mapping **link = &range->mappings; *link;) {
        struct mapping *mapping = *link;
        if (mapping->start < pointer || mapping->start + mapping->size > pointer + size) {
            link = &mapping->next;
            continue;
        }
        mmap((void *)mapping->start, mapping->size, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        *link = mapping->next;
        mapping->handle->maps--;
        handle_settle(mapping->handle);
        free(mapping);
    }
    return CUDA_SUCCESS;
}

bool vmm_piece(struct range *range, uintptr_t address, struct piece *piece) {
    for (const struct mapping *mapping = range->mappings; mapping; mapping = mapping->next)
        if (mapping->access && address >= mapping->start &&
            address < mapping->start + mapping->size) {
            *piece = (struct piece){range, mapping->start, mapping->size};
            return true;
        }
    return false;
}

API CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *out, void *address) {
    SIM_ENTER();
    struct range *range = reservation((CUdeviceptr)(uintptr_t)address);
    if (!out || !range) return CUDA_ERROR_INVALID_VALUE;
    for (struct mapping *mapping = range->mappings; mapping; mapping = mapping->next)
        if ((uintptr_t)address >= mapping->start &&
            (uintptr_t)address < mapping->start + mapping->size) {
            mapping->handle->refs++;
            *out = (CUmemGenericAllocationHandle)(uintptr_t)mapping->handle;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuMemGetAccess(unsigned long long *out, const CUmemLocation *location,
                            CUdeviceptr pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!out || !location || !reservation(pointer)) return CUDA_ERROR_INVALID_VALUE;
    *out = piece_find((uintptr_t)pointer, &piece) ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                  : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}

/* --- between processes: the handle's file itself. The importer is charged nothing; the exporter
 * pays while it lives. --- */

API CUresult cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle value,
                                          CUmemAllocationHandleType type,
                                          unsigned long long flags) {
    SIM_ENTER();
    struct handle *handle;
    CHECK(handle_find(value, &handle));
    if (!out || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || handle->fd < 0)
        return CUDA_ERROR_INVALID_VALUE;
    int fd = fcntl(handle->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    *(int *)out = fd;
    return CUDA_SUCCESS;
}
API CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *out, void *os_handle,
                                            CUmemAllocationHandleType type) {
    SIM_ENTER();
    struct stat info;
    int fd = (int)(intptr_t)os_handle;
    if (!out || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || fstat(fd, &info))
        return CUDA_ERROR_INVALID_VALUE;
    struct handle *handle = object_new(SIM_HANDLE, sizeof *handle);
    if (!handle) return CUDA_ERROR_OUT_OF_MEMORY;
    handle->size = (size_t)info.st_size;
    handle->refs = 1;
    handle->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    handle->prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    handle->prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    handle->prop.requestedHandleTypes = type;
    *out = (CUmemGenericAllocationHandle)(uintptr_t)handle;
    return CUDA_SUCCESS;
}
