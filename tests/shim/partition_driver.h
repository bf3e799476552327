/* A session with a partition on the simulated GPU, groups 1, 2 and 14 of 15: for tests that run
 * with the shim preloaded (memory_run.sh). */
#include "memory_driver.h"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        CUresult rc_ = (call);                                                                     \
        if (rc_ != CUDA_SUCCESS) {                                                                 \
            printf("not ok %s: %d (line %d)\n", #call, (int)rc_, __LINE__);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define SMS 24
#define OWN_SMS ((const unsigned int[8]){0x00ffff00, 0, 0, 0x00ff0000})
static struct vgpu_region *region;

static void give_partition_on(int ordinal) {
    CUuuid uuid;
    MUST(REAL_FUNCTION(cuInit)(0));
    MUST(cuDeviceGetUuid_v2(&uuid, ordinal));
    struct vgpu_device *device = &region->devices[ordinal];
    memcpy(device->uuid, uuid.bytes, 16);
    device->mem_limit = region->header.default_mem_limit;
    device->share_ppm = VGPU_WHOLE_GPU;
    device->context_bytes = region->header.default_context_bytes;
    device->mode = VGPU_MODE_SPATIAL;
    device->sm_total = 132;
    device->group_sms = 8;
    device->sm_count = SMS;
    device->sm_groups[0] = 1 << 1 | 1 << 2 | 1 << 14;
    vgpu_store_release(&device->state, (uint32_t)VGPU_DEVICE_READY);
}

/* Before the first call through the shim: a session has its partition from the start. */
static void give_partition(void) {
    give_partition_on(0);
    MUST(cuInit(0));
}

/* The SMs that a kernel launched now would run on. */
static inline void smids(CUstream stream, bool per_thread, unsigned int bits[8]) {
    CUmodule module;
    CUfunction kernel;
    CUdeviceptr out;
    unsigned int words = 8;
    void *arguments[] = {&out, &words};
    MUST(cuModuleLoadData(&module, ".version 8.0"));
    MUST(cuModuleGetFunction(&kernel, module, "vgpu_sim_smids"));
    MUST(cuMemAlloc_v2(&out, 32));
    MUST((per_thread ? cuLaunchKernel_ptsz : cuLaunchKernel)(kernel, 132, 1, 1, 32, 1, 1, 0, stream,
                                                             arguments, NULL));
    MUST((per_thread ? cuStreamSynchronize_ptsz : cuStreamSynchronize)(stream));
    MUST(cuMemcpyDtoH_v2(bits, out, 32));
    MUST(cuMemFree_v2(out));
    MUST(cuModuleUnload(module));
}

static inline void runs_inside(CUstream stream, const char *name) {
    unsigned int bits[8];
    smids(stream, false, bits);
    check(memcmp(bits, OWN_SMS, 32) == 0, name, bits[0], OWN_SMS[0]);
}

static inline bool is_active(void) {
    unsigned int flags;
    int active;
    MUST(cuDevicePrimaryCtxGetState(0, &flags, &active));
    return active;
}
