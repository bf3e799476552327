#include "arrays.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "charge.h"
#include "interpose.h"
#include "map.h"
#include "packs.h"

/* Tiled storage: rows of 64 bytes, 8 of them a tile; a block is up to 16 tiles high, or one tile
 * high and up to 16 slices deep. Fits 21 shapes measured on an H200. */
#define ROW_BYTES UINT64_C(64)
#define TAIL_BYTES UINT64_C(4096) /* a mipmap takes up to so much more than its levels */

struct vgpu_array {
    struct vgpu_node node;
    uint64_t bytes;         /* of a small one its padded size, else its charge */
    struct vgpu_pack *pack; /* NULL: not a small one */
    uint32_t owner, device;
};

static struct vgpu_map arrays;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* --- sizes --- */

static uint64_t element_bytes(CUarray_format format, unsigned int channels) {
    switch ((int)format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return channels;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return UINT64_C(2) * channels;
    default: /* 32-bit, and what later drivers add: at most 16 bytes an element */
        return UINT64_C(4) * (channels ? channels : 1);
    }
}

static uint64_t round_up(uint64_t value, uint64_t step) {
    return value > UINT64_MAX - step ? UINT64_MAX / step * step : (value + step - 1) / step * step;
}

static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

/* Tiles are stacked in powers of two, as many as the size needs, at most 16. */
static uint64_t stack(uint64_t count, uint64_t tile) {
    uint64_t tall = tile;
    while (tall < 16 * tile && tall < count) tall *= 2;
    return round_up(count, tall);
}

static uint64_t level_bytes(uint64_t width, uint64_t height, uint64_t depth, uint64_t element,
                            bool layered) {
    uint64_t row = round_up(times(width, element), ROW_BYTES);
    if (depth > 1 && !layered) return times(times(row, round_up(height, 8)), stack(depth, 1));
    return times(times(row, height > 1 ? stack(height, 8) : 1), depth);
}

uint64_t vgpu_array_padded(const CUDA_ARRAY3D_DESCRIPTOR *shape, unsigned int levels) {
    uint64_t element = element_bytes(shape->Format, shape->NumChannels);
    uint64_t sum = levels ? TAIL_BYTES : 0;
    bool layered = shape->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP);
    for (unsigned int level = 0; level < (levels ? levels : 1) && level < 32; level++) {
        uint64_t width = shape->Width >> level, height = shape->Height >> level;
        uint64_t depth = layered ? shape->Depth : shape->Depth >> level;
        uint64_t bytes = level_bytes(width ? width : 1, height ? height : 1, depth ? depth : 1,
                                     element, layered);
        if (__builtin_add_overflow(sum, bytes, &sum)) return UINT64_MAX;
    }
    return sum;
}

/* What a twin that has no memory yet says it needs; 0: the driver will not say. */
static uint64_t ask_twin(const struct vgpu_array_call *call, CUdevice ordinal) {
    static typeof(&cuArrayGetMemoryRequirements) of_array;
    static typeof(&cuMipmappedArrayGetMemoryRequirements) of_mipmap;
    if (!of_array) of_mipmap = vgpu_driver_symbol("cuMipmappedArrayGetMemoryRequirements");
    if (!of_array) of_array = vgpu_driver_symbol("cuArrayGetMemoryRequirements"); /* 11.6 */
    if (!of_array || !of_mipmap) return 0;
    CUDA_ARRAY3D_DESCRIPTOR shape = call->shape;
    CUDA_ARRAY_MEMORY_REQUIREMENTS needs = {0};
    CUmipmappedArray mipmap;
    CUarray array;
    shape.Flags |= CUDA_ARRAY3D_DEFERRED_MAPPING;
    if (call->levels) {
        if (REAL(cuMipmappedArrayCreate)(&mipmap, &shape, call->levels) != CUDA_SUCCESS) return 0;
        if (of_mipmap(&needs, mipmap, ordinal) != CUDA_SUCCESS) needs.size = 0;
        REAL(cuMipmappedArrayDestroy)(mipmap);
    } else {
        if (REAL(cuArray3DCreate_v2)(&array, &shape) != CUDA_SUCCESS) return 0;
        if (of_array(&needs, array, ordinal) != CUDA_SUCCESS) needs.size = 0;
        REAL(cuArrayDestroy)(array);
    }
    return needs.size;
}

