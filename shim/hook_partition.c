/* What a program in a partition sees: the handles that it knows, and the partition's SMs as the
 * device's. Thin wrappers, the thinking is in partition.c. Without a partition each of them is the
 * driver's own call, one load and one branch later. */
#include "context.h"
#include "interpose.h"
#include "partition.h"

/* --- contexts --- */

static CUresult show(CUresult rc, CUcontext *out) {
    if (rc == CUDA_SUCCESS && out && vgpu_partition_any()) *out = vgpu_partition_outside(*out);
    return rc;
}

/* PyTorch asks several times an operator: without a partition, straight on to the driver. cudart
 * asks before it works in a primary context: one that has come back gets a new view. */
VGPU_EXPORT CUresult cuCtxGetCurrent(CUcontext *out) {
    CUresult rc = REAL(cuCtxGetCurrent)(out);
    if (__builtin_expect(!vgpu_partition_any(), 1) || rc != CUDA_SUCCESS || !out) return rc;
    CUcontext known = vgpu_partition_outside(*out), view = vgpu_partition_inside(known);
    if (view == known && known != *out) vgpu_context_inside(known, "cuCtxGetCurrent", &view);
    if (view != known && view != *out) rc = REAL(cuCtxSetCurrent)(view);
    *out = known;
    return rc;
}

VGPU_EXPORT CUresult cuCtxPopCurrent(CUcontext *out) {
    return show(REAL(cuCtxPopCurrent)(out), out);
}

VGPU_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *out) {
    return show(REAL(cuCtxPopCurrent_v2)(out), out);
}

VGPU_EXPORT CUresult cuCtxGetId(CUcontext context, unsigned long long *id) {
    if (vgpu_partition_any()) {
        if (!context) REAL(cuCtxGetCurrent)(&context);
        context = vgpu_partition_outside(context);
    }
    return REAL(cuCtxGetId)(context, id);
}

VGPU_EXPORT CUresult cuCtxGetFlags(unsigned int *flags) {
    CUcontext current = NULL;
    CUdevice device;
    int active;
    if (flags && vgpu_partition_any() && REAL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS &&
        current) {
        if (vgpu_partition_is_room(current, NULL, flags)) return CUDA_SUCCESS;
        if (vgpu_partition_outside(current) != current &&
            CALL(cuCtxGetDevice)(&device) == CUDA_SUCCESS)
            return CALL(cuDevicePrimaryCtxGetState)(device, flags, &active);
    }
    return REAL(cuCtxGetFlags)(flags);
}

/* A view's are the primary context's. A room's are only remembered: the primary that carries it has
 * its own. */
VGPU_EXPORT CUresult cuCtxSetFlags(unsigned int flags) {
    CUcontext current = NULL;
    CUdevice device;
    if (vgpu_partition_any() && REAL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current) {
        if (vgpu_partition_set_flags(current, flags)) return CUDA_SUCCESS;
        if (vgpu_partition_outside(current) != current &&
            CALL(cuCtxGetDevice)(&device) == CUDA_SUCCESS)
            return CALL(cuDevicePrimaryCtxSetFlags_v2)(device, flags);
    }
    return REAL(cuCtxSetFlags)(flags);
}

/* Whoever gets the private tables may hold a primary context that we did not see retained. */
VGPU_EXPORT CUresult cuGetExportTable(const void **table, const CUuuid *id) {
    vgpu_partition_note_tables();
    return REAL(cuGetExportTable)(table, id);
}

/* --- streams and pointers name a context --- */

VGPU_EXPORT CUresult cuStreamGetCtx(CUstream stream, CUcontext *out) {
    return show(REAL(cuStreamGetCtx)(stream, out), out);
}

VGPU_EXPORT CUresult cuStreamGetCtx_ptsz(CUstream stream, CUcontext *out) {
    return show(REAL(cuStreamGetCtx_ptsz)(stream, out), out);
}

