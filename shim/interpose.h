/* Interposing: which symbols, which ABI, how to reach the real function. No thinking here.
 *
 * shim/hooks.def is the one table of hooked entry points:
 *     HOOK(symbol, base, version, flavour, need)
 *   symbol   the exported name, e.g. cuMemAlloc_v2; the wrapper has the same name
 *   base     what cuGetProcAddress is asked for, e.g. cuMemAlloc
 *   version  first CUDA version that resolves to it, e.g. 3020
 *   flavour  plain | ptsz | ptds (per-thread default stream)
 *   need     required (every driver since 470 has it) | optional
 *     NVML_HOOK(symbol, need)
 */
#ifndef VGPU_INTERPOSE_H
#define VGPU_INTERPOSE_H

#include <stdbool.h>
#include <stdint.h>

#define VGPU_EXPORT __attribute__((visibility("default")))

/* For what every launch runs: the linker puts it side by side, so that after the driver's own code
 * less of it is to be fetched again. */
#define VGPU_HOT __attribute__((hot))

enum vgpu_hook {
#define HOOK(symbol, base, version, flavour, need) VGPU_HOOK_##symbol,
#define NVML_HOOK(symbol, need) VGPU_HOOK_##symbol,
#include "hooks.def"
#undef HOOK
#undef NVML_HOOK
    VGPU_HOOK_COUNT
};

extern void *vgpu_real_pointers[VGPU_HOOK_COUNT];

/* Opens the real driver (or NVML) if nobody has yet and resolves one symbol. Never NULL: without a
 * driver, or without that name in it, a function that returns the code of a missing driver. */
void *vgpu_real_resolve(enum vgpu_hook hook);

/* True if the loaded driver really has the hook's symbol. */
bool vgpu_real_exists(enum vgpu_hook hook);

static inline void *vgpu_real(enum vgpu_hook hook) {
    void *pointer = __atomic_load_n(&vgpu_real_pointers[hook], __ATOMIC_ACQUIRE);
    return pointer ? pointer : vgpu_real_resolve(hook);
}

/* REAL(cuMemAlloc_v2)(&ptr, n) calls the driver's own function. Only for names in hooks.def. */
#define REAL(symbol) ((typeof(&symbol))vgpu_real(VGPU_HOOK_##symbol))

/* True for an entry point that takes memory or launches work, by its name, and that neither
 * hooks.def nor excused.def lists. */
bool vgpu_resolve_is_unknown(const char *symbol);

/* Counts such an entry point, which the driver has just given out; the first time for each name it
 * is an event too. Returns vgpu_resolve_is_unknown. */
bool vgpu_resolve_unknown(const char *symbol);

/* A driver (or NVML, by name prefix "nvml") function that is not hooked, or NULL. */
void *vgpu_driver_symbol(const char *symbol);
/* CALL(cuEventQuery)(event): a driver function outside hooks.def, resolved once per call site.
 * The caller must know that every supported driver has it. */
#define CALL(symbol)                                                                               \
    (__extension__({                                                                               \
        static void *cached_;                                                                      \
        void *found_ = __atomic_load_n(&cached_, __ATOMIC_ACQUIRE);                                \
        if (!found_) {                                                                             \
            found_ = vgpu_driver_symbol(#symbol);                                                  \
            __atomic_store_n(&cached_, found_, __ATOMIC_RELEASE);                                  \
        }                                                                                          \
        (typeof(&symbol))found_;                                                                   \
    }))

#endif
