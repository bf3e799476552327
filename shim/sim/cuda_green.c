/* Green contexts: some of a device's SMs, with streams and a queue of their own. Memory, modules
 * and events are the primary context's, which each of them retains. */
#include <string.h>

#include "cuda_sim.h"

/* What the opaque part of a resource holds. `split`: which call made it, 0 = a whole context's. */
struct resource {
    struct sim_sms sms;
    uint64_t split;
    int device;
    unsigned int step;
};

struct desc {
    struct object object;
    int device;
    struct sim_sms sms;
};

static void resource_put(CUdevResource *out, const struct resource *resource) {
    *out = (CUdevResource){.type = CU_DEV_RESOURCE_TYPE_SM};
    memcpy(out->internal_padding, resource, sizeof *resource);
    out->sm.smCount = sim_sms_count(resource->sms);
    out->sm.minSmPartitionSize = out->sm.smCoscheduledAlignment = resource->step;
    if (!out->sm.smCount) out->type = CU_DEV_RESOURCE_TYPE_INVALID;
}

static CUresult resource_get(const CUdevResource *in, struct resource *resource) {
    if (in->type != CU_DEV_RESOURCE_TYPE_SM) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    memcpy(resource, in->internal_padding, sizeof *resource);
    return device_valid(resource->device);
}

static CUresult whole(int device, struct sim_sms sms, CUdevResource *out, CUdevResourceType type) {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_DEV_RESOURCE_TYPE_SM) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    resource_put(out, &(struct resource){sms, 0, device, sim_model()->sm_step});
    return CUDA_SUCCESS;
}
API CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource *out, CUdevResourceType type) {
    SIM_ENTER();
    CHECK(device_valid(device));
    return whole(device, sim_sms_range(0, sim_model()->sms), out, type);
}
API CUresult cuCtxGetDevResource(CUcontext handle, CUdevResource *out, CUdevResourceType type) {
    SIM_ENTER();
    struct context *context;
    CHECK(context_find(handle, &context));
    return whole(context->device, context_lane(context)->sms, out, type);
}
API CUresult cuGreenCtxGetDevResource(CUgreenCtx handle, CUdevResource *out,
                                      CUdevResourceType type) {
    SIM_ENTER();
    if (!object_is(handle, SIM_GREEN)) return CUDA_ERROR_INVALID_CONTEXT;
    struct context *context = ((struct green *)handle)->context;
    return whole(context->device, context_lane(context)->sms, out, type);
}

/* --- splitting --- */

/* The next `count` SMs of `from` go over to the result, the lowest numbers first. */
static struct sim_sms take_sms(struct sim_sms *from, unsigned int count) {
    struct sim_sms taken = {0};
    for (unsigned int sm = 0; count && sm < 64 * SIM_SM_WORDS; sm++) {
        uint64_t bit = UINT64_C(1) << sm % 64;
        if (!(from->word[sm / 64] & bit)) continue;
        from->word[sm / 64] &= ~bit;
        taken.word[sm / 64] |= bit;
        count--;
    }
    return taken;
}

/* Groups of equal size, whole steps each. The chip's own shape allows fewer steps than SMs / step
 * (15 of 8 on 132). CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING (1) makes the step 2. */
static CUresult split(CUdevResource *groups, unsigned int *count, const CUdevResource *input,
                      CUdevResource *remaining, unsigned int flags, unsigned int least) {
    SIM_ENTER();
    const struct sim_model *model = sim_model();
    struct resource in;
    if (!count || !input || flags > 3) return CUDA_ERROR_INVALID_VALUE;
    CHECK(resource_get(input, &in));
    if (in.split) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    unsigned int total = sim_sms_count(in.sms), step = flags & 1 ? 2 : model->sm_step;
    if (least > total) return CUDA_ERROR_INVALID_VALUE;
    unsigned int steps = total / step, most = model->sm_groups * model->sm_step / step;
    unsigned int each = least ? (least + step - 1) / step : 1;
    if (steps > most) steps = most;
    unsigned int made = steps / each;
    if (groups && *count < made) made = *count;
    *count = made;
    if (!groups) return CUDA_SUCCESS;
    if (!made) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    struct resource out = {in.sms, ++sim_process.next_id, in.device, step};
    for (unsigned int i = 0; i < made; i++) {
        out.sms = take_sms(&in.sms, each * step);
        resource_put(&groups[i], &out);
    }
    out.sms = in.sms;
    if (remaining) resource_put(remaining, &out);
    return CUDA_SUCCESS;
}
API CUresult cuDevSmResourceSplitByCount(CUdevResource *groups, unsigned int *count,
                                         const CUdevResource *input, CUdevResource *remaining,
                                         unsigned int flags, unsigned int least) {
    return split(groups, count, input, remaining, flags, least);
}

