#include "local.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "charge.h"
#include "context.h"
#include "interpose.h"
#include "map.h"
#include "modules.h"
#include "overhead.h"

_Static_assert(VGPU_LOCAL_SEEN == 1U << 12, "the upper 12 bits of the hash");

#define DEFAULT_STACK UINT64_C(1024)
#define BY_LIMIT(word) ((word) >> 32)
#define BY_KERNELS(word) ((word)&UINT32_MAX)

const void *vgpu_local_seen[VGPU_LOCAL_SEEN];

/* What is not in vgpu_local_seen: library kernels, and functions with more local memory than the
 * default stack. */
struct function {
    struct vgpu_node node;
    bool kernel, known;
    uint64_t bytes; /* of local memory a thread */
};

static struct vgpu_map functions;
static uint64_t generation; /* of function handles: raised by every unload */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* --- the pool --- */

static uint64_t threads_of(CUdevice ordinal) {
    static uint64_t known[64];
    if ((unsigned)ordinal < 64 && vgpu_load_relaxed(&known[ordinal]))
        return vgpu_load_relaxed(&known[ordinal]);
    int a = 0, b = 0;
    CALL(cuDeviceGetAttribute)(&a, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, ordinal);
    CALL(cuDeviceGetAttribute)(&b, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, ordinal);
    uint64_t threads = (uint64_t)a * (uint64_t)b;
    if ((unsigned)ordinal < 64) vgpu_store_relaxed(&known[ordinal], threads);
    return threads;
}

/* Bytes a thread beyond what is part of the context. */
static uint64_t extra_of(uint64_t word) {
    uint64_t most = BY_LIMIT(word) > BY_KERNELS(word) ? BY_LIMIT(word) : BY_KERNELS(word);
    return most > DEFAULT_STACK ? most - DEFAULT_STACK : 0;
}

static uint64_t cost_of(uint64_t word, CUdevice ordinal) {
    return vgpu_overhead_blocks(extra_of(word) * threads_of(ordinal));
}

/* Raises the pool's word to at least the two; the growth is charged before it is published. */
static CUresult raise_to(const struct vgpu_place *place, struct vgpu_tally *tally, uint64_t limit,
                         uint64_t kernel, const char *api) {
    uint64_t word = vgpu_load_relaxed(&tally->local);
    for (;;) {
        uint64_t by_kernels = kernel > BY_KERNELS(word) ? kernel : BY_KERNELS(word);
        uint64_t next = (limit > BY_LIMIT(word) ? limit : BY_LIMIT(word)) << 32 | by_kernels;
        uint64_t more = cost_of(next, place->ordinal) - cost_of(word, place->ordinal);
        CUresult rc = more ? vgpu_overhead_grow(place, more, api) : CUDA_SUCCESS;
        if (rc != CUDA_SUCCESS || vgpu_cas_acq_rel(&tally->local, &word, next)) return rc;
        if (more) vgpu_overhead_shrink(place, more);
    }
}

static void lower_to(const struct vgpu_place *place, struct vgpu_tally *tally, uint64_t limit) {
    uint64_t word = vgpu_load_relaxed(&tally->local), next;
    do {
        if (limit >= BY_LIMIT(word)) return;
        next = limit << 32 | BY_KERNELS(word);
    } while (!vgpu_cas_acq_rel(&tally->local, &word, next));
    uint64_t less = cost_of(word, place->ordinal) - cost_of(next, place->ordinal);
    if (less) vgpu_overhead_shrink(place, less);
}

/* Of several threads that set the limit at once nobody knows who was last: the greatest stays
 * charged until none is at it, then the driver is asked. */
static void settle_limit(const struct vgpu_place *place, struct vgpu_tally *tally) {
    size_t now;
    pthread_mutex_lock(&lock);
    bool is_last = --tally->setting == 0;
    uint64_t begun = tally->settings;
    pthread_mutex_unlock(&lock);
    if (!is_last || CALL(cuCtxGetLimit)(&now, CU_LIMIT_STACK_SIZE) != CUDA_SUCCESS) return;
    pthread_mutex_lock(&lock);
    if (tally->settings == begun) lower_to(place, tally, now);
    pthread_mutex_unlock(&lock);
}

CUresult vgpu_local_set_limit(CUlimit limit, size_t value) {
    struct vgpu_place place;
    CUresult rc = vgpu_context_here(&place, "cuCtxSetLimit");
    struct vgpu_tally *tally = rc || !place.session ? NULL : vgpu_contexts_tally(place.context);
    if (!tally) return rc ? rc : REAL(cuCtxSetLimit)(limit, value);
    const struct vgpu_request heap = {value, value, 0, "cuCtxSetLimit"};
    /* The heap is taken by the first kernel that uses it, if any does: what could never fit then is
     * refused now, and what is taken shows in NVML. */
    if (limit == CU_LIMIT_MALLOC_HEAP_SIZE && value > vgpu_account_left(&place.account))
        return vgpu_charge_deny(place.session, &place.account, &heap,
                                vgpu_account_tightest(&place.account));
    if (limit != CU_LIMIT_STACK_SIZE || value > UINT32_MAX)
        return REAL(cuCtxSetLimit)(limit, value);
    pthread_mutex_lock(&lock);
    tally->setting++;
    tally->settings++;
    pthread_mutex_unlock(&lock);
    rc = raise_to(&place, tally, value, 0, "cuCtxSetLimit");
    if (rc == CUDA_SUCCESS) rc = REAL(cuCtxSetLimit)(limit, value);
    settle_limit(&place, tally);
    return rc;
}

