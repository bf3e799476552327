/* What a function is: its name, attributes, parameters; and the launch settings of CUDA 2. */
#include <string.h>

#include "cuda_sim.h"

API CUresult cuFuncGetName(const char **out, CUfunction handle) {
    SIM_ENTER();
    struct function *function;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(function_valid(handle, &function));
    *out = function->name;
    return CUDA_SUCCESS;
}
API CUresult cuKernelGetName(const char **out, CUkernel handle) {
    return cuFuncGetName(out, (CUfunction)handle);
}
API CUresult cuFuncGetModule(CUmodule *out, CUfunction handle) {
    SIM_ENTER();
    struct function *function;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(function_valid(handle, &function));
    *out = (CUmodule)function->module;
    return CUDA_SUCCESS;
}
API CUresult cuFuncIsLoaded(CUfunctionLoadingState *out, CUfunction handle) {
    SIM_ENTER();
    struct function *function;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(function_valid(handle, &function));
    *out = 1;
    return CUDA_SUCCESS;
}
API CUresult cuFuncLoad(CUfunction handle) {
    SIM_ENTER();
    struct function *function;
    return function_valid(handle, &function);
}

static CUresult get_attribute(int *out, CUfunction_attribute attribute, CUfunction handle) {
    SIM_ENTER();
    struct function *function;
    const struct sim_model *model = sim_model();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(function_valid(handle, &function));
    switch ((int)attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *out = 1024;
        break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *out = 32;
        break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *out = (int)(model->major * 10 + model->minor);
        break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *out = (int)function->local;
        break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *out = function->dynamic_max;
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        *out = -1;
        break;
    default:
        if ((unsigned int)attribute > 15) return CUDA_ERROR_INVALID_VALUE;
        *out = 0; /* among them shared and constant bytes */
    }
    return CUDA_SUCCESS;
}
static CUresult set_attribute(CUfunction handle, CUfunction_attribute attribute, int value) {
    SIM_ENTER();
    struct function *function;
    CHECK(function_valid(handle, &function));
    if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (value < 0 || (unsigned int)value > sim_model()->shared_optin)
            return CUDA_ERROR_INVALID_VALUE;
        function->dynamic_max = value;
        return CUDA_SUCCESS;
    }
    return (unsigned int)attribute > 15 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
API CUresult cuFuncGetAttribute(int *out, CUfunction_attribute attribute, CUfunction function) {
    return get_attribute(out, attribute, function);
}
API CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    return set_attribute(function, attribute, value);
}
API CUresult cuKernelGetAttribute(int *out, CUfunction_attribute attribute, CUkernel kernel,
                                  CUdevice device) {
    (void)device;
    return get_attribute(out, attribute, (CUfunction)kernel);
}
API CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel,
                                  CUdevice device) {
    (void)device;
    return set_attribute((CUfunction)kernel, attribute, value);
}

static CUresult function_only(CUfunction handle) {
    SIM_ENTER();
    struct function *function;
    return function_valid(handle, &function);
}
API CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) {
    return config > 3 ? CUDA_ERROR_INVALID_VALUE : function_only(function);
}
API CUresult cuFuncSetSharedMemConfig(CUfunction function, CUsharedconfig config) {
    return config > 2 ? CUDA_ERROR_INVALID_VALUE : function_only(function);
}
API CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice device) {
    (void)device;
    return config > 3 ? CUDA_ERROR_INVALID_VALUE : function_only((CUfunction)kernel);
}

/* --- parameters of the built-in kernels; of any other kernel none are known --- */

static const struct {
    size_t offset, size;
} layout[BUILTIN_END][4] = {
    [BUILTIN_FILL] = {{0, 8}, {8, 4}, {12, 4}},
    [BUILTIN_ADD] = {{0, 8}, {8, 8}, {16, 8}, {24, 4}},
    [BUILTIN_CHECKSUM] = {{0, 8}, {8, 8}, {16, 4}},
    [BUILTIN_SMIDS] = {{0, 8}, {8, 4}},
    [BUILTIN_SPIN] = {{0, 8}, {8, 4}},
    [BUILTIN_MEET] = {{0, 8}, {8, 4}},
};

static CUresult param_info(CUfunction handle, size_t index, size_t *offset, size_t *size) {
    SIM_ENTER();
    struct function *function;
    if (!offset) return CUDA_ERROR_INVALID_VALUE;
    CHECK(function_valid(handle, &function));
    if (index > 3 || !layout[function->builtin][index].size) return CUDA_ERROR_INVALID_VALUE;
    *offset = layout[function->builtin][index].offset;
    if (size) *size = layout[function->builtin][index].size;
    return CUDA_SUCCESS;
}
API CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *size) {
    return param_info(function, index, offset, size);
}
API CUresult cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *offset, size_t *size) {
    return param_info((CUfunction)kernel, index, offset, size);
}