/* --- making and ending --- */

static CUresult enter(const struct vgpu_array_call *call, const struct vgpu_place *place,
                      uint64_t padded, uint64_t charge) {
    struct vgpu_array *array = calloc(1, sizeof *array);
    vgpu_ledger_allocated(&place->account);
    if (!array) return CUDA_SUCCESS; /* charged until the context ends: on the safe side */
    *array = (struct vgpu_array){.node.key = (uint64_t)(uintptr_t)*call->out,
                                 .bytes = charge,
                                 .owner = place->owner,
                                 .device = place->account.device};
    uint64_t cost = charge;
    if (padded <= VGPU_PIECE_BYTES) {
        array->bytes = padded;
        array->pack = vgpu_packs_put(array->owner, array->device, padded, &cost);
    }
    pthread_mutex_lock(&lock);
    vgpu_map_put(&arrays, &array->node);
    pthread_mutex_unlock(&lock);
    vgpu_ledger_refund(&place->account, charge - cost);
    return CUDA_SUCCESS;
}

static uint64_t bytes_back(const struct vgpu_array *array) {
    return array->pack ? vgpu_packs_drop(array->pack) : array->bytes;
}

CUresult vgpu_arrays_make(const struct vgpu_array_call *call) {
    struct vgpu_place place;
    const unsigned int unbacked = CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING;
    CUresult rc = vgpu_context_here(&place, call->api);
    if (rc != CUDA_SUCCESS) return rc;
    if (!place.session || !call->out || !call->shape.Width || call->shape.Flags & unbacked)
        return call->make(call->how);
    uint64_t padded = vgpu_array_padded(&call->shape, call->levels);
    uint64_t asked = padded > VGPU_PIECE_BYTES ? ask_twin(call, place.ordinal) : 0;
    uint64_t charge = vgpu_block_charge(asked ? asked : padded);
    const struct vgpu_request request = {charge, asked ? asked : padded, 0, call->api};
    rc = vgpu_charge(place.session, &place.account, &request);
    if (rc != CUDA_SUCCESS) return rc;
    rc = call->make(call->how);
    if (rc == CUDA_SUCCESS) return enter(call, &place, padded, charge);
    vgpu_ledger_refund(&place.account, charge);
    return rc;
}

struct vgpu_array *vgpu_arrays_take(const void *handle) {
    if (!vgpu_session_get()) return NULL;
    pthread_mutex_lock(&lock);
    struct vgpu_node *node = vgpu_map_take(&arrays, (uint64_t)(uintptr_t)handle);
    pthread_mutex_unlock(&lock);
    return (struct vgpu_array *)node;
}

CUresult vgpu_arrays_end(struct vgpu_array *array, CUresult rc) {
    struct vgpu_session *session = array ? vgpu_session_get() : NULL;
    if (!session) return rc;
    const struct vgpu_account account = vgpu_session_account(session, array->device);
    pthread_mutex_lock(&lock);
    /* Its context may have ended while it was out of the table. */
    if (rc != CUDA_SUCCESS && vgpu_contexts_alive(array->owner)) {
        vgpu_map_put(&arrays, &array->node);
        pthread_mutex_unlock(&lock);
        return rc;
    }
    pthread_mutex_unlock(&lock);
    vgpu_ledger_refund(&account, bytes_back(array));
    free(array);
    return rc;
}

static bool is_owned(const struct vgpu_node *node, uint64_t owner) {
    return ((const struct vgpu_array *)node)->owner == owner;
}

void vgpu_arrays_drop_owner(uint32_t owner, uint64_t *bytes) {
    pthread_mutex_lock(&lock);
    struct vgpu_node *list = vgpu_map_sift(&arrays, is_owned, owner);
    while (list) {
        struct vgpu_array *array = (struct vgpu_array *)list;
        list = list->next;
        bytes[array->device] += bytes_back(array);
        free(array);
    }
    pthread_mutex_unlock(&lock);
}

void vgpu_arrays_forget(void) {
    pthread_mutex_init(&lock, NULL);
    memset(&arrays, 0, sizeof arrays);
}
