#include "copy.h"

#include "bucket.h"
#include "capture.h"
#include "device.h"
#include "interpose.h"
#include "session.h"
#include "wait.h"

/* A live change of the rate is noticed after so long. */
#define LONGEST_WAIT_NS UINT64_C(50000000)
#define DIRECTIONS 3

static const uint64_t unknown[DIRECTIONS] = {1, 1, 1}, unlimited[DIRECTIONS];
const uint64_t *vgpu_copy_rates = unknown;

static void forget_in_child(void) { vgpu_store_release(&vgpu_copy_rates, unknown); }

__attribute__((constructor)) static void prepare(void) { vgpu_session_on_fork(forget_in_child); }

/* ---- which way ----------------------------------------------------------------------------- */

static bool is_host(struct vgpu_copy_end end) {
    if (end.type != CU_MEMORYTYPE_UNIFIED) return end.type == CU_MEMORYTYPE_HOST;
    unsigned type = CU_MEMORYTYPE_HOST;
    /* Memory that the driver does not know is the host's. */
    if (CALL(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, end.address) !=
        CUDA_SUCCESS)
        return true;
    return type == CU_MEMORYTYPE_HOST;
}

void vgpu_copy_add(struct vgpu_copies *copies, struct vgpu_copy_end to, struct vgpu_copy_end from,
                   uint64_t bytes) {
    bool to_host = is_host(to), from_host = is_host(from);
    if (to_host && from_host) return;
    copies->bytes[to_host ? VGPU_COPY_D2H : from_host ? VGPU_COPY_H2D : VGPU_COPY_D2D] += bytes;
}

void vgpu_copy_add_batch(struct vgpu_copies *copies, const CUdeviceptr *to, const CUdeviceptr *from,
                         const size_t *bytes, size_t count) {
    if (!to || !from || !bytes) return;
    for (size_t i = 0; i < count; i++)
        vgpu_copy_add(copies, (struct vgpu_copy_end){CU_MEMORYTYPE_UNIFIED, to[i]},
                      (struct vgpu_copy_end){CU_MEMORYTYPE_UNIFIED, from[i]}, bytes[i]);
}

static struct vgpu_copy_end end_of(const CUmemcpy3DOperand *operand) {
    if (operand->type == CU_MEMCPY_OPERAND_TYPE_ARRAY)
        return (struct vgpu_copy_end){CU_MEMORYTYPE_ARRAY, 0};
    return (struct vgpu_copy_end){CU_MEMORYTYPE_UNIFIED, operand->op.ptr.ptr};
}

/* A box's extent counts bytes between pointers, elements where an array takes part. */
static size_t element_bytes(const CUmemcpy3DOperand *operand) {
    CUDA_ARRAY3D_DESCRIPTOR shape;
    if (operand->type != CU_MEMCPY_OPERAND_TYPE_ARRAY ||
        CALL(cuArray3DGetDescriptor_v2)(&shape, operand->op.array.array) != CUDA_SUCCESS)
        return 1;
    switch (shape.Format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return shape.NumChannels;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return 2U * shape.NumChannels;
    default:
        return 4U * shape.NumChannels;
    }
}

void vgpu_copy_add_boxes(struct vgpu_copies *copies, const CUDA_MEMCPY3D_BATCH_OP *boxes,
                         size_t count) {
    for (size_t i = 0; boxes && i < count; i++) {
        const CUDA_MEMCPY3D_BATCH_OP *box = &boxes[i];
        size_t to = element_bytes(&box->dst), from = element_bytes(&box->src);
        uint64_t elements = (uint64_t)box->extent.width * box->extent.height * box->extent.depth;
        vgpu_copy_add(copies, end_of(&box->dst), end_of(&box->src),
                      elements * (to > from ? to : from));
    }
}

void vgpu_copy_add_prefetches(struct vgpu_copies *copies, const size_t *bytes, size_t count,
                              const CUmemLocation *locations, const size_t *first,
                              size_t location_count) {
    if (!bytes || !locations || !first || !location_count) return;
    for (size_t i = 0, at = 0; i < count; i++) {
        while (at + 1 < location_count && first[at + 1] <= i) at++;
        bool is_device = locations[at].type == CU_MEM_LOCATION_TYPE_DEVICE;
        copies->bytes[is_device ? VGPU_COPY_H2D : VGPU_COPY_D2H] += bytes[i];
    }
}

/* ---- the wait ------------------------------------------------------------------------------ */

static void pass(struct vgpu_device *device, const uint64_t *rate, int direction, uint64_t bytes) {
    uint64_t began = vgpu_now_ns(), now = began, until = 0;
    for (uint64_t bytes_per_s; (bytes_per_s = vgpu_load_relaxed(rate)); now = vgpu_now_ns()) {
        if (vgpu_bucket_take(&device->copy_paid_ns[direction], bytes_per_s, bytes, began, now,
                             &until))
            break;
        uint64_t latest = now + LONGEST_WAIT_NS;
        vgpu_wait_until(until < latest ? until : latest);
    }
    vgpu_add_relaxed(&device->copied_bytes[direction], bytes);
    if (!until) return;
    vgpu_add_relaxed(&device->copy_waited_ns, now - began);
    vgpu_add_relaxed(&device->copy_waits, UINT64_C(1));
}

/* Index of the current context's device, or VGPU_NO_DEVICE. */
static uint32_t current_device(struct vgpu_session *session) {
    CUdevice ordinal;
    bool known = CALL(cuCtxGetDevice)(&ordinal) == CUDA_SUCCESS;
    return known ? vgpu_device_index(session, ordinal) : VGPU_NO_DEVICE;
}

static bool has_rate(const uint64_t *rates) {
    return vgpu_load_relaxed(&rates[0]) | vgpu_load_relaxed(&rates[1]) |
           vgpu_load_relaxed(&rates[2]);
}

/* In a session inside another one the rates are in several regions: each call looks, if there are
 * any. */
static const uint64_t *rates_of(const struct vgpu_session *session) {
    if (!session) return unlimited;
    for (; session->outer; session = session->outer)
        if (has_rate(session->region->header.copy_bytes_per_s)) return unknown;
    return session->region->header.copy_bytes_per_s;
}

void vgpu_copy_wait(const struct vgpu_copies *copies) {
    struct vgpu_session *session = vgpu_session_get();
    vgpu_store_release(&vgpu_copy_rates, rates_of(session));
    if (!session || !vgpu_copy_limited()) return;
    uint32_t index = current_device(session);
    if (index >= VGPU_MAX_DEVICES) return;
    const struct vgpu_account own = vgpu_session_account(session, index);
    for (const struct vgpu_account *at = &own; at; at = at->outer) {
        const uint64_t *rates = at->region->header.copy_bytes_per_s;
        for (int direction = 0; direction < DIRECTIONS; direction++)
            if (copies->bytes[direction] && vgpu_load_relaxed(&rates[direction]))
                pass(&at->region->devices[at->device], &rates[direction], direction,
                     copies->bytes[direction]);
    }
}

void vgpu_copy_wait_in(const struct vgpu_copies *copies, CUstream stream, bool per_thread) {
    if (!vgpu_capture_is_open() || !vgpu_capture_holds(stream, per_thread)) vgpu_copy_wait(copies);
}
