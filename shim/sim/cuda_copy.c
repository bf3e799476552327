/* Copies and fills: what they touch, how long they take, when the call returns. The entry points
 * are in cuda_copy_calls.c and cuda_set_calls.c. */
#include <stdlib.h>
#include <string.h>

#include "cuda_copy_calls.h"

#define STAGED_MAX                                                                                 \
    65536 /* pageable memory up to here is taken over at once; more makes the call wait */

/* Simulated bandwidths: 25 GB/s to and from the host, 2 TB/s inside the card, and 1 us to start. */
static uint64_t copy_ns(size_t bytes, bool host) {
    return 1000 + (host ? bytes / 25 : bytes / 2000);
}

struct place {
    uintptr_t address;
    size_t pitch, slice;
    bool host, pageable;
};

static CUresult place_of(struct place *place, CUmemorytype type, const void *host,
                         CUdeviceptr device, CUarray handle, size_t x, size_t y, size_t z,
                         size_t pitch, size_t rows, const CUDA_MEMCPY3D *copy) {
    struct piece piece;
    if (type == CU_MEMORYTYPE_ARRAY) {
        if (!object_is(handle, SIM_ARRAY)) return CUDA_ERROR_INVALID_VALUE;
        const struct array *array = (struct array *)handle;
        size_t height = array->shape.Height ? array->shape.Height : 1,
               depth = array->shape.Depth ? array->shape.Depth : 1;
        if (!array->data || x + copy->WidthInBytes > array->row || y + copy->Height > height ||
            z + copy->Depth > depth)
            return CUDA_ERROR_INVALID_VALUE;
        *place = (struct place){array->data + z * array->slice + y * array->row + x, array->row,
                                array->slice, false, false};
        return CUDA_SUCCESS;
    }
    uintptr_t base = type == CU_MEMORYTYPE_HOST ? (uintptr_t)host : (uintptr_t)device;
    if (!pitch) pitch = copy->WidthInBytes + x;
    if (!rows) rows = copy->Height + y;
    place->pitch = pitch;
    place->slice = pitch * rows;
    place->address = base + z * place->slice + y * pitch + x;
    size_t extent =
        (copy->Depth - 1) * place->slice + (copy->Height - 1) * pitch + copy->WidthInBytes;
    if (!base) return CUDA_ERROR_INVALID_VALUE;
    bool ours = piece_find(place->address, &piece);
    if (type == CU_MEMORYTYPE_DEVICE ? !piece_valid(place->address, extent)
                                     : ours && !piece_valid(place->address, extent))
        return CUDA_ERROR_INVALID_VALUE;
    enum range_kind kind = ours ? piece.range->kind : RANGE_HOST;
    place->host = !ours || kind == RANGE_HOST || kind == RANGE_REGISTERED || kind == RANGE_MANAGED;
    place->pageable = !ours;
    return CUDA_SUCCESS;
}

static CUresult prepare(const CUDA_MEMCPY3D *copy, struct work *work, struct place *dst,
                        struct place *src) {
    CHECK(place_of(src, copy->srcMemoryType, copy->srcHost, copy->srcDevice, copy->srcArray,
                   copy->srcXInBytes, copy->srcY, copy->srcZ, copy->srcPitch, copy->srcHeight,
                   copy));
    CHECK(place_of(dst, copy->dstMemoryType, copy->dstHost, copy->dstDevice, copy->dstArray,
                   copy->dstXInBytes, copy->dstY, copy->dstZ, copy->dstPitch, copy->dstHeight,
                   copy));
    *work = (struct work){
        .kind = WORK_COPY,
        .ns = copy_ns(copy->WidthInBytes * copy->Height * copy->Depth, src->host || dst->host),
        .copy = {dst->address, src->address, dst->pitch, src->pitch, dst->slice, src->slice,
                 copy->WidthInBytes, copy->Height, copy->Depth}};
    return CUDA_SUCCESS;
}

CUresult copy_prepare(const CUDA_MEMCPY3D *copy, struct work *work) {
    struct place dst = {0}, src = {0};
    if (!copy->WidthInBytes || !copy->Height || !copy->Depth) {
        *work = (struct work){.kind = WORK_NOTHING};
        return CUDA_SUCCESS;
    }
    return prepare(copy, work, &dst, &src);
}

