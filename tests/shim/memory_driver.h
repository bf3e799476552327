/* For tests that run on the simulated GPU with the shim preloaded: the session as the test sees it,
 * and the driver's own functions past the shim. */
#ifndef MEMORY_DRIVER_H
#define MEMORY_DRIVER_H

#include "memory_check.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>

#include "../../shim/cuda_abi.h"
#include "../../shim/nvml_abi.h"
#include "../../shim/slot.h"

static inline struct vgpu_region *session_region(void) {
    const char *path = getenv("VGPU_REGION");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    struct vgpu_region *region =
        mmap(NULL, sizeof *region, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (region == MAP_FAILED) abort();
    close(fd);
    return region;
}

/* What the session has charged on its first device. */
static inline uint64_t charged(const struct vgpu_region *region) {
    uint64_t sum = 0;
    for (int i = 0; i < VGPU_MAX_SLOTS; i++)
        if (vgpu_slot_state(vgpu_load_acquire(&region->slots[i].owner)) == VGPU_SLOT_LIVE)
            sum += vgpu_load_relaxed(&region->slots[i].use[0].charged_bytes);
    return sum;
}

/* What NVML lists for all processes of the first card that the session shows. */
static inline uint64_t listed(void) {
    static nvmlDevice_t card;
    nvmlProcessInfo_t list[64];
    unsigned count = 64;
    uint64_t sum = 0;
    if (!card && (nvmlInit_v2() || nvmlDeviceGetHandleByIndex_v2(0, &card))) abort();
    if (nvmlDeviceGetComputeRunningProcesses_v3(card, &count, list)) abort();
    for (unsigned i = 0; i < count; i++) sum += list[i].usedGpuMemory;
    return sum;
}

/* The driver's own function: read off its symbol table, as no dlsym would give it. */
static inline void *real_function(const char *name) {
    struct link_map *map = dlopen("libcuda.so.1", RTLD_NOW);
    if (!map) abort();
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_SYMTAB) symbols = (const void *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_STRTAB) names = (const void *)entry->d_un.d_ptr;
    }
    for (; (const char *)symbols < names; symbols++)
        if (symbols->st_shndx != SHN_UNDEF && strcmp(names + symbols->st_name, name) == 0)
            return (void *)(map->l_addr + symbols->st_value);
    fprintf(stderr, "no %s\n", name);
    abort();
}
#define REAL_FUNCTION(name) ((typeof(&name))real_function(#name))

#endif
