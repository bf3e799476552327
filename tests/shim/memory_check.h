/* What the tests of the memory side share: checks and a region made from nothing. */
#ifndef MEMORY_CHECK_H
#define MEMORY_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/atomics.h"
#include "../../shim/region.h"

#define MiB (UINT64_C(1) << 20)
#define GiB (UINT64_C(1) << 30)

static int failures;

static inline void check(bool good, const char *name, uint64_t got, uint64_t wanted) {
    if (good) printf("ok %s\n", name);
    else
        printf("not ok %s (got %llu, wanted %llu)\n", name, (unsigned long long)got,
               (unsigned long long)wanted);
    fflush(stdout);
    failures += !good;
}

static inline void equal(uint64_t got, uint64_t wanted, const char *name) {
    check(got == wanted, name, got, wanted);
}

static inline void region_fill(struct vgpu_region *region, uint64_t limit) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    region->header.magic = VGPU_MAGIC;
    region->header.layout_version = VGPU_LAYOUT_VERSION;
    region->header.region_bytes = sizeof *region;
    region->header.start_mono_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
    strcpy(region->header.session, "test");
    region->header.default_mem_limit = limit;
    region->header.default_share_ppm = VGPU_WHOLE_GPU;
    region->header.default_context_bytes = 518 * MiB;
}

/* Shared with children; one device, ready. */
static inline struct vgpu_region *region_new(uint64_t limit) {
    struct vgpu_region *region =
        mmap(NULL, sizeof *region, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) abort();
    region_fill(region, limit);
    region->devices[0].mem_limit = limit;
    region->devices[0].state = VGPU_DEVICE_READY;
    return region;
}

static inline uint64_t random_next(void) {
    static __thread uint64_t state;
    if (!state) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        state =
            ((uint64_t)now.tv_nsec << 20 ^ (uint64_t)getpid() ^ (uint64_t)(uintptr_t)&state) | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static inline uint64_t random_below(uint64_t bound) { return random_next() % bound; }

static inline double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
