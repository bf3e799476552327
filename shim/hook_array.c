/* Arrays and mipmaps: thin wrappers, the thinking is in arrays.c. */
#include "arrays.h"
#include "interpose.h"

/* The arguments of whichever function was called. */
struct creation {
    void *out;
    const void *shape;
    unsigned int levels;
};

static CUresult make_1(const void *how) {
    const struct creation *c = how;
    return REAL(cuArrayCreate)(c->out, c->shape);
}
static CUresult make_2(const void *how) {
    const struct creation *c = how;
    return REAL(cuArrayCreate_v2)(c->out, c->shape);
}
static CUresult make_3d_1(const void *how) {
    const struct creation *c = how;
    return REAL(cuArray3DCreate)(c->out, c->shape);
}
static CUresult make_3d_2(const void *how) {
    const struct creation *c = how;
    return REAL(cuArray3DCreate_v2)(c->out, c->shape);
}
static CUresult make_mipmap(const void *how) {
    const struct creation *c = how;
    return REAL(cuMipmappedArrayCreate)(c->out, c->shape, c->levels);
}

#define FLAT(s)                                                                                    \
    { (s)->Width, (s)->Height, 0, (s)->Format, (s)->NumChannels, 0 }
#define DEEP(s)                                                                                    \
    { (s)->Width, (s)->Height, (s)->Depth, (s)->Format, (s)->NumChannels, (s)->Flags }

VGPU_EXPORT CUresult cuArrayCreate(CUarray *out, const CUDA_ARRAY_DESCRIPTOR_v1 *s) {
    const struct creation how = {out, s, 0};
    if (!s) return make_1(&how);
    const struct vgpu_array_call call = {FLAT(s), 0, "cuArrayCreate", (void **)out, make_1, &how};
    return vgpu_arrays_make(&call);
}

VGPU_EXPORT CUresult cuArrayCreate_v2(CUarray *out, const CUDA_ARRAY_DESCRIPTOR *s) {
    const struct creation how = {out, s, 0};
    if (!s) return make_2(&how);
    const struct vgpu_array_call call = {FLAT(s),      0,      "cuArrayCreate_v2",
                                         (void **)out, make_2, &how};
    return vgpu_arrays_make(&call);
}

VGPU_EXPORT CUresult cuArray3DCreate(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR_v1 *s) {
    const struct creation how = {out, s, 0};
    if (!s) return make_3d_1(&how);
    const struct vgpu_array_call call = {DEEP(s),      0,         "cuArray3DCreate",
                                         (void **)out, make_3d_1, &how};
    return vgpu_arrays_make(&call);
}

VGPU_EXPORT CUresult cuArray3DCreate_v2(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR *s) {
    const struct creation how = {out, s, 0};
    if (!s) return make_3d_2(&how);
    const struct vgpu_array_call call = {*s,           0,         "cuArray3DCreate_v2",
                                         (void **)out, make_3d_2, &how};
    return vgpu_arrays_make(&call);
}

VGPU_EXPORT CUresult cuMipmappedArrayCreate(CUmipmappedArray *out, const CUDA_ARRAY3D_DESCRIPTOR *s,
                                            unsigned int levels) {
    const struct creation how = {out, s, levels};
    if (!s || !levels) return make_mipmap(&how);
    const struct vgpu_array_call call = {*s,           levels,      "cuMipmappedArrayCreate",
                                         (void **)out, make_mipmap, &how};
    return vgpu_arrays_make(&call);
}

VGPU_EXPORT CUresult cuArrayDestroy(CUarray array) {
    struct vgpu_array *entry = vgpu_arrays_take(array);
    return vgpu_arrays_end(entry, REAL(cuArrayDestroy)(array));
}

VGPU_EXPORT CUresult cuMipmappedArrayDestroy(CUmipmappedArray mipmap) {
    struct vgpu_array *entry = vgpu_arrays_take(mipmap);
    return vgpu_arrays_end(entry, REAL(cuMipmappedArrayDestroy)(mipmap));
}
