/* A driver for the tests of interposing: every name of hooks.def, each returning 10000 + its index,
 * a cuGetProcAddress that follows the real one's rules, and a few names that are not hooked.
 *   FAKE_NVML  libnvidia-ml.so.1 instead of libcuda.so.1
 *   FAKE_OLD   a driver of the 470 series: without the optional names and cuGetProcAddress_v2
 *   FAKE_BIAS  added to all results: tells two copies apart */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../shim/interpose.h"

#ifndef FAKE_BIAS
#define FAKE_BIAS 0
#endif
#ifdef FAKE_OLD
#define WITH_optional(...)
#else
#define WITH_optional(...) __VA_ARGS__
#endif
#define WITH_required(...) __VA_ARGS__
#define NUMBERED(symbol, number)                                                                   \
    VGPU_EXPORT int symbol(void);                                                                  \
    VGPU_EXPORT int symbol(void) { return 10000 + FAKE_BIAS + (number); }

#ifdef FAKE_NVML
#define HOOK(symbol, base, version, flavour, need)
#define NVML_HOOK(symbol, need) WITH_##need(NUMBERED(symbol, VGPU_HOOK_##symbol))
#include "../../shim/hooks.def"
NUMBERED(nvmlSystemGetDriverVersion, 8000)

#else
#define NVML_HOOK(symbol, need)
#define cuGetProcAddress static_numbered_1
#define cuGetProcAddress_v2 static_numbered_2
#define HOOK(symbol, base, version, flavour, need) WITH_##need(NUMBERED(symbol, VGPU_HOOK_##symbol))
#include "../../shim/hooks.def"
#undef HOOK
#undef cuGetProcAddress
#undef cuGetProcAddress_v2

NUMBERED(cuDriverGetVersion, 8000)
NUMBERED(cuMemAllocFuture, 8001) /* an allocation that no table knows */
NUMBERED(cuCtxCreate_v9, 8002)   /* a later variant of a hooked base name */
int cuUnsupported(void);         /* one function under a hooked and an unhooked name */
VGPU_EXPORT int cuUnsupported(void) __attribute__((alias("cuLaunchGrid")));

VGPU_EXPORT int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags);
#ifndef FAKE_OLD
VGPU_EXPORT int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                                    int *status);
#endif

static int find(const char *name, int version, uint64_t flags, void **function) {
    enum { plain, ptsz, ptds = ptsz };
    static const struct {
        const char *base;
        int version;
        int flavour;
        void *function;
    } table[] = {
#define HOOK(symbol, base, version, flavour, need)                                                 \
    WITH_##need({#base, version, flavour, (void *)symbol}, )
#include "../../shim/hooks.def"
        {"cuDriverGetVersion", 2020, plain, (void *)cuDriverGetVersion},
        {"cuMemAllocFuture", 12000, plain, (void *)cuMemAllocFuture},
        {"cuCtxCreate", 99000, plain, (void *)cuCtxCreate_v9},
        {"cuUnsupported", 2000, plain, (void *)cuUnsupported},
    };
    int best = -1, known = 0, wanted = flags & 2 ? ptsz : plain;
    for (int i = 0; i < (int)(sizeof table / sizeof *table); i++) {
        if (strcmp(table[i].base, name) != 0) continue;
        known = 1;
        if (table[i].version > version) continue;
        if (table[i].flavour != plain && table[i].flavour != wanted) continue;
        if (best < 0 || table[i].version > table[best].version ||
            (table[i].version == table[best].version && table[i].flavour == wanted))
            best = i;
    }
    /* With the flag a flavoured symbol wins over a later plain one only if there is one at all. */
    for (int i = 0; wanted != plain && i < (int)(sizeof table / sizeof *table); i++)
        if (table[i].flavour == wanted && !strcmp(table[i].base, name) &&
            table[i].version <= version)
            best = i;
    if (best < 0) return known ? 2 : 1;
    *function = table[best].function;
    return 0;
}

int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    if (!function || (flags & ~UINT64_C(3))) return 1;
    return find(name, version, flags, function) ? 500 : 0;
}

#ifndef FAKE_OLD
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                        int *status) {
    if (!function || (flags & ~UINT64_C(3))) return 1;
    *function = NULL;
    int found = find(name, version, flags, function);
    if (status) *status = found;
    return 0;
}
#endif
#endif
