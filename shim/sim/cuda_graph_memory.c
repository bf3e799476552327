/* Memory that graphs allocate: one stock per device, kept after the graph until it is trimmed. */
#include "cuda_sim.h"

/* Addresses now, bytes at the first launch. */
CUresult graph_alloc(int device, size_t bytes, struct node *node, CUdeviceptr *pointer) {
    size_t size = (bytes + 2 * SIM_MIB - 1) & ~(size_t)(2 * SIM_MIB - 1);
    void *pages = size < bytes ? NULL : pages_new(size);
    struct range *range = pages ? range_add((uintptr_t)pages, size, RANGE_GRAPH) : NULL;
    if (!range) return CUDA_ERROR_OUT_OF_MEMORY;
    range->asked = bytes;
    range->device = device;
    node->alloc.bytesize = bytes;
    node->alloc.dptr = range->start;
    node->alloc.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    node->alloc.poolProps.location = (CUmemLocation){CU_MEM_LOCATION_TYPE_DEVICE, device};
    *pointer = range->start;
    return CUDA_SUCCESS;
}

/* Room for `bytes` more than what is in use. */
CUresult graph_reserve(int number, uint64_t bytes) {
    struct device *device = &sim_process.device[number];
    if (device->graph_used + bytes <= device->graph_reserved) return CUDA_SUCCESS;
    uint64_t more = device->graph_used + bytes - device->graph_reserved;
    if (!sim_take(sim_process.slot, device->card, more, 0)) return CUDA_ERROR_OUT_OF_MEMORY;
    device->graph_reserved += more;
    if (device->graph_reserved > device->graph_reserved_high)
        device->graph_reserved_high = device->graph_reserved;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGraphMemTrim(CUdevice number) {
    SIM_ENTER();
    CHECK(device_valid(number));
    struct device *device = &sim_process.device[number];
    device_look(number);
    if (device->graph_reserved > device->graph_used)
        sim_give(sim_process.slot, device->card, device->graph_reserved - device->graph_used, 0);
    device->graph_reserved = device->graph_used;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetGraphMemAttribute(CUdevice number, CUgraphMem_attribute attribute,
                                          void *out) {
    SIM_ENTER();
    CHECK(device_valid(number));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    struct device *device = &sim_process.device[number];
    device_look(number);
    switch (attribute) {
    case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT:
        *(cuuint64_t *)out = device->graph_used;
        break;
    case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH:
        *(cuuint64_t *)out = device->graph_used_high;
        break;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT:
        *(cuuint64_t *)out = device->graph_reserved;
        break;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH:
        *(cuuint64_t *)out = device->graph_reserved_high;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
API CUresult cuDeviceSetGraphMemAttribute(CUdevice number, CUgraphMem_attribute attribute,
                                          void *value) {
    SIM_ENTER();
    CHECK(device_valid(number));
    if (!value || *(const cuuint64_t *)value)
        return CUDA_ERROR_INVALID_VALUE; /* the marks can only start again */
    struct device *device = &sim_process.device[number];
    if (attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH) device->graph_used_high = device->graph_used;
    else if (attribute == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
        device->graph_reserved_high = device->graph_reserved;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
