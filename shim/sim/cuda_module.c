/* Modules, libraries and the functions in them: any image is accepted and has every name that is
 * asked for. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cuda_sim.h"

/* --- functions --- */

/* VGPU_SIM_KERNELS=name=us,... over VGPU_SIM_KERNEL_US; NULL without. */
static const char *kernel_setting(const char *name) {
    const char *text = getenv("VGPU_SIM_KERNEL_US");
    const char *list = getenv("VGPU_SIM_KERNELS");
    size_t length = strlen(name);
    for (const char *at = list; at && *at;) {
        size_t entry = strcspn(at, ",");
        if (entry > length && !strncmp(at, name, length) && at[length] == '=')
            text = at + length + 1;
        at += entry + (at[entry] == ',');
    }
    return text;
}

/* 50 us by default; "inf" never ends. */
static uint64_t kernel_ns(const char *name) {
    const char *text = kernel_setting(name);
    if (!text || !*text) return 50000;
    if (!strncmp(text, "inf", 3)) return SIM_ENDLESS;
    double us = strtod(text, NULL);
    return us > 0 ? (uint64_t)(us * 1000) : 0;
}

static enum builtin builtin_of(const char *name) {
    if (!strcmp(name, "vgpu_sim_fill")) return BUILTIN_FILL;
    if (!strcmp(name, "vgpu_sim_add")) return BUILTIN_ADD;
    if (!strcmp(name, "vgpu_sim_checksum")) return BUILTIN_CHECKSUM;
    if (!strcmp(name, "vgpu_sim_smids")) return BUILTIN_SMIDS;
    if (!strcmp(name, "vgpu_sim_spin")) return BUILTIN_SPIN;
    if (!strcmp(name, "vgpu_sim_meet")) return BUILTIN_MEET;
    if (!strcmp(name, "vgpu_sim_fault")) return BUILTIN_FAULT;
    /* Any other name may stand for a spinner: name=spin, name=meet. */
    const char *text = kernel_setting(name);
    if (text && !strncmp(text, "spin", 4)) return BUILTIN_SPIN;
    return text && !strncmp(text, "meet", 4) ? BUILTIN_MEET : BUILTIN_NONE;
}

static CUresult function_get(struct module *module, const char *name, struct function **out) {
    if (!name || !*name) return CUDA_ERROR_INVALID_VALUE;
    struct function *function = module->functions;
    while (function && strcmp(function->name, name)) function = function->next;
    if (!function) {
        function = object_new(SIM_FUNCTION, sizeof *function);
        char *copy = strdup(name);
        if (!function || !copy) return CUDA_ERROR_OUT_OF_MEMORY;
        function->name = copy;
        function->module = module;
        function->ns = kernel_ns(name);
        function->builtin = builtin_of(name);
        function->dynamic_max = 49152;
        if (!strncmp(name, "vgpu_sim_local_", 15))
            function->local = (unsigned int)strtoul(name + 15, NULL, 10);
        function->block[0] = function->block[1] = function->block[2] = 1;
        function->next = module->functions;
        module->functions = function;
    }
    *out = function;
    return CUDA_SUCCESS;
}

CUresult function_valid(CUfunction handle, struct function **function) {
    if (!object_is(handle, SIM_FUNCTION)) return CUDA_ERROR_INVALID_HANDLE;
    *function = (struct function *)handle;
    return CUDA_SUCCESS;
}

/* --- global variables: of PTX text, ".b8 name[bytes]" after ".global" --- */

static uint64_t globals_of(const char *image) {
    uint64_t sum = 0;
    if (strncmp(image, ".version", 8) && strncmp(image, "//", 2)) return 0;
    for (const char *at = image; (at = strstr(at, ".global ")); at += 8) {
        const char *bracket = strchr(at, '['), *end = strchr(at, ';');
        if (bracket && end && bracket < end) sum += strtoull(bracket + 1, NULL, 10);
    }
    return sum;
}

