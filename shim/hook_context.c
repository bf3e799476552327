/* Contexts come and go: thin wrappers, the thinking is in context.c. */
#include "context.h"
#include "interpose.h"
#include "partition.h"

VGPU_EXPORT CUresult cuInit(unsigned int flags) {
    /* Limits were asked for and cannot be held: no CUDA rather than unlimited CUDA. */
    if (vgpu_session_failed()) return CUDA_ERROR_UNKNOWN;
    return REAL(cuInit)(flags);
}

/* The arguments of whichever cuCtxCreate was called. */
struct creation {
    CUcontext *out;
    void *params;
    int count;
    unsigned int flags;
    CUdevice device;
};

static CUresult make_v1(void *how) {
    const struct creation *c = how;
    return REAL(cuCtxCreate)(c->out, c->flags, c->device);
}
static CUresult make_v2(void *how) {
    const struct creation *c = how;
    return REAL(cuCtxCreate_v2)(c->out, c->flags, c->device);
}
static CUresult make_v3(void *how) {
    const struct creation *c = how;
    return REAL(cuCtxCreate_v3)(c->out, c->params, c->count, c->flags, c->device);
}
static CUresult make_v4(void *how) {
    const struct creation *c = how;
    return REAL(cuCtxCreate_v4)(c->out, c->params, c->flags, c->device);
}

/* A context for an SM count is MPS's business, one for a graphics queue has no green twin. */
static bool has_needs(const struct creation *how, const char *api) {
    const CUctxCreateParams *params = how->params;
    if (how->count) return true;
    return params && api[sizeof "cuCtxCreate_v" - 1] == '4' &&
           (params->numExecAffinityParams || params->cigParams);
}

static CUresult create(struct creation *how, const char *api, CUresult (*make)(void *how)) {
    if (!how->out || !vgpu_partition_any() || !vgpu_partition_sms(how->device))
        return vgpu_context_make(how->out, how->device, api, make, how);
    if (has_needs(how, api)) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return vgpu_context_open_room(how->out, how->device, how->flags, api);
}

VGPU_EXPORT CUresult cuCtxCreate(CUcontext *out, unsigned int flags, CUdevice device) {
    struct creation how = {.out = out, .flags = flags, .device = device};
    return create(&how, "cuCtxCreate", make_v1);
}

VGPU_EXPORT CUresult cuCtxCreate_v2(CUcontext *out, unsigned int flags, CUdevice device) {
    struct creation how = {.out = out, .flags = flags, .device = device};
    return create(&how, "cuCtxCreate_v2", make_v2);
}

VGPU_EXPORT CUresult cuCtxCreate_v3(CUcontext *out, CUexecAffinityParam *params, int count,
                                    unsigned int flags, CUdevice device) {
    struct creation how = {out, params, count, flags, device};
    return create(&how, "cuCtxCreate_v3", make_v3);
}

VGPU_EXPORT CUresult cuCtxCreate_v4(CUcontext *out, CUctxCreateParams *params, unsigned int flags,
                                    CUdevice device) {
    struct creation how = {.out = out, .params = params, .flags = flags, .device = device};
    return create(&how, "cuCtxCreate_v4", make_v4);
}

static CUresult make_gl(void *how) {
    const struct creation *c = how;
    return REAL(cuGLCtxCreate)(c->out, c->flags, c->device);
}
static CUresult make_gl_v2(void *how) {
    const struct creation *c = how;
    return REAL(cuGLCtxCreate_v2)(c->out, c->flags, c->device);
}

VGPU_EXPORT CUresult cuGLCtxCreate(CUcontext *out, unsigned int flags, CUdevice device) {
    struct creation how = {.out = out, .flags = flags, .device = device};
    return create(&how, "cuGLCtxCreate", make_gl);
}

VGPU_EXPORT CUresult cuGLCtxCreate_v2(CUcontext *out, unsigned int flags, CUdevice device) {
    struct creation how = {.out = out, .flags = flags, .device = device};
    return create(&how, "cuGLCtxCreate_v2", make_gl_v2);
}

