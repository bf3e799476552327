/* Modules and libraries: their global variables are device memory, taken when a module is loaded,
 * and when a library is first used in a context. Their sizes are read off the image where it can be
 * read; a compressed image and the code itself are what NVML shows. */
#ifndef VGPU_MODULES_H
#define VGPU_MODULES_H

#include <stdint.h>

#include "context.h"
#include "cuda_abi.h"

/* Loads a module by load(how) into *out, charged beforehand; unload(*out) undoes it where the
 * session turns out to be past its limit. */
struct vgpu_module_call {
    const void *image; /* NULL: in the file */
    const char *path;
    const char *api;
    void **out;
    CUresult (*load)(const void *how);
    const void *how;
};
CUresult vgpu_modules_load(const struct vgpu_module_call *call);
CUresult vgpu_modules_unload(CUmodule module);

/* The same for a library, which takes nothing yet. */
CUresult vgpu_modules_load_library(const struct vgpu_module_call *call);
CUresult vgpu_modules_unload_library(CUlibrary library);

/* A kernel of the library was given out. */
void vgpu_modules_note_kernel(CUlibrary library, CUkernel kernel);

/* The library, or a kernel of it, is about to be used in the current context: charges its global
 * variables there, once. */
CUresult vgpu_modules_used(CUlibrary library, const char *api);
CUresult vgpu_modules_used_kernel(const struct vgpu_place *place, CUkernel kernel, const char *api);

/* Forgets what the context owns; bytes[device] += what it held. */
void vgpu_modules_drop_owner(uint32_t owner, uint64_t *bytes);

void vgpu_modules_forget(void);

#endif