/* A green context that the program did not make stays out of its sight. */
static void hide(CUcontext *context, CUgreenCtx *green) {
    CUcontext view;
    if (!*green || REAL(cuCtxFromGreenCtx)(&view, *green) != CUDA_SUCCESS) return;
    CUcontext known = vgpu_partition_outside(view);
    if (known == view && !vgpu_partition_is_room(view, NULL, NULL)) return;
    *green = NULL;
    if (context) *context = known;
}

static CUresult answer_v2(CUresult rc, CUcontext *context, CUgreenCtx *green) {
    if (rc == CUDA_SUCCESS && green && vgpu_partition_any()) hide(context, green);
    return rc;
}

VGPU_EXPORT CUresult cuStreamGetCtx_v2(CUstream stream, CUcontext *context, CUgreenCtx *green) {
    return answer_v2(REAL(cuStreamGetCtx_v2)(stream, context, green), context, green);
}

VGPU_EXPORT CUresult cuStreamGetCtx_v2_ptsz(CUstream stream, CUcontext *context,
                                            CUgreenCtx *green) {
    return answer_v2(REAL(cuStreamGetCtx_v2_ptsz)(stream, context, green), context, green);
}

VGPU_EXPORT CUresult cuStreamGetGreenCtx(CUstream stream, CUgreenCtx *green) {
    CUresult rc = REAL(cuStreamGetGreenCtx)(stream, green);
    if (rc == CUDA_SUCCESS && green && vgpu_partition_any()) hide(NULL, green);
    return rc;
}

VGPU_EXPORT CUresult cuPointerGetAttribute(void *out, CUpointer_attribute attribute,
                                           CUdeviceptr pointer) {
    CUresult rc = REAL(cuPointerGetAttribute)(out, attribute, pointer);
    return attribute == CU_POINTER_ATTRIBUTE_CONTEXT ? show(rc, out) : rc;
}

VGPU_EXPORT CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute *attributes,
                                            void **out, CUdeviceptr pointer) {
    CUresult rc = REAL(cuPointerGetAttributes)(count, attributes, out, pointer);
    if (rc != CUDA_SUCCESS || !vgpu_partition_any()) return rc;
    for (unsigned int i = 0; i < count; i++)
        if (attributes[i] == CU_POINTER_ATTRIBUTE_CONTEXT) show(rc, out[i]);
    return rc;
}

/* --- graph nodes that name a context run in it --- */

static CUcontext inside(CUcontext context) {
    return vgpu_partition_any() ? vgpu_partition_inside(context) : context;
}

VGPU_EXPORT CUresult cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph,
                                          const CUgraphNode *after, size_t count,
                                          const CUDA_MEMCPY3D *params, CUcontext context) {
    return REAL(cuGraphAddMemcpyNode)(node, graph, after, count, params, inside(context));
}

VGPU_EXPORT CUresult cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph,
                                          const CUgraphNode *after, size_t count,
                                          const CUDA_MEMSET_NODE_PARAMS *params,
                                          CUcontext context) {
    return REAL(cuGraphAddMemsetNode)(node, graph, after, count, params, inside(context));
}

VGPU_EXPORT CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                    const CUDA_MEMCPY3D *params,
                                                    CUcontext context) {
    return REAL(cuGraphExecMemcpyNodeSetParams)(exec, node, params, inside(context));
}

VGPU_EXPORT CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                    const CUDA_MEMSET_NODE_PARAMS *params,
                                                    CUcontext context) {
    return REAL(cuGraphExecMemsetNodeSetParams)(exec, node, params, inside(context));
}

VGPU_EXPORT CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node,
                                                   const CUDA_KERNEL_NODE_PARAMS *params) {
    CUDA_KERNEL_NODE_PARAMS room;
    return REAL(cuGraphKernelNodeSetParams_v2)(node, vgpu_partition_kernel(params, &room));
}

VGPU_EXPORT CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                                       const CUDA_KERNEL_NODE_PARAMS *params) {
    CUDA_KERNEL_NODE_PARAMS room;
    params = vgpu_partition_kernel(params, &room);
    return REAL(cuGraphExecKernelNodeSetParams_v2)(exec, node, params);
}

