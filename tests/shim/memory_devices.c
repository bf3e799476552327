/* Device entries: one per UUID, whoever claims first, whatever dies meanwhile.
 * Sources: shim/device.c shim/slot.c. */
#include "memory_check.h"

#include <signal.h>
#include <sys/wait.h>

#include "../../shim/device.h"
#include "../../shim/interpose.h"

/* A driver with three devices. */
void *vgpu_real_pointers[VGPU_HOOK_COUNT];
static CUresult uuid_of(CUuuid *uuid, CUdevice device) {
    if (device < 0 || device > 2) return CUDA_ERROR_INVALID_DEVICE;
    memset(uuid->bytes, 'a' + device, 16);
    return CUDA_SUCCESS;
}
static CUresult total_of(size_t *total, CUdevice device) {
    *total = (size_t)(device + 1) * GiB;
    return CUDA_SUCCESS;
}
void *vgpu_driver_symbol(const char *symbol) {
    return strcmp(symbol, "cuDeviceGetUuid_v2") == 0 ? (void *)uuid_of : NULL;
}
void *vgpu_real_resolve(enum vgpu_hook hook) {
    if (hook != VGPU_HOOK_cuDeviceTotalMem_v2) abort();
    return (void *)total_of;
}

static struct vgpu_region *empty_region(void) {
    struct vgpu_region *region = region_new(4 * GiB);
    memset(region->devices, 0, sizeof region->devices);
    return region;
}

static void claims(void) {
    struct vgpu_region *region = empty_region();
    struct vgpu_session session = {
        .region = region, .slot = region->slots, .pid = (uint32_t)getpid()};
    memset(region->devices[0].uuid, 'b',
           16); /* ordinal 1 of this process, filled by the supervisor */
    region->devices[0].mem_limit = GiB;
    region->devices[0].state = VGPU_DEVICE_READY;
    equal(vgpu_device_index(&session, 1), 0, "found by UUID, not by ordinal");
    equal(region->devices[0].total_bytes, 2 * GiB, "the card's size is filled in");
    equal(region->devices[0].mem_limit, GiB, "the named limit stays");
    equal(vgpu_device_index(&session, 0), 1, "an unknown card is claimed");
    equal(region->devices[1].mem_limit, 4 * GiB, "with the default limit");
    equal(region->devices[1].state, VGPU_DEVICE_READY, "ready");
    equal(vgpu_device_index(&session, 0), 1, "once only");
    equal(vgpu_device_index(&session, 7), VGPU_NO_DEVICE, "no such device");
    equal(vgpu_device_index(&session, -1), VGPU_NO_DEVICE, "no such device either");
}

static void crowd(void) {
    uint64_t wrong = 0;
    for (int round = 0; round < 100; round++) {
        struct vgpu_region *region = empty_region();
        for (int i = 0; i < 8; i++) {
            if (fork() != 0) continue;
            uint8_t uuid[16];
            for (int k = 0; k < 6; k++) {
                memset(uuid, (i + k) % 6 + 1, 16);
                if (vgpu_device_claim(region, (uint32_t)getpid(), uuid) >= 6) _exit(1);
            }
            _exit(0);
        }
        int status;
        while (wait(&status) > 0) wrong += status != 0;
        uint64_t seen = 0;
        for (int i = 0; i < VGPU_MAX_DEVICES; i++)
            if (region->devices[i].state == VGPU_DEVICE_READY)
                seen += UINT64_C(1) << 8 * region->devices[i].uuid[0];
        wrong += seen != UINT64_C(0x01010101010100);
        munmap(region, sizeof *region);
    }
    equal(wrong, 0, "8 processes meet 6 cards in different orders: 6 entries");
}

static void interrupted(void) {
    uint8_t uuid[16];
    memset(uuid, 9, 16);
    struct vgpu_region *region = empty_region();
    pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
    region->devices[0].state = VGPU_DEVICE_CLAIMING | (uint32_t)child << 8;
    double start = now_s();
    equal(vgpu_device_claim(region, (uint32_t)getpid(), uuid), 0, "a dead claimer is taken over");
    check(now_s() - start < 5, "and soon", 0, 0);

    region = empty_region();
    child = fork();
    if (child == 0)
        for (;;) pause();
    region->devices[0].state = VGPU_DEVICE_CLAIMING | (uint32_t)child << 8;
    start = now_s();
    equal(vgpu_device_claim(region, (uint32_t)getpid(), uuid), 1, "a stopped claimer is passed by");
    check(now_s() - start < 5, "and soon", 0, 0);
    check(region->devices[0].state != VGPU_DEVICE_READY, "and its entry never becomes ready", 0, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);

    for (int i = 0; i < 40; i++) {
        memset(uuid, 20 + i, 16);
        if (vgpu_device_claim(region, (uint32_t)getpid(), uuid) == VGPU_NO_DEVICE) break;
        if (i == 39) check(false, "a full table says so", 0, 0);
    }
    equal(vgpu_device_claim(region, 1, uuid), VGPU_NO_DEVICE, "a full table says so");
}

static void texts(void) {
    uint8_t uuid[16] = {0};
    check(vgpu_device_parse_uuid("GPU-00010203-0405-0607-0809-0a0b0C0d0e0F", uuid) &&
              uuid[15] == 15 && uuid[4] == 4,
          "GPU UUID text", uuid[15], 15);
    check(vgpu_device_parse_uuid("MIG-00010203-0405-0607-0809-0a0b0c0d0e0f", uuid), "MIG", 0, 0);
    check(!vgpu_device_parse_uuid("MIG-GPU-00010203-0405-0607-0809-0a0b0c0d0e0f/1/0", uuid),
          "old MIG form is not a UUID", 0, 0);
    check(!vgpu_device_parse_uuid("GPU-0001", uuid), "too short", 0, 0);
    check(!vgpu_device_parse_uuid("", uuid), "empty", 0, 0);
}

int main(void) {
    claims();
    crowd();
    interrupted();
    texts();
    return failures != 0;
}
