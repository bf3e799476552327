/* Handles and mappings of virtual memory: alive until the last reference of either kind is gone.
 * Sources: shim/handles.c. */
#include "memory_check.h"

#include <pthread.h>

#include "../../shim/handles.h"

#define AT (UINT64_C(1) << 40)

static uint64_t release(uint64_t handle) {
    struct vgpu_backing *backing = vgpu_handles_release(handle);
    return backing ? vgpu_handles_released(backing).bytes : 0;
}

static void map(uint64_t handle, uint64_t address, uint64_t bytes) {
    vgpu_handles_mapped(vgpu_handles_map(handle, address, bytes));
}

static uint64_t unmap(uint64_t address, uint64_t bytes) {
    uint64_t freed = 0;
    for (struct vgpu_mapping *m = vgpu_handles_unmap(address, bytes), *next; m; m = next) {
        next = vgpu_handles_next(m);
        freed += vgpu_handles_unmapped(m).bytes;
    }
    return freed;
}

static void lifetimes(void) {
    vgpu_handles_put(1, 20 * MiB, 2);
    struct vgpu_freed freed = vgpu_handles_released(vgpu_handles_release(1));
    equal(freed.bytes, 20 * MiB, "create, release");
    equal(freed.device, 2, "of the right device");
    check(!vgpu_handles_release(1), "a second release is unknown", 0, 0);

    /* llama.cpp: create, map, release, and later unmap. */
    vgpu_handles_put(1, 20 * MiB, 0);
    map(1, AT, 20 * MiB);
    equal(release(1), 0, "released but mapped: stays");
    vgpu_handles_put(1, 4 * MiB, 0); /* the driver reuses the handle value */
    equal(release(1), 4 * MiB, "a reused handle value is another piece");
    equal(unmap(AT, 20 * MiB), 20 * MiB, "unmapped: gone");

    vgpu_handles_put(5, 6 * MiB, 0);
    map(5, AT, 6 * MiB);
    release(5);
    vgpu_handles_retain(6, AT + 2 * MiB);
    equal(unmap(AT, 6 * MiB), 0, "retained by address: stays after the unmap");
    equal(release(6), 6 * MiB, "until that handle is released");

    vgpu_handles_put(7, 2 * MiB, 0);
    vgpu_handles_retain(7, 0);
    equal(release(7), 0, "two references: one left");
    equal(release(7), 2 * MiB, "none left");

    for (uint64_t i = 0; i < 1000; i++) {
        vgpu_handles_put(100 + i, 2 * MiB, 0);
        map(100 + i, AT + i * 2 * MiB, 2 * MiB);
        release(100 + i);
    }
    equal(unmap(AT, 2000 * MiB), 2000 * MiB, "one unmap over 1,000 mappings");

    vgpu_handles_put(8, 2 * MiB, 0);
    struct vgpu_backing *backing = vgpu_handles_release(8);
    vgpu_handles_unrelease(8, backing);
    equal(release(8), 2 * MiB, "a failed release changes nothing");
    vgpu_handles_put(9, 2 * MiB, 0);
    vgpu_handles_unmapped(vgpu_handles_map(9, AT, 2 * MiB));
    equal(release(9), 2 * MiB, "a failed map changes nothing");
    vgpu_handles_put(10, 0, 0);
    map(10, AT, 2 * MiB);
    equal(release(10) + unmap(AT, 2 * MiB), 0, "an imported piece costs nothing");
    equal(unmap(AT, UINT64_C(1) << 45), 0, "an unmap of nothing");
}

static uint64_t charged, freed;

static void *churn(void *number) {
    uint64_t base = ((uint64_t)(uintptr_t)number + 1) << 44;
    for (uint64_t i = 0; i < 30000; i++) {
        uint64_t handle = base + i % 64;
        vgpu_handles_put(handle, 2 * MiB, 0);
        __atomic_fetch_add(&charged, 2 * MiB, __ATOMIC_SEQ_CST);
        map(handle, base + i % 64 * 2 * MiB, 2 * MiB);
        uint64_t back = release(handle) + unmap(base + i % 64 * 2 * MiB, 2 * MiB);
        __atomic_fetch_add(&freed, back, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

int main(void) {
    lifetimes();
    pthread_t thread[8];
    for (uintptr_t i = 0; i < 8; i++) pthread_create(&thread[i], NULL, churn, (void *)i);
    for (int i = 0; i < 8; i++) pthread_join(thread[i], NULL);
    equal(freed, charged, "8 threads: all that was made has gone");
    double start = now_s();
    for (uint64_t i = 0; i < 1000000; i++) {
        vgpu_handles_put(1, MiB, 0);
        release(1);
    }
    printf("# put+release: %.0f ns\n", (now_s() - start) * 1e3);
    return failures != 0;
}
