/* The entry points that ask a context or change its settings. */
#include "cuda_sim.h"

API CUresult cuCtxGetDevice(CUdevice *out) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    *out = context->device;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetDevice_v2(CUdevice *out, CUcontext handle) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_find(handle, &context));
    *out = context->device;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetId(CUcontext handle, unsigned long long *out) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_find(handle, &context));
    *out = context->id;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetFlags(unsigned int *out) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    *out = context->flags;
    return CUDA_SUCCESS;
}
API CUresult cuCtxSetFlags(unsigned int flags) {
    SIM_ENTER();
    struct context *context;
    CHECK(context_current(&context));
    context->flags = flags;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetApiVersion(CUcontext handle, unsigned int *out) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_find(handle, &context));
    *out = 3020;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    SIM_ENTER();
    struct context *context;
    CHECK(context_current(&context));
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return CUDA_SUCCESS;
}

/* A green context does not wait for a graph that was launched last (H200, driver 580: three times
 * of eight). */
static void wait_of_synchronize(struct context *context) {
    struct lane *lane = context_lane(context);
    if (context->green && lane->submitted == context->graph_to)
        lane_wait(lane, context->graph_from);
    else context_wait(context);
}

static CUresult synchronize(CUcontext handle) {
    SIM_ENTER();
    struct context *context;
    CHECK(context_find(handle, &context));
    CHECK(capture_check_context(context));
    CHECK(capture_unsafe());
    int device = context->device;
    wait_of_synchronize(context);
    pool_release_unused(device);
    return process_fault();
}
API CUresult cuCtxSynchronize(void) { return synchronize(NULL); }
API CUresult cuCtxSynchronize_v2(CUcontext context) { return synchronize(context); }

/* Local memory for every thread that fits on the card: the default size is part of the context. The
 * pool serves the stack limit and the greediest kernel so far. */
static CUresult set_pool(struct context *context, size_t limit, size_t by_kernels) {
    size_t bytes = limit > by_kernels ? limit : by_kernels;
    const struct sim_model *model = sim_model();
    int card = context_device(context)->card;
    uint64_t threads = (uint64_t)model->threads_per_sm * model->sms;
    uint64_t wanted = bytes > 1024 ? (bytes - 1024) * threads : 0, held = context->stack_charged;
    wanted -= wanted % (2 * SIM_MIB); /* measured: the rest fits into the context */
    if (wanted > held && !sim_take(sim_process.slot, card, wanted - held, 0))
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (wanted < held) sim_give(sim_process.slot, card, held - wanted, 0);
    context->stack_charged = wanted;
    context->local_by_kernels = by_kernels;
    context->limit[CU_LIMIT_STACK_SIZE] = limit;
    return CUDA_SUCCESS;
}
CUresult context_local(struct context *context, unsigned int bytes) {
    if (bytes <= context->local_by_kernels) return CUDA_SUCCESS;
    context_wait(context); /* meanwhile others may have moved it */
    if (bytes <= context->local_by_kernels) return CUDA_SUCCESS;
    return set_pool(context, context->limit[CU_LIMIT_STACK_SIZE], bytes);
}
API CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
    SIM_ENTER();
    struct context *context;
    CHECK(context_current(&context));
    CHECK(capture_unsafe());
    if ((unsigned int)limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE)
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    if (limit == CU_LIMIT_STACK_SIZE) {
        if (value > 524288) return CUDA_ERROR_INVALID_VALUE;
        context_wait(context);
        return set_pool(context, value, context->local_by_kernels);
    }
    context->limit[limit] = value;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetLimit(size_t *out, CUlimit limit) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    if ((unsigned int)limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE)
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    *out = context->limit[limit];
    return CUDA_SUCCESS;
}

/* --- settings without effect here --- */

static CUresult current_only(void) {
    SIM_ENTER();
    struct context *context;
    return context_current(&context);
}
API CUresult cuCtxSetCacheConfig(CUfunc_cache config) {
    return config > 3 ? CUDA_ERROR_INVALID_VALUE : current_only();
}
API CUresult cuCtxGetCacheConfig(CUfunc_cache *out) {
    if (out) *out = 0;
    return current_only();
}
API CUresult cuCtxSetSharedMemConfig(CUsharedconfig config) {
    return config > 2 ? CUDA_ERROR_INVALID_VALUE : current_only();
}
API CUresult cuCtxGetSharedMemConfig(CUsharedconfig *out) {
    if (out) *out = 1;
    return current_only();
}
API CUresult cuCtxResetPersistingL2Cache(void) { return current_only(); }
API CUresult cuProfilerStart(void) { return current_only(); }
API CUresult cuProfilerStop(void) { return current_only(); }

API CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags) {
    SIM_ENTER();
    struct context *context;
    CHECK(context_current(&context));
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(peer, SIM_CONTEXT) || (struct context *)peer == context)
        return CUDA_ERROR_INVALID_CONTEXT;
    return CUDA_SUCCESS;
}
API CUresult cuCtxDisablePeerAccess(CUcontext peer) { return cuCtxEnablePeerAccess(peer, 0); }
API CUresult cuDeviceCanAccessPeer(int *out, CUdevice device, CUdevice peer) {
    SIM_ENTER();
    CHECK(device_valid(device));
    CHECK(device_valid(peer));
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = device != peer;
    return CUDA_SUCCESS;
}