VGPU_EXPORT CUresult cuGraphNodeSetParams(CUgraphNode node, CUgraphNodeParams *params) {
    CUgraphNodeParams room;
    return REAL(cuGraphNodeSetParams)(node, vgpu_partition_node(params, &room));
}

VGPU_EXPORT CUresult cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                              CUgraphNodeParams *params) {
    CUgraphNodeParams room;
    return REAL(cuGraphExecNodeSetParams)(exec, node, vgpu_partition_node(params, &room));
}

/* --- SM counts --- */

VGPU_EXPORT CUresult cuDeviceGetAttribute(int *out, CUdevice_attribute attribute, CUdevice device) {
    if (__builtin_expect(attribute != CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 1))
        return REAL(cuDeviceGetAttribute)(out, attribute, device);
    CUresult rc = REAL(cuDeviceGetAttribute)(out, attribute, device);
    if (rc != CUDA_SUCCESS) return rc;
    uint32_t sms = vgpu_partition_any() ? vgpu_partition_sms(device) : 0;
    if (sms) *out = (int)sms;
    return rc;
}

/* The card is the partition: groups that the program splits off it lie inside. A resource to split
 * further can only come from a green context, so there must be one, and it must last: the primary
 * context stays retained. */
VGPU_EXPORT CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource *out,
                                            CUdevResourceType type) {
    CUcontext primary, view;
    if (type != CU_DEV_RESOURCE_TYPE_SM || !out || !vgpu_partition_any() ||
        !vgpu_partition_sms(device))
        return REAL(cuDeviceGetDevResource)(device, out, type);
    CUresult rc = CUDA_SUCCESS;
    if (!vgpu_partition_of(device, &primary, &view)) {
        rc = cuDevicePrimaryCtxRetain(&primary, device);
        if (rc == CUDA_SUCCESS) rc = vgpu_context_inside(primary, "cuDeviceGetDevResource", &view);
    }
    return rc == CUDA_SUCCESS ? REAL(cuCtxGetDevResource)(view, out, type) : rc;
}

VGPU_EXPORT CUresult cuCtxGetDevResource(CUcontext context, CUdevResource *out,
                                         CUdevResourceType type) {
    return REAL(cuCtxGetDevResource)(inside(context), out, type);
}

/* Blocks that fill the device once: of the partition's SMs, whatever the driver counts by. */
static CUresult fill_partition(CUresult rc, int *grid, const int *block, CUfunction function,
                               size_t shared, unsigned int flags) {
    CUdevice device;
    int each;
    if (rc != CUDA_SUCCESS || !grid || !block || !vgpu_partition_any() ||
        CALL(cuCtxGetDevice)(&device) != CUDA_SUCCESS)
        return rc;
    uint32_t sms = vgpu_partition_sms(device);
    if (!sms) return rc;
    rc = CALL(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)(&each, function, *block, shared,
                                                                    flags);
    if (rc == CUDA_SUCCESS) *grid = each * (int)sms;
    return rc;
}

VGPU_EXPORT CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction function,
                                                      CUoccupancyB2DSize shared_of, size_t shared,
                                                      int most) {
    CUresult rc =
        REAL(cuOccupancyMaxPotentialBlockSize)(grid, block, function, shared_of, shared, most);
    if (rc == CUDA_SUCCESS && shared_of && block) shared = shared_of(*block);
    return fill_partition(rc, grid, block, function, shared, 0);
}

VGPU_EXPORT CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block,
                                                               CUfunction function,
                                                               CUoccupancyB2DSize shared_of,
                                                               size_t shared, int most,
                                                               unsigned int flags) {
    CUresult rc = REAL(cuOccupancyMaxPotentialBlockSizeWithFlags)(grid, block, function, shared_of,
                                                                  shared, most, flags);
    if (rc == CUDA_SUCCESS && shared_of && block) shared = shared_of(*block);
    return fill_partition(rc, grid, block, function, shared, flags);
}