API CUresult cuDevResourceGenerateDesc(CUdevResourceDesc *out, CUdevResource *resources,
                                       unsigned int count) {
    SIM_ENTER();
    struct resource all = {0}, one;
    if (!out || !resources || !count) return CUDA_ERROR_INVALID_VALUE;
    CHECK(resource_get(&resources[0], &all));
    for (unsigned int i = 1; i < count; i++) {
        CHECK(resource_get(&resources[i], &one));
        if (!one.split || one.split != all.split || sim_sms_meet(one.sms, all.sms))
            return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        all.sms = sim_sms_join(all.sms, one.sms);
    }
    struct desc *desc = object_new(SIM_DESC, sizeof *desc);
    if (!desc) return CUDA_ERROR_OUT_OF_MEMORY;
    desc->device = all.device;
    desc->sms = all.sms;
    *out = (CUdevResourceDesc)desc;
    return CUDA_SUCCESS;
}

/* --- the contexts --- */

static CUresult context_make(struct green *green, struct context *primary, struct sim_sms sms) {
    struct context *context = object_new(SIM_CONTEXT, sizeof *context);
    if (!context) return CUDA_ERROR_OUT_OF_MEMORY;
    context->lane = lane_open(context_lane(primary)->card, sms);
    context->device = primary->device;
    context->flags = primary->flags;
    context->owner = primary;
    context->green = green;
    context->id = ++sim_process.next_id;
    if (!context->lane || stream_new(context, 0, 0, &context->legacy)) {
        if (context->lane) lane_close(context->lane);
        object_drop(context);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    context->legacy->legacy = true;
    context->alive = true;
    context->beside = primary->greens;
    primary->greens = context;
    green->context = context;
    return CUDA_SUCCESS;
}

/* The context's handle stays for whoever has it current: 709 from now on. */
static void green_drop(struct green *green) {
    struct context *context = green->context, **link = &context->owner->greens;
    while (*link != context) link = &(*link)->beside;
    *link = context->beside;
    context_quiet(context);
    lane_close(context->lane);
    sim_give(sim_process.slot, context_device(context)->card, context->charged, 0);
    object_drop(green);
}

void green_drop_all(struct context *primary) {
    while (primary->greens) green_drop(primary->greens->green);
}

API CUresult cuGreenCtxCreate(CUgreenCtx *out, CUdevResourceDesc handle, CUdevice device,
                              unsigned int flags) {
    SIM_ENTER();
    CHECK(device_valid(device));
    if (!out || flags != CU_GREEN_CTX_DEFAULT_STREAM || !object_is(handle, SIM_DESC))
        return CUDA_ERROR_INVALID_VALUE;
    const struct desc *desc = (struct desc *)handle;
    if (desc->device != device) return CUDA_ERROR_INVALID_DEVICE;
    struct context *primary;
    CHECK(context_retain(device, &primary));
    struct green *green = object_new(SIM_GREEN, sizeof *green);
    CUresult rc = green ? context_make(green, primary, desc->sms) : CUDA_ERROR_OUT_OF_MEMORY;
    if (rc) {
        if (green) object_drop(green);
        context_release(device);
        return rc;
    }
    *out = (CUgreenCtx)green;
    return CUDA_SUCCESS;
}

API CUresult cuGreenCtxDestroy(CUgreenCtx handle) {
    SIM_ENTER();
    if (!object_is(handle, SIM_GREEN)) return CUDA_ERROR_INVALID_CONTEXT;
    struct green *green = (struct green *)handle;
    int device = green->context->device;
    green_drop(green);
    return context_release(device);
}

API CUresult cuCtxFromGreenCtx(CUcontext *out, CUgreenCtx handle) {
    SIM_ENTER();
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!object_is(handle, SIM_GREEN)) return CUDA_ERROR_INVALID_CONTEXT;
    *out = (CUcontext)((struct green *)handle)->context;
    return CUDA_SUCCESS;
}

API CUresult cuGreenCtxGetId(CUgreenCtx handle, unsigned long long *out) {
    SIM_ENTER();
    struct context *context;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (handle && !object_is(handle, SIM_GREEN)) return CUDA_ERROR_INVALID_CONTEXT;
    if (handle) context = ((struct green *)handle)->context;
    else CHECK(context_active(&context));
    if (!context->green) return CUDA_ERROR_INVALID_CONTEXT;
    *out = context->id;
    return CUDA_SUCCESS;
}
