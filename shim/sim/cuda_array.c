/* Arrays: padded like a tiled layout (rows to 64 bytes; 8 rows a tile, tiles stacked in powers of
 * two up to 16, or slices likewise: fits 21 shapes measured on an H200), stored plainly. */
#include "cuda_sim.h"

static size_t element_size(CUarray_format format, unsigned int channels) {
    switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return channels;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return (size_t)2 * channels;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return (size_t)4 * channels;
    }
    return 0;
}

static size_t stacked(size_t count, size_t tile) {
    size_t tall = tile;
    while (tall < 16 * tile && tall < count) tall *= 2;
    return (count + tall - 1) / tall * tall;
}

/* Fills row, slice and bytes from the shape; false if the shape is none or too large. */
static bool array_measure(struct array *array) {
    const CUDA_ARRAY3D_DESCRIPTOR *shape = &array->shape;
    size_t element = element_size(shape->Format, shape->NumChannels);
    if (!element || shape->NumChannels > 4 || shape->NumChannels == 3 || !shape->Width)
        return false;
    size_t rows = shape->Height ? shape->Height : 1, depth = shape->Depth ? shape->Depth : 1;
    array->row = (shape->Width * element + 63) & ~(size_t)63;
    if (shape->Width >= ((size_t)1 << 40) || rows >= ((size_t)1 << 40) ||
        depth >= ((size_t)1 << 20))
        return false;
    bool deep = depth > 1 && !(shape->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP));
    if (rows > 1) rows = deep ? (rows + 7) & ~(size_t)7 : stacked(rows, 8);
    array->slice = array->row * rows;
    array->bytes = array->slice * (deep ? stacked(depth, 1) : depth);
    return (double)array->row * (double)rows * (double)depth < 1e18;
}

static CUresult array_back(struct array *array) {
    CUdeviceptr pointer;
    if (array->shape.Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING))
        return CUDA_SUCCESS;
    CHECK(memory_alloc(array->context, array->bytes, &pointer));
    array->data = (uintptr_t)pointer;
    return CUDA_SUCCESS;
}

static CUresult array_create(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR *shape) {
    SIM_ENTER();
    struct context *context;
    struct array probe = {.shape = shape ? *shape : (CUDA_ARRAY3D_DESCRIPTOR){0}};
    if (!out || !shape || !array_measure(&probe)) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    CHECK(capture_unsafe());
    probe.context = context;
    CHECK(array_back(&probe));
    struct array *array = object_new(SIM_ARRAY, sizeof *array);
    if (!array) return CUDA_ERROR_OUT_OF_MEMORY;
    probe.object = array->object;
    *array = probe;
    array->next = context->arrays;
    context->arrays = array;
    *out = (CUarray)array;
    return CUDA_SUCCESS;
}
API CUresult cuArray3DCreate_v2(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR *shape) {
    return array_create(out, shape);
}
API CUresult cuArrayCreate_v2(CUarray *out, const CUDA_ARRAY_DESCRIPTOR *shape) {
    if (!shape) return CUDA_ERROR_INVALID_VALUE;
    CUDA_ARRAY3D_DESCRIPTOR wide = {.Width = shape->Width,
                                    .Height = shape->Height,
                                    .Format = shape->Format,
                                    .NumChannels = shape->NumChannels};
    return array_create(out, &wide);
}

/* Levels share one allocation; each is an array of its own for cuMipmappedArrayGetLevel. */
API CUresult cuMipmappedArrayCreate(CUmipmappedArray *out, const CUDA_ARRAY3D_DESCRIPTOR *shape,
                                    unsigned int levels) {
    SIM_ENTER();
    struct context *context;
    struct array whole = {.shape = shape ? *shape : (CUDA_ARRAY3D_DESCRIPTOR){0}};
    if (!out || !shape || !levels || !array_measure(&whole)) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    CHECK(capture_unsafe());
    if (levels > 16) levels = 16;
    size_t offset[17] = {0};
    struct array level[16];
    for (unsigned int i = 0; i < levels; i++) {
        level[i] = (struct array){.shape = *shape, .context = context};
        level[i].shape.Width = shape->Width >> i ? shape->Width >> i : 1;
        if (shape->Height) level[i].shape.Height = shape->Height >> i ? shape->Height >> i : 1;
        if (shape->Depth) level[i].shape.Depth = shape->Depth >> i ? shape->Depth >> i : 1;
        array_measure(&level[i]);
        offset[i + 1] = offset[i] + level[i].bytes;
    }
    whole.context = context;
    whole.bytes = offset[levels];
    whole.levels = levels;
    CHECK(array_back(&whole));
    struct array *array = object_new(SIM_MIPMAP, sizeof *array);
    if (!array) return CUDA_ERROR_OUT_OF_MEMORY;
    whole.object = array->object;
    *array = whole;
    for (unsigned int i = 0; i < levels; i++) {
        struct array *one = object_new(SIM_ARRAY, sizeof *one);
        if (!one) return CUDA_ERROR_OUT_OF_MEMORY;
        level[i].object = one->object;
        *one = level[i];
        if (array->data) one->data = array->data + offset[i];
        array->level[i] = one;
    }
    array->next = context->arrays;
    context->arrays = array;
    *out = (CUmipmappedArray)array;
    return CUDA_SUCCESS;
}
API CUresult cuMipmappedArrayGetLevel(CUarray *out, CUmipmappedArray handle, unsigned int level) {
    SIM_ENTER();
    if (!object_is(handle, SIM_MIPMAP)) return CUDA_ERROR_INVALID_HANDLE;
    struct array *array = (struct array *)handle;
    if (!out || level >= array->levels) return CUDA_ERROR_INVALID_VALUE;
    *out = (CUarray)array->level[level];
    return CUDA_SUCCESS;
}

