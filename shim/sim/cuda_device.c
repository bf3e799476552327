/* What a device is: identity, attributes, memory size. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "cuda_sim.h"

API CUresult cuDeviceGetCount(int *out) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = sim_process.devices;
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGet(CUdevice *out, int ordinal) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(device_valid(ordinal));
    *out = ordinal;
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetName(char *out, int size, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out || size < 1) return CUDA_ERROR_INVALID_VALUE;
    snprintf(out, (size_t)size, "%s", sim_model()->name);
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetUuid_v2(CUuuid *out, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    sim_card_uuid(sim_process.device[device].card, (unsigned char *)out->bytes);
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetUuid(CUuuid *out, CUdevice device) {
    return cuDeviceGetUuid_v2(out, device);
}

API CUresult cuDeviceTotalMem_v2(size_t *out, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = sim_model()->total;
    return CUDA_SUCCESS;
}
/* The 32-bit one saturates. */
API CUresult cuDeviceTotalMem(unsigned int *out, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = sim_model()->total > UINT32_MAX ? UINT32_MAX : (unsigned int)sim_model()->total;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetPCIBusId(char *out, int size, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out || size < 13) return CUDA_ERROR_INVALID_VALUE;
    snprintf(out, (size_t)size, "0000:%02X:00.0", sim_card_bus(sim_process.device[device].card));
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetByPCIBusId(CUdevice *out, const char *id) {
    SIM_ENTER();
    unsigned int a, b, c, bus;
    if (!out || !id) return CUDA_ERROR_INVALID_VALUE;
    if (sscanf(id, "%x:%x:%x", &a, &b, &c) == 3) bus = b;
    else if (sscanf(id, "%x:%x", &a, &b) == 2) bus = a;
    else return CUDA_ERROR_INVALID_VALUE;
    for (int i = 0; i < sim_process.devices; i++)
        if (sim_card_bus(sim_process.device[i].card) == bus) {
            *out = i;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_DEVICE;
}
API CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!major || !minor) return CUDA_ERROR_INVALID_VALUE;
    *major = (int)sim_model()->major;
    *minor = (int)sim_model()->minor;
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetProperties(CUdevprop *out, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = (CUdevprop){1024,
                       {1024, 1024, 64},
                       {0x7fffffff, 65535, 65535},
                       49152,
                       65536,
                       32,
                       0x7fffffff,
                       65536,
                       (int)sim_model()->clock_khz,
                       512};
    return CUDA_SUCCESS;
}

static int attribute(const struct sim_model *m, int card, int which) {
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
        return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
        return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
        return 0x7fffffff;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
        return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
        return 49152;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
        return 65536;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        return 32;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
        return 0x7fffffff;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
        return 65536;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        return (int)m->clock_khz;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
        return 512;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        return (int)m->sms;
    case CU_DEVICE_ATTRIBUTE_ECC_ENABLED:
        return m->bus_bits >= 5120; /* the HBM cards */
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        return (int)sim_card_bus(card);
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        return (int)m->memory_khz;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        return (int)m->bus_bits;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        return (int)m->l2_bytes;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        return (int)m->threads_per_sm;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
        return 3;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT:
        return 32;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        return (int)m->major;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        return (int)m->minor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
        return (int)m->shared_per_sm;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        return (int)m->shared_optin;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
        return (int)m->blocks_per_sm;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
        return 1024;
    case CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES:
        return 0; /* pools cannot be exported here */
    case 133:     /* MPS */
        return sim_machine()->proc[sim_process.slot].server != 0;
    case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH:
        return m->major >= 9;
    case CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT:
        return m->major >= 9 ? 4 : 1;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS:
        return 1;
    case 91:  /* registered memory has one address */
    case 122: /* 64-bit stream memory operations */
    case 123: /* their NOR form */
        return 1;
    case 134: /* NUMA node of the host */
        return 0;
    default:
        return 0;
    }
}
API CUresult cuDeviceGetAttribute(int *out, CUdevice_attribute which, CUdevice device) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out || (int)which < 1 || (int)which > 147) return CUDA_ERROR_INVALID_VALUE;
    *out = attribute(sim_model(), sim_process.device[device].card, (int)which);
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetP2PAttribute(int *out, CUdevice_P2PAttribute which, CUdevice from,
                                     CUdevice to) {
    SIM_ENTER();
    CHECK(device_valid(from));
    CHECK(device_valid(to));
    if (!out || !which || which > 5) return CUDA_ERROR_INVALID_VALUE;
    *out = which == 1 ? 0 : from != to;
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetExecAffinitySupport(int *out, CUexecAffinityType type, CUdevice device) {
    SIM_ENTER();
    (void)type;
    CHECK(device_valid(device));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = 0;
    return CUDA_SUCCESS;
}

/* --- occupancy --- */

static CUresult blocks_per_sm(int *out, CUfunction handle, int threads, size_t shared) {
    SIM_ENTER();
    struct function *function;
    const struct sim_model *m = sim_model();
    if (!out || threads < 1) return CUDA_ERROR_INVALID_VALUE;
    CHECK(function_valid(handle, &function));
    int warps = (threads + 31) / 32, blocks = (int)m->threads_per_sm / 32 / warps;
    if (threads > 1024) blocks = 0;
    if (blocks > (int)m->blocks_per_sm) blocks = (int)m->blocks_per_sm;
    if (shared && (size_t)blocks > m->shared_per_sm / (shared + 1024))
        blocks = (int)(m->shared_per_sm / (shared + 1024));
    *out = blocks;
    return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, CUfunction f, int threads,
                                                         size_t shared) {
    return blocks_per_sm(out, f, threads, shared);
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *out, CUfunction f,
                                                                  int threads, size_t shared,
                                                                  unsigned int flags) {
    return flags > 1 ? CUDA_ERROR_INVALID_VALUE : blocks_per_sm(out, f, threads, shared);
}
API CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction f,
                                              CUoccupancyB2DSize shared_of, size_t shared,
                                              int limit) {
    int threads = limit > 0 && limit < 1024 ? limit : 1024, blocks;
    if (!grid || !block) return CUDA_ERROR_INVALID_VALUE;
    CHECK(blocks_per_sm(&blocks, f, threads, shared_of ? shared_of(threads) : shared));
    *block = threads;
    *grid = blocks * (int)sim_model()->sms;
    return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block, CUfunction f,
                                                       CUoccupancyB2DSize shared_of, size_t shared,
                                                       int limit, unsigned int flags) {
    return flags > 1 ? CUDA_ERROR_INVALID_VALUE
                     : cuOccupancyMaxPotentialBlockSize(grid, block, f, shared_of, shared, limit);
}
API CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t *out, CUfunction f, int blocks,
                                                     int threads) {
    int most;
    if (!out || blocks < 1) return CUDA_ERROR_INVALID_VALUE;
    CHECK(blocks_per_sm(&most, f, threads, 0));
    *out = sim_model()->shared_per_sm / (size_t)blocks - 1024;
    return CUDA_SUCCESS;
}
