/* The names in hooks.def, and finding a hook by name. */
#ifndef VGPU_HOOK_NAMES_H
#define VGPU_HOOK_NAMES_H

#include <stdbool.h>

#include "interpose.h"

/* The exported name, e.g. cuMemAlloc_v2. */
const char *vgpu_hook_symbol(enum vgpu_hook hook);

/* The name that cuGetProcAddress knows, e.g. cuMemAlloc. An NVML function's is its own name. */
const char *vgpu_hook_base(enum vgpu_hook hook);

/* The hook with this exported name, or VGPU_HOOK_COUNT. */
enum vgpu_hook vgpu_hook_find(const char *symbol);

/* True if a hook has this base name. */
bool vgpu_hook_has_base(const char *base);

#endif