static bool stage(struct work *work, const struct place *src, size_t bytes) {
    if (!src->pageable || bytes > STAGED_MAX || work->copy.height * work->copy.depth != 1)
        return false;
    void *copy = malloc(bytes);
    if (!copy) return false;
    memcpy(copy, (const void *)src->address, bytes);
    uintptr_t dst = work->copy.dst;
    work->kind = WORK_STAGED;
    work->staged.dst = dst;
    work->staged.bytes = copy;
    work->staged.size = bytes;
    return true;
}

CUresult copy_submit(const CUDA_MEMCPY3D *copy, CUstream handle, enum copy_mode mode) {
    SIM_ENTER();
    struct stream *stream;
    struct work work;
    struct place dst = {0}, src = {0};
    CHECK(stream_find(handle, mode & COPY_OWN, &stream));
    size_t bytes = copy->WidthInBytes * copy->Height * copy->Depth;
    if (!bytes) return CUDA_SUCCESS;
    CHECK(prepare(copy, &work, &dst, &src));
    if (stream_capturing(stream)) {
        struct node *node;
        CHECK(capture_node(stream, CU_GRAPH_NODE_TYPE_MEMCPY, &node));
        node->copy = *copy;
        node->work = work;
        return CUDA_SUCCESS;
    }
    bool waits = mode & COPY_SYNC ? dst.host || src.host : dst.pageable || src.pageable;
    if (!dst.host && stage(&work, &src, bytes)) waits = false;
    work.to_host = dst.host && !waits;
    stream_work(stream, &work, false);
    if (waits) stream_wait(stream);
    return CUDA_SUCCESS;
}

CUresult copy_linear(CUmemorytype to, uintptr_t dst, CUmemorytype from, uintptr_t src, size_t bytes,
                     CUstream stream, enum copy_mode mode) {
    CUDA_MEMCPY3D copy = {.srcMemoryType = from,
                          .srcHost = (const void *)src,
                          .srcDevice = src,
                          .dstMemoryType = to,
                          .dstHost = (void *)dst,
                          .dstDevice = dst,
                          .WidthInBytes = bytes,
                          .Height = 1,
                          .Depth = 1};
    return copy_submit(&copy, stream, mode);
}

CUresult set_prepare(const CUDA_MEMSET_NODE_PARAMS *set, struct work *work) {
    size_t row = set->width * set->elementSize, pitch = set->height > 1 ? set->pitch : row;
    if (set->elementSize != 1 && set->elementSize != 2 && set->elementSize != 4)
        return CUDA_ERROR_INVALID_VALUE;
    if (!set->width || !set->height) {
        *work = (struct work){.kind = WORK_NOTHING};
        return CUDA_SUCCESS;
    }
    if (pitch < row || set->dst % set->elementSize ||
        !piece_valid((uintptr_t)set->dst, pitch * (set->height - 1) + row))
        return CUDA_ERROR_INVALID_VALUE;
    *work = (struct work){
        .kind = WORK_SET,
        .ns = copy_ns(row * set->height, false),
        .set = {(uintptr_t)set->dst, pitch, set->width, set->height, set->value, set->elementSize}};
    return CUDA_SUCCESS;
}

/* Fills return at once, also the forms without a stream (measured). */
CUresult set_submit(const CUDA_MEMSET_NODE_PARAMS *set, CUstream handle, enum copy_mode mode) {
    SIM_ENTER();
    struct stream *stream;
    struct work work;
    CHECK(stream_find(handle, mode & COPY_OWN, &stream));
    CHECK(set_prepare(set, &work));
    if (stream_capturing(stream)) {
        struct node *node;
        CHECK(capture_node(stream, CU_GRAPH_NODE_TYPE_MEMSET, &node));
        node->set = *set;
        node->work = work;
        return CUDA_SUCCESS;
    }
    if (work.kind) stream_work(stream, &work, false);
    return CUDA_SUCCESS;
}
