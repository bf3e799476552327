/* The real driver libraries: which loaded object they are, and what they define. A library is the
 * driver if its DT_SONAME says so and it is in the base namespace; the first one loaded counts. */
#ifndef VGPU_DRIVER_H
#define VGPU_DRIVER_H

#include "elf.h"
#include "interpose.h"

enum vgpu_driver { VGPU_DRIVER_CUDA, VGPU_DRIVER_NVML, VGPU_DRIVERS };

enum vgpu_driver vgpu_driver_of(enum vgpu_hook hook);

/* True if the address lies in libcuda.so.1, libnvidia-ml.so.1, or a copy of one. */
bool vgpu_driver_contains(const void *address);

/* The loaded driver, if there is one. It is pinned: dlclose no longer unmaps it. */
bool vgpu_driver_loaded(enum vgpu_driver driver, struct vgpu_elf *found);

/* The loaded driver's own function for a hook, past other preloads. NULL: none is loaded, or it
 * has no such name. */
void *vgpu_driver_pointer(enum vgpu_hook hook);

/* The hook of base name `base` whose driver function is at `pointer`, or VGPU_HOOK_COUNT. One
 * function may stand behind several names (a stub does), so the name counts too. */
enum vgpu_hook vgpu_driver_hook_at(const void *pointer, const char *base);

/* True if the call comes from code that must see the driver itself: the driver's own libraries, or
 * a preload behind ours whose definition of the symbol our hook calls (else both would call in a
 * ring). */
bool vgpu_driver_exempts(const void *caller, const char *symbol);

#endif