/* Large ones take whole steps; small ones go into the context's own memory. */
static CUresult globals_take(struct module *module, int device) {
    uint64_t bytes =
        module->globals > SIM_MIB ? (module->globals + 2 * SIM_MIB - 1) & ~(2 * SIM_MIB - 1) : 0;
    if (!bytes || module->charged[device]) return CUDA_SUCCESS;
    if (!sim_take(sim_process.slot, sim_process.device[device].card, bytes, 0))
        return CUDA_ERROR_OUT_OF_MEMORY;
    module->charged[device] = bytes;
    return CUDA_SUCCESS;
}

static void module_drop(struct module *module) {
    for (int i = 0; i < sim_process.devices; i++)
        if (module->charged[i])
            sim_give(sim_process.slot, sim_process.device[i].card, module->charged[i], 0);
    while (module->functions) {
        struct function *function = module->functions;
        module->functions = function->next;
        free(function->name);
        object_drop(function);
    }
    object_drop(module);
}

void module_drop_context(struct context *context) {
    while (context->modules) {
        struct module *module = context->modules;
        context->modules = module->next;
        module_drop(module);
    }
}

/* --- modules: of a context; loading waits for running work, as measured --- */

static CUresult module_load(CUmodule *out, const char *image) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    device_wait(context->device);
    struct module *module = object_new(SIM_MODULE, sizeof *module);
    if (!module) return CUDA_ERROR_OUT_OF_MEMORY;
    module->context = context;
    module->globals = image ? globals_of(image) : 0;
    if (globals_take(module, context->device)) {
        object_drop(module);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    module->next = context->modules;
    context->modules = module;
    *out = (CUmodule)module;
    return CUDA_SUCCESS;
}
API CUresult cuModuleLoad(CUmodule *out, const char *path) {
    struct stat info;
    if (!path) return CUDA_ERROR_INVALID_VALUE;
    return stat(path, &info) ? CUDA_ERROR_FILE_NOT_FOUND : module_load(out, NULL);
}
API CUresult cuModuleLoadData(CUmodule *out, const void *image) {
    return image ? module_load(out, image) : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned int count,
                                CUjit_option *options, void **values) {
    (void)count, (void)options, (void)values;
    return cuModuleLoadData(out, image);
}
API CUresult cuModuleLoadFatBinary(CUmodule *out, const void *image) {
    return cuModuleLoadData(out, image);
}

API CUresult cuModuleUnload(CUmodule handle) {
    SIM_ENTER();
    if (!object_is(handle, SIM_MODULE)) return CUDA_ERROR_INVALID_HANDLE;
    struct module *module = (struct module *)handle;
    device_wait(module->context->device);
    struct module **link = &module->context->modules;
    while (*link && *link != module) link = &(*link)->next;
    if (!*link) return CUDA_ERROR_INVALID_HANDLE;
    *link = module->next;
    module_drop(module);
    return CUDA_SUCCESS;
}
API CUresult cuModuleGetFunction(CUfunction *out, CUmodule handle, const char *name) {
    SIM_ENTER();
    struct function *function;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(handle, SIM_MODULE) && !object_is(handle, SIM_LIBRARY))
        return CUDA_ERROR_INVALID_HANDLE;
    CHECK(function_get((struct module *)handle, name, &function));
    *out = (CUfunction)function;
    return CUDA_SUCCESS;
}
API CUresult cuModuleGetGlobal_v2(CUdeviceptr *pointer, size_t *bytes, CUmodule handle,
                                  const char *name) {
    SIM_ENTER();
    (void)pointer, (void)bytes;
    return object_is(handle, SIM_MODULE) && name ? CUDA_ERROR_NOT_FOUND : CUDA_ERROR_INVALID_HANDLE;
}
API CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *out) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = 2; /* lazy */
    return CUDA_SUCCESS;
}
API CUresult cuModuleGetFunctionCount(unsigned int *out, CUmodule handle) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(handle, SIM_MODULE)) return CUDA_ERROR_INVALID_HANDLE;
    *out = 0;
    for (const struct function *f = ((struct module *)handle)->functions; f; f = f->next) ++*out;
    return CUDA_SUCCESS;
}

