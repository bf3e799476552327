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