VGPU_EXPORT CUresult cuCtxDestroy(CUcontext context) {
    return vgpu_context_end(context, REAL(cuCtxDestroy));
}

VGPU_EXPORT CUresult cuCtxDestroy_v2(CUcontext context) {
    return vgpu_context_end(context, REAL(cuCtxDestroy_v2));
}

VGPU_EXPORT CUresult cuCtxDetach(CUcontext context) {
    return vgpu_context_end(context, REAL(cuCtxDetach));
}

VGPU_EXPORT CUresult cuGreenCtxCreate(CUgreenCtx *out, CUdevResourceDesc resources, CUdevice device,
                                      unsigned int flags) {
    return vgpu_context_make_green(out, resources, device, flags);
}

VGPU_EXPORT CUresult cuGreenCtxDestroy(CUgreenCtx green) { return vgpu_context_end_green(green); }

VGPU_EXPORT CUresult cuCtxFromGreenCtx(CUcontext *out, CUgreenCtx green) {
    CUdevice device;
    CUcontext popped;
    CUresult rc = REAL(cuCtxFromGreenCtx)(out, green);
    if (rc != CUDA_SUCCESS || !out || !vgpu_session_get()) return rc;
    vgpu_partition_taken_over(*out);
    if (REAL(cuCtxPushCurrent_v2)(*out) != CUDA_SUCCESS) return rc;
    if (CALL(cuCtxGetDevice)(&device) == CUDA_SUCCESS) vgpu_context_enter_free(*out, device);
    CALL(cuCtxPopCurrent_v2)(&popped);
    return rc;
}

VGPU_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device) {
    return vgpu_context_retain_primary(out, device, "cuDevicePrimaryCtxRetain");
}

VGPU_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    return vgpu_context_release_primary(device, REAL(cuDevicePrimaryCtxRelease), false);
}

VGPU_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    return vgpu_context_release_primary(device, REAL(cuDevicePrimaryCtxRelease_v2), false);
}

VGPU_EXPORT CUresult cuDevicePrimaryCtxReset(CUdevice device) {
    return vgpu_context_release_primary(device, REAL(cuDevicePrimaryCtxReset), true);
}

VGPU_EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    return vgpu_context_release_primary(device, REAL(cuDevicePrimaryCtxReset_v2), true);
}

/* A context that is not known yet may have been made behind our back. Whether it fits can only be
 * told once it is current, since only then does every driver name its device. */
static bool is_news(CUcontext context) {
    struct vgpu_context known;
    return context && vgpu_session_get() && !vgpu_contexts_find(context, &known);
}

VGPU_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
    CUresult rc = CUDA_SUCCESS;
    if (__builtin_expect(vgpu_partition_any(), 0))
        rc = vgpu_context_inside(context, "cuCtxSetCurrent", &context);
    if (rc != CUDA_SUCCESS) return rc;
    if (!is_news(context)) return REAL(cuCtxSetCurrent)(context);
    CUcontext before = NULL;
    CALL(cuCtxGetCurrent)(&before);
    rc = REAL(cuCtxSetCurrent)(context);
    if (rc == CUDA_SUCCESS) {
        rc = vgpu_context_seen_by(context, "cuCtxSetCurrent");
        if (rc != CUDA_SUCCESS) REAL(cuCtxSetCurrent)(before);
    }
    return rc;
}

static CUresult push(CUcontext context, const char *api, CUresult (*real)(CUcontext)) {
    CUcontext popped;
    CUresult rc = vgpu_context_inside(context, api, &context);
    if (rc != CUDA_SUCCESS) return rc;
    if (!is_news(context)) return real(context);
    rc = real(context);
    if (rc == CUDA_SUCCESS) {
        rc = vgpu_context_seen_by(context, api);
        if (rc != CUDA_SUCCESS) CALL(cuCtxPopCurrent_v2)(&popped);
    }
    return rc;
}

VGPU_EXPORT CUresult cuCtxPushCurrent(CUcontext context) {
    return push(context, "cuCtxPushCurrent", REAL(cuCtxPushCurrent));
}

VGPU_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
    return push(context, "cuCtxPushCurrent_v2", REAL(cuCtxPushCurrent_v2));
}