static void array_drop(struct array *array) {
    for (unsigned int i = 0; i < array->levels; i++) object_drop(array->level[i]);
    object_drop(array);
}

static CUresult array_destroy(struct array *array) {
    struct array **link = &array->context->arrays;
    while (*link && *link != array) link = &(*link)->next;
    if (!*link) return CUDA_ERROR_INVALID_HANDLE; /* a level of a mipmap */
    *link = array->next;
    if (array->data) memory_free(array->data);
    array_drop(array);
    return CUDA_SUCCESS;
}
/* Waits for all running work, as cuMemFree. */
API CUresult cuArrayDestroy(CUarray handle) {
    SIM_ENTER();
    if (!object_is(handle, SIM_ARRAY)) return CUDA_ERROR_INVALID_HANDLE;
    device_wait(((struct array *)handle)->context->device);
    return object_is(handle, SIM_ARRAY) ? array_destroy((struct array *)handle)
                                        : CUDA_ERROR_INVALID_HANDLE;
}
API CUresult cuMipmappedArrayDestroy(CUmipmappedArray handle) {
    SIM_ENTER();
    if (!object_is(handle, SIM_MIPMAP)) return CUDA_ERROR_INVALID_HANDLE;
    device_wait(((struct array *)handle)->context->device);
    return object_is(handle, SIM_MIPMAP) ? array_destroy((struct array *)handle)
                                         : CUDA_ERROR_INVALID_HANDLE;
}

/* Their memory went with the context's ranges. */
void array_drop_context(struct context *context) {
    while (context->arrays) {
        struct array *array = context->arrays;
        context->arrays = array->next;
        array_drop(array);
    }
}

/* --- queries --- */

API CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *out, CUarray handle) {
    SIM_ENTER();
    if (!object_is(handle, SIM_ARRAY)) return CUDA_ERROR_INVALID_HANDLE;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = ((struct array *)handle)->shape;
    return CUDA_SUCCESS;
}
API CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *out, CUarray handle) {
    CUDA_ARRAY3D_DESCRIPTOR shape;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    CHECK(cuArray3DGetDescriptor_v2(&shape, handle));
    *out = (CUDA_ARRAY_DESCRIPTOR){shape.Width, shape.Height, shape.Format, shape.NumChannels};
    return CUDA_SUCCESS;
}

static CUresult requirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *out, const struct array *array,
                             CUdevice device) {
    CHECK(device_valid(device));
    if (!out || !(array->shape.Flags & CUDA_ARRAY3D_DEFERRED_MAPPING))
        return CUDA_ERROR_INVALID_VALUE;
    size_t size = array->bytes > SIM_MIB ? (array->bytes + 2 * SIM_MIB - 1) & ~(2 * SIM_MIB - 1)
                                         : array->bytes;
    *out = (CUDA_ARRAY_MEMORY_REQUIREMENTS){
        .size = size, .alignment = array->bytes > SIM_MIB ? 2 * SIM_MIB : 512};
    return CUDA_SUCCESS;
}
API CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *out, CUarray handle,
                                          CUdevice device) {
    SIM_ENTER();
    if (!object_is(handle, SIM_ARRAY)) return CUDA_ERROR_INVALID_HANDLE;
    return requirements(out, (struct array *)handle, device);
}
API CUresult cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *out,
                                                   CUmipmappedArray handle, CUdevice device) {
    SIM_ENTER();
    if (!object_is(handle, SIM_MIPMAP)) return CUDA_ERROR_INVALID_HANDLE;
    return requirements(out, (struct array *)handle, device);
}
