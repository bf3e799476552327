/* Modules and libraries: thin wrappers, the thinking is in modules.c. */
#include "interpose.h"
#include "modules.h"
#include "session.h"

/* The arguments of whichever function was called. */
struct loading {
    void *out;
    const void *image;
    CUjit_option *options;
    void **values;
    unsigned int count;
    CUlibraryOption *library_options;
    void **library_values;
    unsigned int library_count;
};

static CUresult load_file(const void *how) {
    const struct loading *l = how;
    return REAL(cuModuleLoad)(l->out, l->image);
}
static CUresult load_data(const void *how) {
    const struct loading *l = how;
    return REAL(cuModuleLoadData)(l->out, l->image);
}
static CUresult load_data_ex(const void *how) {
    const struct loading *l = how;
    return REAL(cuModuleLoadDataEx)(l->out, l->image, l->count, l->options, l->values);
}
static CUresult load_fat(const void *how) {
    const struct loading *l = how;
    return REAL(cuModuleLoadFatBinary)(l->out, l->image);
}
static CUresult load_library(const void *how) {
    const struct loading *l = how;
    return REAL(cuLibraryLoadData)(l->out, l->image, l->options, l->values, l->count,
                                   l->library_options, l->library_values, l->library_count);
}
static CUresult load_library_file(const void *how) {
    const struct loading *l = how;
    return REAL(cuLibraryLoadFromFile)(l->out, l->image, l->options, l->values, l->count,
                                       l->library_options, l->library_values, l->library_count);
}

VGPU_EXPORT CUresult cuModuleLoad(CUmodule *out, const char *path) {
    const struct loading how = {.out = out, .image = path};
    const struct vgpu_module_call call = {NULL,         path,      "cuModuleLoad",
                                          (void **)out, load_file, &how};
    return vgpu_modules_load(&call);
}

VGPU_EXPORT CUresult cuModuleLoadData(CUmodule *out, const void *image) {
    const struct loading how = {.out = out, .image = image};
    const struct vgpu_module_call call = {image,        NULL,      "cuModuleLoadData",
                                          (void **)out, load_data, &how};
    return vgpu_modules_load(&call);
}

VGPU_EXPORT CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned int count,
                                        CUjit_option *options, void **values) {
    const struct loading how = {out, image, options, values, count, NULL, NULL, 0};
    const struct vgpu_module_call call = {image,        NULL,         "cuModuleLoadDataEx",
                                          (void **)out, load_data_ex, &how};
    return vgpu_modules_load(&call);
}

VGPU_EXPORT CUresult cuModuleLoadFatBinary(CUmodule *out, const void *image) {
    const struct loading how = {.out = out, .image = image};
    const struct vgpu_module_call call = {image,        NULL,     "cuModuleLoadFatBinary",
                                          (void **)out, load_fat, &how};
    return vgpu_modules_load(&call);
}

VGPU_EXPORT CUresult cuModuleUnload(CUmodule module) { return vgpu_modules_unload(module); }

VGPU_EXPORT CUresult cuLibraryLoadData(CUlibrary *out, const void *image, CUjit_option *options,
                                       void **values, unsigned int count,
                                       CUlibraryOption *library_options, void **library_values,
                                       unsigned int library_count) {
    const struct loading how = {out,   image,           options,        values,
                                count, library_options, library_values, library_count};
    const struct vgpu_module_call call = {image,        NULL,         "cuLibraryLoadData",
                                          (void **)out, load_library, &how};
    return vgpu_modules_load_library(&call);
}

VGPU_EXPORT CUresult cuLibraryLoadFromFile(CUlibrary *out, const char *path, CUjit_option *options,
                                           void **values, unsigned int count,
                                           CUlibraryOption *library_options, void **library_values,
                                           unsigned int library_count) {
    const struct loading how = {
        out, path, options, values, count, library_options, library_values, library_count};
    const struct vgpu_module_call call = {
        NULL, path, "cuLibraryLoadFromFile", (void **)out, load_library_file, &how};
    return vgpu_modules_load_library(&call);
}

VGPU_EXPORT CUresult cuLibraryUnload(CUlibrary library) {
    return vgpu_modules_unload_library(library);
}

VGPU_EXPORT CUresult cuLibraryGetKernel(CUkernel *out, CUlibrary library, const char *name) {
    CUresult rc = REAL(cuLibraryGetKernel)(out, library, name);
    if (rc == CUDA_SUCCESS && vgpu_session_get()) vgpu_modules_note_kernel(library, *out);
    return rc;
}

VGPU_EXPORT CUresult cuLibraryEnumerateKernels(CUkernel *out, unsigned int count,
                                               CUlibrary library) {
    unsigned int has = 0;
    CUresult rc = REAL(cuLibraryEnumerateKernels)(out, count, library);
    if (rc != CUDA_SUCCESS || !out || !vgpu_session_get()) return rc;
    if (CALL(cuLibraryGetKernelCount)(&has, library) != CUDA_SUCCESS) return rc;
    for (unsigned int i = 0; i < count && i < has; i++) vgpu_modules_note_kernel(library, out[i]);
    return rc;
}

/* These load the library into the current context. */
VGPU_EXPORT CUresult cuLibraryGetGlobal(CUdeviceptr *address, size_t *bytes, CUlibrary library,
                                        const char *name) {
    CUresult rc = vgpu_modules_used(library, "cuLibraryGetGlobal");
    return rc ? rc : REAL(cuLibraryGetGlobal)(address, bytes, library, name);
}

VGPU_EXPORT CUresult cuLibraryGetModule(CUmodule *out, CUlibrary library) {
    CUresult rc = vgpu_modules_used(library, "cuLibraryGetModule");
    return rc ? rc : REAL(cuLibraryGetModule)(out, library);
}

VGPU_EXPORT CUresult cuKernelGetFunction(CUfunction *out, CUkernel kernel) {
    struct vgpu_place place;
    CUresult rc = vgpu_context_here(&place, "cuKernelGetFunction");
    if (rc == CUDA_SUCCESS && place.session)
        rc = vgpu_modules_used_kernel(&place, kernel, "cuKernelGetFunction");
    return rc ? rc : REAL(cuKernelGetFunction)(out, kernel);
}