/* The work of one launch: parameters are taken now, as the real driver copies them. Memory that is
 * not ours is an error on a real card when the kernel runs; here such a kernel only takes its time.
 */
void function_work(const struct function *function, void **params, void **extra,
                   struct work *work) {
    char packed[32] = {0};
    *work = (struct work){.kind = WORK_NOTHING, .ns = function->ns};
    if (!function->builtin) return;
    const char *buffer = NULL;
    for (void **e = extra; e && *e != CU_LAUNCH_PARAM_END; e += 2)
        if (*e == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = e[1];
    for (int i = 0; i < 4 && layout[function->builtin][i].size; i++) {
        size_t offset = layout[function->builtin][i].offset,
               size = layout[function->builtin][i].size;
        if (params && params[i]) memcpy(packed + offset, params[i], size);
        else if (!params && buffer) memcpy(packed + offset, buffer + offset, size);
        else if (!params && !extra) memcpy(packed + offset, function->params + offset, size);
        else return;
    }
    uint64_t p[3];
    uint32_t w[8];
    memcpy(p, packed, sizeof p);
    memcpy(w, packed, sizeof w);
    bool fine = false;
    switch (function->builtin) {
    case BUILTIN_NONE:
    case BUILTIN_END:
        break;
    case BUILTIN_FILL:
        work->kernel.out = p[0];
        work->kernel.value = w[2];
        work->kernel.count = w[3];
        fine = piece_valid(p[0], (size_t)w[3] * 4);
        break;
    case BUILTIN_ADD:
        work->kernel.out = p[0];
        work->kernel.a = p[1];
        work->kernel.b = p[2];
        work->kernel.count = w[6];
        fine = piece_valid(p[0], (size_t)w[6] * 4) && piece_valid(p[1], (size_t)w[6] * 4) &&
               piece_valid(p[2], (size_t)w[6] * 4);
        break;
    case BUILTIN_CHECKSUM:
        work->kernel.out = p[0];
        work->kernel.a = p[1];
        work->kernel.count = w[4];
        fine = piece_valid(p[0], 8) && piece_valid(p[1], (size_t)w[4] * 4);
        break;
    case BUILTIN_SMIDS:
        work->smids.out = p[0];
        work->smids.words = w[2];
        fine = piece_valid(p[0], (size_t)w[2] * 4);
        break;
    case BUILTIN_FAULT:
        work->to_host = true; /* it is noticed without a call */
        fine = true;
        break;
    case BUILTIN_SPIN:
    case BUILTIN_MEET:
        work->spin.word = p[0];
        work->spin.value = w[2];
        fine = piece_valid(p[0], 4) && (w[2] || function->builtin == BUILTIN_SPIN);
        break;
    }
    if (fine) work->kind = (enum work_kind)(WORK_FILL + ((int)function->builtin - BUILTIN_FILL));
}

/* --- CUDA 2 --- */

API CUresult cuFuncSetBlockShape(CUfunction handle, int x, int y, int z) {
    SIM_ENTER();
    struct function *function;
    CHECK(function_valid(handle, &function));
    if (x < 1 || y < 1 || z < 1 || (int64_t)x * y * z > 1024) return CUDA_ERROR_INVALID_VALUE;
    function->block[0] = x;
    function->block[1] = y;
    function->block[2] = z;
    return CUDA_SUCCESS;
}
API CUresult cuFuncSetSharedSize(CUfunction handle, unsigned int bytes) {
    SIM_ENTER();
    struct function *function;
    CHECK(function_valid(handle, &function));
    function->shared = (int)bytes;
    return CUDA_SUCCESS;
}
static CUresult set_param(CUfunction handle, int offset, const void *value, size_t size) {
    SIM_ENTER();
    struct function *function;
    CHECK(function_valid(handle, &function));
    if (offset < 0 || size > sizeof function->params ||
        (size_t)offset > sizeof function->params - size)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(function->params + offset, value, size);
    return CUDA_SUCCESS;
}
API CUresult cuParamSetSize(CUfunction function, unsigned int bytes) {
    return bytes > 256 ? CUDA_ERROR_INVALID_VALUE : function_only(function);
}
API CUresult cuParamSeti(CUfunction function, int offset, unsigned int value) {
    return set_param(function, offset, &value, sizeof value);
}
API CUresult cuParamSetf(CUfunction function, int offset, float value) {
    return set_param(function, offset, &value, sizeof value);
}
API CUresult cuParamSetv(CUfunction function, int offset, void *value, unsigned int bytes) {
    return value ? set_param(function, offset, value, bytes) : CUDA_ERROR_INVALID_VALUE;
}
