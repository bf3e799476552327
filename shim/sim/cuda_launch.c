/* Kernel launches, in every form. A launch call takes no device time; the kernel takes its
 * function's. */
#include "cuda_sim.h"

struct shape {
    unsigned int gx, gy, gz, bx, by, bz, shared;
};

static CUresult shape_check(const struct function *function, const struct shape *s) {
    if (!s->gx || !s->gy || !s->gz || !s->bx || !s->by || !s->bz) return CUDA_ERROR_INVALID_VALUE;
    if (s->gx > 0x7fffffff || s->gy > 65535 || s->gz > 65535 || s->bz > 64)
        return CUDA_ERROR_INVALID_VALUE;
    if ((uint64_t)s->bx * s->by * s->bz > 1024 || s->bx > 1024 || s->by > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    return s->shared > (unsigned int)function->dynamic_max ? CUDA_ERROR_INVALID_VALUE
                                                           : CUDA_SUCCESS;
}

static CUresult launch(CUfunction handle, const struct shape *shape, CUstream stream_handle,
                       bool per_thread, void **params, void **extra) {
    SIM_ENTER();
    struct function *function;
    struct stream *stream;
    struct work work;
    CHECK(stream_find(stream_handle, per_thread, &stream));
    CHECK(function_valid(handle, &function));
    CHECK(shape_check(function, shape));
    function_work(function, params, extra, &work);
    if (!stream_capturing(stream)) CHECK(module_use(function->module));
    if (function->local && !stream_capturing(stream))
        CHECK(context_local(stream->context->owner, function->local));
    if (stream_capturing(stream)) {
        struct node *node;
        CHECK(capture_node(stream, CU_GRAPH_NODE_TYPE_KERNEL, &node));
        node->work = work;
        node->kernel = (CUDA_KERNEL_NODE_PARAMS){
            handle,    shape->gx,     shape->gy, shape->gz, shape->bx, shape->by,
            shape->bz, shape->shared, params,    extra,     NULL,      (CUcontext)stream->context};
        return CUDA_SUCCESS;
    }
    stream_work(stream, &work, true);
    return CUDA_SUCCESS;
}

API CUresult cuLaunchKernel(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,
                            unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared,
                            CUstream stream, void **params, void **extra) {
    return launch(f, &(struct shape){gx, gy, gz, bx, by, bz, shared}, stream, false, params, extra);
}
API CUresult cuLaunchKernel_ptsz(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,
                                 unsigned int bx, unsigned int by, unsigned int bz,
                                 unsigned int shared, CUstream stream, void **params,
                                 void **extra) {
    return launch(f, &(struct shape){gx, gy, gz, bx, by, bz, shared}, stream, true, params, extra);
}

static CUresult launch_config(const CUlaunchConfig *c, CUfunction f, bool per_thread, void **params,
                              void **extra) {
    if (!c) return CUDA_ERROR_INVALID_VALUE;
    struct shape shape = {c->gridDimX,  c->gridDimY,  c->gridDimZ,      c->blockDimX,
                          c->blockDimY, c->blockDimZ, c->sharedMemBytes};
    return launch(f, &shape, c->hStream, per_thread, params, extra);
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **params,
                              void **extra) {
    return launch_config(config, f, false, params, extra);
}
API CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **params,
                                   void **extra) {
    return launch_config(config, f, true, params, extra);
}

/* How many SMs a launch on this stream has; all where the stream is bad: the launch will say so. */
static unsigned int sms_of(CUstream handle, bool per_thread) {
    struct stream *stream;
    unsigned int all = sim_model()->sms;
    if (sim_enter()) return all;
    if (!stream_find_quietly(handle, per_thread, &stream))
        all = sim_sms_count(context_lane(stream->context)->sms);
    sim_leave(&(CUresult){CUDA_SUCCESS});
    return all;
}

/* A cooperative grid must fit on the context's SMs at once. */
static CUresult launch_cooperative(CUfunction f, const struct shape *shape, CUstream stream,
                                   bool per_thread, void **params) {
    const struct sim_model *model = sim_model();
    uint64_t threads = (uint64_t)shape->bx * shape->by * shape->bz;
    uint64_t per_sm = threads ? model->threads_per_sm / threads : 0;
    if (per_sm > model->blocks_per_sm) per_sm = model->blocks_per_sm;
    if ((uint64_t)shape->gx * shape->gy * shape->gz > per_sm * sms_of(stream, per_thread) &&
        threads)
        return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    return launch(f, shape, stream, per_thread, params, NULL);
}
API CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned int gx, unsigned int gy,
                                       unsigned int gz, unsigned int bx, unsigned int by,
                                       unsigned int bz, unsigned int shared, CUstream stream,
                                       void **params) {
    return launch_cooperative(f, &(struct shape){gx, gy, gz, bx, by, bz, shared}, stream, false,
                              params);
}
API CUresult cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned int gx, unsigned int gy,
                                            unsigned int gz, unsigned int bx, unsigned int by,
                                            unsigned int bz, unsigned int shared, CUstream stream,
                                            void **params) {
    return launch_cooperative(f, &(struct shape){gx, gy, gz, bx, by, bz, shared}, stream, true,
                              params);
}

/* A part for each device, each in a stream of its own. */
API CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *list, unsigned int count,
                                                  unsigned int flags) {
    if (!list || !count || count > (unsigned int)sim_card_count() || flags > 3)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < count; i++)
        if ((uintptr_t)list[i].hStream <= 2) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < count; i++) {
        const CUDA_LAUNCH_PARAMS *p = &list[i];
        const struct shape shape = {p->gridDimX,  p->gridDimY,  p->gridDimZ,      p->blockDimX,
                                    p->blockDimY, p->blockDimZ, p->sharedMemBytes};
        CHECK(launch_cooperative(p->function, &shape, p->hStream, false, p->kernelParams));
    }
    return CUDA_SUCCESS;
}

/* --- CUDA 2: the shape and the parameters were set before --- */

static CUresult launch_old(CUfunction handle, int gx, int gy, CUstream stream) {
    struct shape shape;
    {
        SIM_ENTER();
        struct function *function;
        CHECK(function_valid(handle, &function));
        if (gx < 1 || gy < 1) return CUDA_ERROR_INVALID_VALUE;
        shape = (struct shape){(unsigned int)gx,
                               (unsigned int)gy,
                               1,
                               (unsigned int)function->block[0],
                               (unsigned int)function->block[1],
                               (unsigned int)function->block[2],
                               (unsigned int)function->shared};
    }
    return launch(handle, &shape, stream, false, NULL, NULL);
}
API CUresult cuLaunch(CUfunction f) { return launch_old(f, 1, 1, NULL); }
API CUresult cuLaunchGrid(CUfunction f, int gx, int gy) { return launch_old(f, gx, gy, NULL); }
API CUresult cuLaunchGridAsync(CUfunction f, int gx, int gy, CUstream stream) {
    return launch_old(f, gx, gy, stream);
}