/* --- libraries: of the process --- */

static CUresult library_load(CUlibrary *out, const char *image) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    struct module *library = object_new(SIM_LIBRARY, sizeof *library);
    if (!library) return CUDA_ERROR_OUT_OF_MEMORY;
    library->globals = image ? globals_of(image) : 0;
    *out = (CUlibrary)library;
    return CUDA_SUCCESS;
}
/* At its first use in a context of the device. */
CUresult module_use(struct module *library) {
    struct context *context;
    if (object_is(library, SIM_MODULE)) return CUDA_SUCCESS;
    CHECK(context_current(&context));
    return globals_take(library, context->device);
}
API CUresult cuLibraryLoadData(CUlibrary *out, const void *image, CUjit_option *options,
                               void **values, unsigned int count, CUlibraryOption *library_options,
                               void **library_values, unsigned int library_count) {
    (void)options, (void)values, (void)count, (void)library_options, (void)library_values,
        (void)library_count;
    return image ? library_load(out, image) : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuLibraryLoadFromFile(CUlibrary *out, const char *path, CUjit_option *options,
                                   void **values, unsigned int count,
                                   CUlibraryOption *library_options, void **library_values,
                                   unsigned int library_count) {
    struct stat info;
    (void)options, (void)values, (void)count, (void)library_options, (void)library_values,
        (void)library_count;
    if (!path) return CUDA_ERROR_INVALID_VALUE;
    return stat(path, &info) ? CUDA_ERROR_FILE_NOT_FOUND : library_load(out, NULL);
}
API CUresult cuLibraryUnload(CUlibrary handle) {
    SIM_ENTER();
    if (!object_is(handle, SIM_LIBRARY)) return CUDA_ERROR_INVALID_HANDLE;
    module_drop((struct module *)handle);
    return CUDA_SUCCESS;
}
API CUresult cuLibraryGetKernel(CUkernel *out, CUlibrary handle, const char *name) {
    SIM_ENTER();
    struct function *function;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(handle, SIM_LIBRARY)) return CUDA_ERROR_INVALID_HANDLE;
    CHECK(function_get((struct module *)handle, name, &function));
    *out = (CUkernel)function;
    return CUDA_SUCCESS;
}
API CUresult cuLibraryGetModule(CUmodule *out, CUlibrary handle) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(handle, SIM_LIBRARY)) return CUDA_ERROR_INVALID_HANDLE;
    CHECK(module_use((struct module *)handle));
    *out = (CUmodule)handle;
    return CUDA_SUCCESS;
}
API CUresult cuLibraryGetGlobal(CUdeviceptr *pointer, size_t *bytes, CUlibrary handle,
                                const char *name) {
    SIM_ENTER();
    if (!name || !object_is(handle, SIM_LIBRARY)) return CUDA_ERROR_INVALID_HANDLE;
    CHECK(module_use((struct module *)handle));
    if (!((struct module *)handle)->globals) return CUDA_ERROR_NOT_FOUND;
    if (pointer) *pointer = 0; /* what is in it is not simulated */
    if (bytes) *bytes = ((struct module *)handle)->globals;
    return CUDA_SUCCESS;
}
API CUresult cuKernelGetFunction(CUfunction *out, CUkernel handle) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    if (!object_is(handle, SIM_FUNCTION)) return CUDA_ERROR_INVALID_HANDLE;
    CHECK(module_use(((struct function *)handle)->module));
    *out = (CUfunction)handle;
    return CUDA_SUCCESS;
}
API CUresult cuKernelGetLibrary(CUlibrary *out, CUkernel handle) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(handle, SIM_FUNCTION)) return CUDA_ERROR_INVALID_HANDLE;
    *out = (CUlibrary)((struct function *)handle)->module;
    return CUDA_SUCCESS;
}
