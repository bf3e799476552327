#include "hook_names.h"

#include <stddef.h>
#include <stdint.h>

#include "elf.h"

static const char *const symbols[VGPU_HOOK_COUNT] = {
#define HOOK(symbol, base, version, flavour, need) #symbol,
#define NVML_HOOK(symbol, need) #symbol,
#include "hooks.def"
#undef HOOK
#undef NVML_HOOK
};

static const char *const bases[VGPU_HOOK_COUNT] = {
#define HOOK(symbol, base, version, flavour, need) #base,
#define NVML_HOOK(symbol, need) #symbol,
#include "hooks.def"
#undef HOOK
#undef NVML_HOOK
};

/* Lengths come first in a search: one cache line or two decide almost every name. */
static const uint8_t symbol_lengths[VGPU_HOOK_COUNT] = {
#define HOOK(symbol, base, version, flavour, need) sizeof #symbol - 1,
#define NVML_HOOK(symbol, need) sizeof #symbol - 1,
#include "hooks.def"
#undef HOOK
#undef NVML_HOOK
};

const char *vgpu_hook_symbol(enum vgpu_hook hook) { return symbols[hook]; }

const char *vgpu_hook_base(enum vgpu_hook hook) { return bases[hook]; }

VGPU_UNINSTRUMENTED enum vgpu_hook vgpu_hook_find(const char *symbol) {
    size_t length = 0;
    while (symbol[length]) length++;
    for (unsigned i = 0; i < VGPU_HOOK_COUNT; i++)
        if (symbol_lengths[i] == length && vgpu_elf_same(symbols[i], symbol))
            return (enum vgpu_hook)i;
    return VGPU_HOOK_COUNT;
}

bool vgpu_hook_has_base(const char *base) {
    for (unsigned i = 0; i < VGPU_HOOK_COUNT; i++)
        if (vgpu_elf_same(bases[i], base)) return true;
    return false;
}
