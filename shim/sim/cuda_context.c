/* Contexts: the primary one of each device, created ones, and each thread's stack of current ones.
 */
#include <stdlib.h>

#include "cuda_sim.h"

#define STACK_DEPTH 64
static __thread struct context *stack[STACK_DEPTH];
static __thread int depth;

CUresult context_active(struct context **context) {
    if (!depth || !stack[depth - 1]) return CUDA_ERROR_INVALID_CONTEXT;
    *context = stack[depth - 1];
    CHECK(process_fault());
    return (*context)->alive ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}
CUresult context_current(struct context **context) {
    CHECK(context_active(context));
    *context = (*context)->owner;
    return CUDA_SUCCESS;
}

CUresult context_find(CUcontext handle, struct context **context) {
    if (!handle) return context_active(context);
    if (!object_is(handle, SIM_CONTEXT)) return CUDA_ERROR_INVALID_CONTEXT;
    *context = (struct context *)handle;
    return (*context)->alive ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

static void count_contexts(int card, int change) {
    struct sim_machine *machine = sim_machine();
    sim_lock(machine);
    machine->proc[sim_process.slot].contexts[card] += (unsigned int)change;
    sim_unlock(machine);
}

static CUresult context_start(struct context *context, int device, unsigned int flags,
                              bool primary) {
    const struct sim_model *model = sim_model();
    struct device *on = &sim_process.device[device];
    CHECK(process_fault());
    int card = on->card;
    if (!on->lane) on->lane = lane_open(card, sim_sms_range(0, model->sms));
    if (!on->lane) return CUDA_ERROR_OUT_OF_MEMORY;
    if (!sim_take(sim_process.slot, card, model->context_listed, model->context_hidden))
        return CUDA_ERROR_OUT_OF_MEMORY;
    count_contexts(card, 1);
    context->lane = on->lane;
    context->owner = context;
    context->device = device;
    context->flags = flags;
    context->primary = primary;
    context->alive = true;
    context->id = ++sim_process.next_id;
    context->charged = context->stack_charged = 0;
    context->graph_nodes = context->graph_nodes_paid = 0;
    context->local_by_kernels = 0;
    context->blocking_tail = 0;
    context->limit[CU_LIMIT_STACK_SIZE] = 1024;
    context->limit[CU_LIMIT_PRINTF_FIFO_SIZE] = 7 * SIM_MIB;
    context->limit[CU_LIMIT_MALLOC_HEAP_SIZE] = 8 * SIM_MIB;
    context->limit[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2;
    context->limit[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048;
    context->limit[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64;
    context->limit[CU_LIMIT_PERSISTING_L2_CACHE_SIZE] = 0;
    context->paid_streams = context->live_streams = 0;
    /* The default stream is part of the context's own memory. */
    context->paid_streams = 1;
    CHECK(stream_new(context, 0, 0, &context->legacy));
    context->legacy->legacy = true;
    return CUDA_SUCCESS;
}

void context_quiet(struct context *context) {
    struct lane *lane = context_lane(context);
    context->alive = false;
    lane_look(lane);
    /* An endless kernel, of which a part may have run, ends with its context; a spinner too. */
    if (lane->submitted - lane->done >= SIM_ENDLESS / 2) lane_cancel(lane);
    else lane_wait(lane, lane->submitted);
    while (context->streams) {
        struct stream *stream = context->streams;
        context->streams = stream->next;
        stream_forget(stream);
    }
    context->legacy = NULL;
    context->captures = context->blocking_captures = 0;
}

/* Frees what belongs to the context; memory of cuMemCreate and of pools belongs to the process and
 * the device. */
static void context_end(struct context *context) {
    const struct sim_model *model = sim_model();
    green_drop_all(context);
    context_quiet(context);
    memory_drop_context(context);
    array_drop_context(context);
    module_drop_context(context);
    int card = context_device(context)->card;
    sim_give(sim_process.slot, card,
             model->context_listed + context->charged + context->stack_charged,
             model->context_hidden);
    count_contexts(card, -1);
}

/* --- primary contexts --- */

CUresult context_retain(int number, struct context **out) {
    struct device *device = &sim_process.device[number];
    if (!device->primary) device->primary = object_new(SIM_CONTEXT, sizeof *device->primary);
    if (!device->primary) return CUDA_ERROR_OUT_OF_MEMORY;
    if (!device->primary->alive)
        CHECK(context_start(device->primary, number, device->primary_flags, true));
    device->primary_refs++;
    *out = device->primary;
    return CUDA_SUCCESS;
}
CUresult context_release(int number) {
    struct device *device = &sim_process.device[number];
    if (!device->primary_refs) return CUDA_ERROR_INVALID_CONTEXT;
    if (!--device->primary_refs) context_end(device->primary);
    return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice number) {
    SIM_ENTER();
    CHECK(device_valid(number));
    return out ? context_retain(number, (struct context **)out) : CUDA_ERROR_INVALID_VALUE;
}

static CUresult primary_release(CUdevice number) {
    SIM_ENTER();
    CHECK(device_valid(number));
    return context_release(number);
}
API CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return primary_release(device); }
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { return primary_release(device); }

static CUresult primary_reset(CUdevice number) {
    SIM_ENTER();
    CHECK(device_valid(number));
    struct device *device = &sim_process.device[number];
    device->primary_refs = 0;
    if (device->primary && device->primary->alive) context_end(device->primary);
    return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxReset(CUdevice device) { return primary_reset(device); }
API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) { return primary_reset(device); }

API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice number, unsigned int flags) {
    SIM_ENTER();
    CHECK(device_valid(number));
    if (flags & ~(unsigned)CU_CTX_FLAGS_MASK) return CUDA_ERROR_INVALID_VALUE;
    struct device *device = &sim_process.device[number];
    device->primary_flags = flags;
    if (device->primary && device->primary->alive) device->primary->flags = flags;
    return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags) {
    return cuDevicePrimaryCtxSetFlags_v2(device, flags);
}
API CUresult cuDevicePrimaryCtxGetState(CUdevice number, unsigned int *flags, int *active) {
    SIM_ENTER();
    CHECK(device_valid(number));
    if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
    const struct device *device = &sim_process.device[number];
    *flags = device->primary_flags;
    *active = device->primary && device->primary->alive;
    return CUDA_SUCCESS;
}

/* --- created contexts --- */

static CUresult context_create(CUcontext *out, unsigned int flags, CUdevice number) {
    SIM_ENTER();
    CHECK(device_valid(number));
    if (!out || flags & ~(unsigned)CU_CTX_FLAGS_MASK) return CUDA_ERROR_INVALID_VALUE;
    if (depth == STACK_DEPTH) return CUDA_ERROR_OUT_OF_MEMORY;
    struct context *context = object_new(SIM_CONTEXT, sizeof *context);
    if (!context) return CUDA_ERROR_OUT_OF_MEMORY;
    CHECK(context_start(context, number, flags, false));
    stack[depth++] = context;
    *out = (CUcontext)context;
    return CUDA_SUCCESS;
}
API CUresult cuCtxCreate_v2(CUcontext *out, unsigned int flags, CUdevice device) {
    return context_create(out, flags, device);
}
API CUresult cuCtxCreate_v3(CUcontext *out, CUexecAffinityParam *params, int count,
                            unsigned int flags, CUdevice device) {
    return count && params ? CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY
                           : context_create(out, flags, device);
}
API CUresult cuCtxCreate_v4(CUcontext *out, CUctxCreateParams *params, unsigned int flags,
                            CUdevice device) {
    if (params && params->numExecAffinityParams) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return params && params->cigParams ? CUDA_ERROR_NOT_SUPPORTED
                                       : context_create(out, flags, device);
}
/* The 32-bit one wants all of a card's memory below 4 GiB: measured 2 on an H200. */
API CUresult cuCtxCreate(CUcontext *out, unsigned int flags, CUdevice device) {
    SIM_ENTER();
    (void)flags;
    CHECK(device_valid(device));
    return out ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuCtxDestroy_v2(CUcontext handle) {
    SIM_ENTER();
    struct context *context;
    if (!handle) return CUDA_ERROR_INVALID_CONTEXT;
    CHECK(context_find(handle, &context));
    if (context->primary || context->green) return CUDA_ERROR_INVALID_CONTEXT;
    context_end(context);
    if (depth && stack[depth - 1] == context) depth--;
    return CUDA_SUCCESS;
}
API CUresult cuCtxDestroy(CUcontext context) { return cuCtxDestroy_v2(context); }
API CUresult cuCtxDetach(CUcontext context) { return cuCtxDestroy_v2(context); }

/* --- the thread's current context --- */

API CUresult cuCtxPushCurrent_v2(CUcontext handle) {
    SIM_ENTER();
    struct context *context;
    if (!handle) return CUDA_ERROR_INVALID_CONTEXT;
    CHECK(context_find(handle, &context));
    if (depth == STACK_DEPTH) return CUDA_ERROR_INVALID_VALUE;
    stack[depth++] = context;
    return CUDA_SUCCESS;
}
API CUresult cuCtxPushCurrent(CUcontext context) { return cuCtxPushCurrent_v2(context); }

API CUresult cuCtxPopCurrent_v2(CUcontext *out) {
    SIM_ENTER();
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    struct context *top = stack[--depth];
    if (out) *out = (CUcontext)top;
    return CUDA_SUCCESS;
}
API CUresult cuCtxPopCurrent(CUcontext *out) { return cuCtxPopCurrent_v2(out); }

API CUresult cuCtxSetCurrent(CUcontext handle) {
    SIM_ENTER();
    struct context *context = NULL;
    if (handle) CHECK(context_find(handle, &context));
    if (!context) {
        if (depth) depth--;
        return CUDA_SUCCESS;
    }
    if (!depth) depth = 1;
    stack[depth - 1] = context;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetCurrent(CUcontext *out) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = depth ? (CUcontext)stack[depth - 1] : NULL;
    return CUDA_SUCCESS;
}
