#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "hook_names.h"
#include "thread_stream.h"

#define MAX_OTHER_PRELOADS 8

void *vgpu_real_pointers[VGPU_HOOK_COUNT];

static const char *const sonames[VGPU_DRIVERS] = {
    [VGPU_DRIVER_CUDA] = "libcuda.so.1",
    [VGPU_DRIVER_NVML] = "libnvidia-ml.so.1",
};

/* What is found once is kept in statics without a lock (a child of fork may inherit one held): the
 * first to finish a search writes the result down, whoever comes meanwhile uses its own copy. */
enum { UNKNOWN, WRITING, KNOWN };

static enum vgpu_driver driver_named(const char *symbol) {
    return symbol[0] == 'n' ? VGPU_DRIVER_NVML : VGPU_DRIVER_CUDA;
}

enum vgpu_driver vgpu_driver_of(enum vgpu_hook hook) {
    return driver_named(vgpu_hook_symbol(hook));
}

static bool is_driver(const struct vgpu_elf *elf) {
    return strcmp(elf->soname, sonames[VGPU_DRIVER_CUDA]) == 0 ||
           strcmp(elf->soname, sonames[VGPU_DRIVER_NVML]) == 0;
}

/* --- The loaded driver ---------------------------------------------------------------------- */

static struct {
    uint32_t state;
    struct vgpu_elf elf;
} drivers[VGPU_DRIVERS];
static void *driver_pointers[VGPU_HOOK_COUNT];

struct by_soname {
    const char *soname;
    struct vgpu_elf *found;
    bool past_loader; /* what comes after ld.so in load order may have been dlopened */
};

static bool has_soname(const struct vgpu_elf *elf, void *argument) {
    struct by_soname *wanted = argument;
    if (strncmp(elf->soname, "ld-linux", 8) == 0) wanted->past_loader = true;
    if (strcmp(elf->soname, wanted->soname) != 0) return false;
    *wanted->found = *elf;
    return true;
}

static void *open_library(const char *name, int flags) {
    void *(*open)(const char *, int) = (typeof(open))vgpu_libc(VGPU_LIBC_DLOPEN);
    return open ? open(name, flags) : NULL;
}