/* --- functions --- */

static struct function *enter_locked(const void *handle) {
    struct function *function =
        (struct function *)vgpu_map_find(&functions, (uint64_t)(uintptr_t)handle);
    if (function) return function;
    function = calloc(1, sizeof *function);
    if (!function) return NULL;
    function->node.key = (uint64_t)(uintptr_t)handle;
    if (vgpu_map_put(&functions, &function->node)) return function;
    free(function);
    return NULL;
}

void vgpu_local_note_kernel(CUkernel kernel) {
    pthread_mutex_lock(&lock);
    struct function *function = enter_locked(kernel);
    if (function) function->kernel = true;
    pthread_mutex_unlock(&lock);
}

bool vgpu_local_is_kernel(const void *handle) {
    pthread_mutex_lock(&lock);
    const struct function *found =
        (const struct function *)vgpu_map_find(&functions, (uint64_t)(uintptr_t)handle);
    bool kernel = found && found->kernel;
    pthread_mutex_unlock(&lock);
    return kernel;
}

static uint64_t ask(CUfunction handle, bool kernel, CUdevice ordinal) {
    int bytes = 0;
    CUresult rc =
        kernel ? CALL(cuKernelGetAttribute)(&bytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
                                            (CUkernel)handle, ordinal)
               : CALL(cuFuncGetAttribute)(&bytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, handle);
    return rc == CUDA_SUCCESS && bytes > 0 ? (uint64_t)bytes : 0;
}

/* The function's place, or a free one for it, or the one that it may take from another. */
static const void **place_of(const void *handle) {
    uint64_t home = vgpu_local_place(handle);
    const void **free_place = NULL;
    for (uint64_t i = 0; i < VGPU_LOCAL_NEAR; i++) {
        const void **place = &vgpu_local_seen[home ^ i], *there = vgpu_load_relaxed(place);
        if (there == handle) return place;
        if (!there && !free_place) free_place = place;
    }
    return free_place ? free_place : &vgpu_local_seen[home];
}

CUresult vgpu_local_first_launch(CUfunction handle, const char *api) {
    struct vgpu_place place;
    if (!handle || vgpu_load_relaxed(place_of(handle)) == (const void *)handle ||
        !vgpu_session_get())
        return CUDA_SUCCESS;
    CUresult rc = vgpu_context_here(&place, api);
    struct vgpu_tally *tally = rc || !place.session ? NULL : vgpu_contexts_tally(place.context);
    if (!tally) return rc;
    uint64_t key = (uint64_t)(uintptr_t)handle;
    pthread_mutex_lock(&lock);
    uint64_t asked_in = generation;
    const struct function *found = (const struct function *)vgpu_map_find(&functions, key);
    struct function copy = found ? *found : (struct function){0};
    pthread_mutex_unlock(&lock);
    if (!copy.known) {
        if (copy.kernel && (rc = vgpu_modules_used_kernel(&place, (CUkernel)handle, api)))
            return rc;
        copy.bytes = ask(handle, copy.kernel, place.ordinal);
    }
    if (copy.bytes > BY_KERNELS(vgpu_load_relaxed(&tally->local)) && copy.bytes > DEFAULT_STACK)
        rc = raise_to(&place, tally, 0, copy.bytes, api);
    if (rc != CUDA_SUCCESS || copy.known) return rc;
    pthread_mutex_lock(&lock);
    if (asked_in == generation) {
        struct function *kept = copy.bytes > DEFAULT_STACK ? enter_locked(handle) : NULL;
        if (kept) kept->known = true, kept->bytes = copy.bytes;
        else vgpu_store_relaxed(place_of(handle), (const void *)handle);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static bool is_any(const struct vgpu_node *node, uint64_t unused) {
    (void)unused;
    return !((const struct function *)node)->kernel;
}

/* Kernels of other libraries must be known as such for good; their handles are told anew when they
 * are given out again. What was learnt about them is asked again. */
void vgpu_local_forget_functions(void) {
    pthread_mutex_lock(&lock);
    generation++;
    for (unsigned i = 0; i < VGPU_LOCAL_SEEN; i++) vgpu_store_relaxed(&vgpu_local_seen[i], NULL);
    struct vgpu_node *list = vgpu_map_sift(&functions, is_any, 0);
    for (uint64_t i = 0; i < functions.size; i++)
        for (struct vgpu_node *node = functions.chains[i]; node; node = node->next)
            ((struct function *)node)->known = false;
    pthread_mutex_unlock(&lock);
    for (struct vgpu_node *next; list; list = next) {
        next = list->next;
        free(list);
    }
}

void vgpu_local_forget(void) {
    pthread_mutex_init(&lock, NULL);
    memset(&functions, 0, sizeof functions);
    memset(vgpu_local_seen, 0, sizeof vgpu_local_seen);
}