bool vgpu_driver_loaded(enum vgpu_driver driver, struct vgpu_elf *found) {
    if (vgpu_load_acquire(&drivers[driver].state) == KNOWN) {
        *found = drivers[driver].elf;
        return true;
    }
    struct by_soname wanted = {.soname = sonames[driver], .found = found};
    if (!vgpu_elf_each(has_soname, &wanted)) return false;

    uint32_t unknown = UNKNOWN;
    if (vgpu_cas_acq_rel(&drivers[driver].state, &unknown, (uint32_t)WRITING)) {
        /* One that came with the program is never unloaded. Not asking then keeps the loader's lock
         * out of the first call: a constructor may wait for the thread that makes it. */
        if (wanted.past_loader) open_library(found->path, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
        drivers[driver].elf = *found;
        for (unsigned i = 0; i < VGPU_HOOK_COUNT; i++) {
            enum vgpu_hook hook = (enum vgpu_hook)i;
            if (vgpu_driver_of(hook) != driver) continue;
            driver_pointers[i] = vgpu_elf_symbol(found, vgpu_hook_symbol(hook));
        }
        vgpu_store_release(&drivers[driver].state, (uint32_t)KNOWN);
    }
    return true;
}

void *vgpu_driver_pointer(enum vgpu_hook hook) {
    enum vgpu_driver driver = vgpu_driver_of(hook);
    struct vgpu_elf elf;
    if (vgpu_load_acquire(&drivers[driver].state) == KNOWN) return driver_pointers[hook];
    if (!vgpu_driver_loaded(driver, &elf)) return NULL;
    return vgpu_elf_symbol(&elf, vgpu_hook_symbol(hook));
}

static bool known_driver_contains(const void *address) {
    for (unsigned i = 0; i < VGPU_DRIVERS; i++)
        if (vgpu_load_acquire(&drivers[i].state) == KNOWN &&
            vgpu_elf_contains(&drivers[i].elf, address))
            return true;
    return false;
}

bool vgpu_driver_contains(const void *address) {
    struct vgpu_elf elf;
    if (known_driver_contains(address)) return true;
    return vgpu_elf_at(address, &elf) && is_driver(&elf);
}

enum vgpu_hook vgpu_driver_hook_at(const void *pointer, const char *base) {
    bool known = vgpu_load_acquire(&drivers[VGPU_DRIVER_CUDA].state) == KNOWN;
    for (unsigned i = 0; i < VGPU_HOOK_COUNT; i++) {
        enum vgpu_hook hook = (enum vgpu_hook)i;
        if (known && driver_pointers[i] != pointer) continue;
        if (strcmp(vgpu_hook_base(hook), base) != 0) continue;
        if (vgpu_driver_pointer(hook) == pointer) return hook;
    }
    return VGPU_HOOK_COUNT;
}

bool vgpu_real_exists(enum vgpu_hook hook) { return vgpu_driver_pointer(hook) != NULL; }

/* Opens the driver if nobody has. A machine without one is searched once. */
static bool load(enum vgpu_driver driver, struct vgpu_elf *found) {
    static uint32_t missing[VGPU_DRIVERS];
    if (vgpu_driver_loaded(driver, found)) return true;
    if (vgpu_load_relaxed(&missing[driver])) return false;
    if (open_library(sonames[driver], RTLD_NOW | RTLD_NODELETE))
        return vgpu_driver_loaded(driver, found);
    vgpu_store_relaxed(&missing[driver], 1U);
    return false;
}

void *vgpu_driver_symbol(const char *symbol) {
    struct vgpu_elf elf;
    if (!load(driver_named(symbol), &elf)) return NULL;
    return vgpu_thread_stream_front(symbol, vgpu_elf_symbol(&elf, symbol));
}

/* --- Other preloads ------------------------------------------------------------------------- */

/* Preloaded libraries behind the shim: their wrappers are what the program would have called. They
 * are there from the start and never unloaded. */
struct others {
    unsigned count;
    bool past_shim;
    const char *preload; /* LD_PRELOAD */
    struct vgpu_elf elf[MAX_OTHER_PRELOADS];
};
static struct {
    uint32_t state;
    struct others list;
} others;

VGPU_UNINSTRUMENTED static bool is_separator(char c) { return c == ' ' || c == ':'; }

/* Compares file names only: the list may hold $LIB or $ORIGIN. No libc calls here and below: a
 * sanitizer would see the loader's own strings, written under a lock that it does not know. */
VGPU_UNINSTRUMENTED static bool is_listed(const char *list, const char *path) {
    const char *name = path;
    for (const char *c = path; *c; c++)
        if (*c == '/') name = c + 1;
    while (*list) {
        const char *part = list, *c = name;
        for (; *list && !is_separator(*list); list++)
            if (*list == '/') part = list + 1;
        while (part < list && *part == *c) part++, c++;
        if (part == list && !*c && c > name) return true;
        if (*list) list++;
    }
    return false;
}

VGPU_UNINSTRUMENTED static bool add_other(const struct vgpu_elf *elf, void *argument) {
    struct others *list = argument;
    if (vgpu_elf_contains(elf, (const void *)add_other)) {
        list->past_shim = true;
    } else if (list->past_shim && is_listed(list->preload, elf->path) && !is_driver(elf)) {
        list->elf[list->count++] = *elf;
    }
    return list->count == MAX_OTHER_PRELOADS;
}

/* True if RTLD_NEXT in another preload would find the driver: it is linked in or RTLD_GLOBAL. Else
 * that preload would never be called without us, and its wrappers could not go on. */
static bool is_in_scope(enum vgpu_driver driver) {
    static const char *const unhooked[VGPU_DRIVERS] = {
        [VGPU_DRIVER_CUDA] = "cuDriverGetVersion",
        [VGPU_DRIVER_NVML] = "nvmlSystemGetDriverVersion",
    };
    void *(*find)(void *, const char *) = (typeof(find))vgpu_libc(VGPU_LIBC_DLSYM);
    return find && find(RTLD_NEXT, unhooked[driver]) != NULL;
}

/* Returns the list, `local` where it is not written down yet. */
static const struct others *find_others(struct others *local) {
    if (vgpu_load_acquire(&others.state) == KNOWN) return &others.list;
    *local = (struct others){.preload = getenv("LD_PRELOAD")};
    if (local->preload && strpbrk(local->preload, " :")) vgpu_elf_each(add_other, local);
    uint32_t unknown = UNKNOWN;
    if (vgpu_cas_acq_rel(&others.state, &unknown, (uint32_t)WRITING)) {
        others.list = *local;
        vgpu_store_release(&others.state, (uint32_t)KNOWN);
    }
    return local;
}

bool vgpu_driver_exempts(const void *caller, const char *symbol) {
    struct others local;
    if (known_driver_contains(caller)) return true;
    const struct others *list = find_others(&local);
    for (unsigned i = 0; i < list->count; i++)
        if (vgpu_elf_contains(&list->elf[i], caller))
            return vgpu_elf_symbol(&list->elf[i], symbol) != NULL &&
                   is_in_scope(driver_named(symbol));
    return false;
}

/* --- What a hook calls ---------------------------------------------------------------------- */

static int return_no_device(void) { return 100; }              /* CUDA_ERROR_NO_DEVICE */
static int return_not_initialized(void) { return 3; }          /* CUDA_ERROR_NOT_INITIALIZED */
static int return_not_supported(void) { return 801; }          /* CUDA_ERROR_NOT_SUPPORTED */
static int return_nvml_library_not_found(void) { return 12; }  /* NVML_ERROR_LIBRARY_NOT_FOUND */
static int return_nvml_function_not_found(void) { return 13; } /* NVML_ERROR_FUNCTION_NOT_FOUND */

static void *preload_definition(enum vgpu_hook hook) {
    /* Who asks for entry points must get the driver's: their pointers are compared with its own. */
    if (hook == VGPU_HOOK_cuGetProcAddress || hook == VGPU_HOOK_cuGetProcAddress_v2) return NULL;
    struct others local;
    const struct others *list = find_others(&local);
    for (unsigned i = 0; i < list->count; i++) {
        void *found = vgpu_elf_symbol(&list->elf[i], vgpu_hook_symbol(hook));
        if (found) return is_in_scope(vgpu_driver_of(hook)) ? found : NULL;
    }
    return NULL;
}

struct foreign {
    const char *symbol;
    bool past_shim;
    void *found;
};

static bool defines_foreign(const struct vgpu_elf *elf, void *argument) {
    struct foreign *wanted = argument;
    if (vgpu_elf_contains(elf, (const void *)defines_foreign)) wanted->past_shim = true;
    else if (wanted->past_shim) wanted->found = vgpu_elf_symbol(elf, wanted->symbol);
    return wanted->found != NULL;
}

static void *publish(enum vgpu_hook hook, void *pointer) {
    pointer = vgpu_thread_stream_front(vgpu_hook_symbol(hook), pointer);
    vgpu_store_release(&vgpu_real_pointers[hook], pointer);
    return pointer;
}

void *vgpu_real_resolve(enum vgpu_hook hook) {
    enum vgpu_driver driver = vgpu_driver_of(hook);
    bool nvml = driver == VGPU_DRIVER_NVML;
    struct vgpu_elf elf;
    void *found = preload_definition(hook);
    if (found) return publish(hook, found);

    if (!vgpu_driver_loaded(driver, &elf)) {
        /* A library of the program has a function of this name, and there is no driver: its own
         * calls came here by symbol order alone. Not kept: a driver may be loaded later. */
        struct foreign foreign = {.symbol = vgpu_hook_symbol(hook)};
        if (vgpu_elf_each(defines_foreign, &foreign)) return foreign.found;
        if (!load(driver, &elf)) {
            if (nvml) return (void *)return_nvml_library_not_found;
            return hook == VGPU_HOOK_cuInit ? (void *)return_no_device
                                            : (void *)return_not_initialized;
        }
    }
    found = vgpu_driver_pointer(hook);
    if (found) return publish(hook, found);
    return publish(hook,
                   nvml ? (void *)return_nvml_function_not_found : (void *)return_not_supported);
}
