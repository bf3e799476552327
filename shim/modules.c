#include "modules.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "blocks.h"
#include "charge.h"
#include "images.h"
#include "interpose.h"
#include "local.h"
#include "map.h"
#include "overhead.h"
#include "packs.h"

/* What a module holds in a context; a library has one for each context that used it. */
struct holding {
    struct vgpu_node node;  /* module or library */
    uint64_t bytes;         /* of variables; of large ones their charge */
    struct vgpu_pack *pack; /* NULL: large ones */
    uint32_t owner, device;
};

struct library {
    struct vgpu_node node;
    uint64_t globals;
};

struct kernel {
    struct vgpu_node node;
    uint64_t library;
};

static struct vgpu_map holdings, libraries, kernels;
static uint32_t any_library; /* 1: libraries was not always empty; read without the lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t key_of(const void *handle) { return (uint64_t)(uintptr_t)handle; }

/* Large variables take whole blocks, small ones are packed; code lies elsewhere (measured). */
static bool is_small(uint64_t globals) { return globals <= VGPU_PIECE_BYTES; }

static uint64_t globals_of(const struct vgpu_module_call *call) {
    uint64_t globals = 0;
    bool told = call->image ? vgpu_image_globals(call->image, &globals)
                            : vgpu_image_file_globals(call->path, &globals);
    return told ? globals : 0;
}

/* Enters what is charged with vgpu_block_charge(globals); gives back what the packing saves. */
static void hold(uint64_t key, const struct vgpu_place *place, uint64_t globals) {
    struct holding *holding = globals ? calloc(1, sizeof *holding) : NULL;
    if (!holding) return; /* charged until the process ends: on the safe side */
    *holding = (struct holding){.node.key = key,
                                .bytes = vgpu_block_charge(globals),
                                .owner = place->owner,
                                .device = place->account.device};
    if (is_small(globals)) {
        uint64_t cost, charged = holding->bytes;
        holding->bytes = globals;
        holding->pack = vgpu_packs_put(holding->owner, holding->device, globals, &cost);
        vgpu_ledger_refund(&place->account, charged - cost);
    }
    pthread_mutex_lock(&lock);
    vgpu_map_put(&holdings, &holding->node);
    pthread_mutex_unlock(&lock);
}

static uint64_t bytes_back(const struct holding *holding) {
    return holding->pack ? vgpu_packs_drop(holding->pack) : holding->bytes;
}

static void refund(const struct holding *holding) {
    struct vgpu_session *session = vgpu_session_get();
    if (!session) return;
    const struct vgpu_account account = vgpu_session_account(session, holding->device);
    vgpu_ledger_refund(&account, bytes_back(holding));
}

/* Everything of the key. Taken out before the driver unloads it, since the handle may then be used
 * again. */
static struct vgpu_node *take_all(struct vgpu_map *map, uint64_t key) {
    struct vgpu_node *list = NULL, *node;
    pthread_mutex_lock(&lock);
    while ((node = vgpu_map_take(map, key))) {
        node->next = list;
        list = node;
    }
    pthread_mutex_unlock(&lock);
    return list;
}

static CUresult settle(struct vgpu_node *list, CUresult rc) {
    for (struct vgpu_node *next; list; list = next) {
        next = list->next;
        struct holding *holding = (struct holding *)list;
        if (rc == CUDA_SUCCESS || !vgpu_contexts_alive(holding->owner)) {
            refund(holding);
            free(holding);
            continue;
        }
        pthread_mutex_lock(&lock);
        vgpu_map_put(&holdings, &holding->node);
        pthread_mutex_unlock(&lock);
    }
    return rc;
}

/* --- modules --- */

CUresult vgpu_modules_load(const struct vgpu_module_call *call) {
    struct vgpu_place place;
    CUresult rc = vgpu_context_here(&place, call->api);
    if (rc != CUDA_SUCCESS) return rc;
    if (!place.session || !call->out || !(call->image || call->path)) return call->load(call->how);
    uint64_t globals = globals_of(call), bytes = vgpu_block_charge(globals);
    const struct vgpu_request request = {bytes, globals, 0, call->api};
    if (bytes) rc = vgpu_charge(place.session, &place.account, &request);
    if (rc != CUDA_SUCCESS) return rc;
    void *before = *call->out;
    rc = call->load(call->how);
    if (rc != CUDA_SUCCESS) {
        vgpu_ledger_refund(&place.account, bytes);
        return rc;
    }
    hold(key_of(*call->out), &place, globals);
    if (vgpu_overhead_fits(&place)) return rc;
    struct vgpu_refusal refusal = vgpu_account_tightest(&place.account);
    vgpu_modules_unload(*call->out);
    *call->out = before;
    return vgpu_charge_deny(place.session, &place.account, &request, refusal);
}

CUresult vgpu_modules_unload(CUmodule module) {
    if (!vgpu_session_get()) return REAL(cuModuleUnload)(module);
    struct vgpu_node *list = take_all(&holdings, key_of(module));
    /* Before: what the driver frees, another thread's module may have the next moment. */
    vgpu_local_forget_functions();
    return settle(list, REAL(cuModuleUnload)(module));
}

/* --- libraries --- */

CUresult vgpu_modules_load_library(const struct vgpu_module_call *call) {
    uint64_t globals = vgpu_session_get() && (call->image || call->path) ? globals_of(call) : 0;
    CUresult rc = call->load(call->how);
    struct library *library = rc == CUDA_SUCCESS && globals ? calloc(1, sizeof *library) : NULL;
    if (!library) return rc;
    *library = (struct library){{key_of(*call->out), NULL}, globals};
    pthread_mutex_lock(&lock);
    vgpu_map_put(&libraries, &library->node);
    pthread_mutex_unlock(&lock);
    vgpu_store_relaxed(&any_library, 1U);
    return rc;
}

static bool is_of_library(const struct vgpu_node *node, uint64_t library) {
    return ((const struct kernel *)node)->library == library;
}

CUresult vgpu_modules_unload_library(CUlibrary library) {
    if (!vgpu_session_get()) return REAL(cuLibraryUnload)(library);
    struct vgpu_node *held = take_all(&holdings, key_of(library));
    struct vgpu_node *known = take_all(&libraries, key_of(library));
    vgpu_local_forget_functions();
    CUresult rc = REAL(cuLibraryUnload)(library);
    pthread_mutex_lock(&lock);
    struct vgpu_node *list = rc ? NULL : vgpu_map_sift(&kernels, is_of_library, key_of(library));
    if (rc != CUDA_SUCCESS && known) vgpu_map_put(&libraries, known);
    pthread_mutex_unlock(&lock);
    if (rc == CUDA_SUCCESS) free(known);
    for (struct vgpu_node *next; list; list = next) {
        next = list->next;
        free(list);
    }
    return settle(held, rc);
}

void vgpu_modules_note_kernel(CUlibrary library, CUkernel kernel) {
    vgpu_local_note_kernel(kernel);
    pthread_mutex_lock(&lock);
    /* Only where it matters: the library has variables to charge. */
    if (vgpu_map_find(&libraries, key_of(library)) && !vgpu_map_find(&kernels, key_of(kernel))) {
        struct kernel *entry = calloc(1, sizeof *entry);
        if (entry) *entry = (struct kernel){{key_of(kernel), NULL}, key_of(library)};
        if (entry && !vgpu_map_put(&kernels, &entry->node)) free(entry);
    }
    pthread_mutex_unlock(&lock);
}

static CUresult use(const struct vgpu_place *place, uint64_t library, const char *api) {
    pthread_mutex_lock(&lock);
    const struct library *found = (const struct library *)vgpu_map_find(&libraries, library);
    uint64_t globals = found ? found->globals : 0;
    const struct vgpu_node *node = globals ? vgpu_map_find(&holdings, library) : NULL;
    for (; node && globals; node = node->next)
        if (node->key == library && ((const struct holding *)node)->owner == place->owner)
            globals = 0;
    pthread_mutex_unlock(&lock);
    if (!globals) return CUDA_SUCCESS;
    const struct vgpu_request request = {vgpu_block_charge(globals), globals, 0, api};
    CUresult rc = vgpu_charge(place->session, &place->account, &request);
    if (rc == CUDA_SUCCESS) hold(library, place, globals);
    return rc;
}

CUresult vgpu_modules_used(CUlibrary library, const char *api) {
    struct vgpu_place place;
    if (!vgpu_load_relaxed(&any_library)) return CUDA_SUCCESS;
    CUresult rc = vgpu_context_here(&place, api);
    return rc || !place.session ? rc : use(&place, key_of(library), api);
}

CUresult vgpu_modules_used_kernel(const struct vgpu_place *place, CUkernel kernel,
                                  const char *api) {
    pthread_mutex_lock(&lock);
    const struct kernel *found = (const struct kernel *)vgpu_map_find(&kernels, key_of(kernel));
    uint64_t library = found ? found->library : 0;
    pthread_mutex_unlock(&lock);
    return library ? use(place, library, api) : CUDA_SUCCESS;
}

static bool is_owned(const struct vgpu_node *node, uint64_t owner) {
    return ((const struct holding *)node)->owner == owner;
}

void vgpu_modules_drop_owner(uint32_t owner, uint64_t *bytes) {
    pthread_mutex_lock(&lock);
    struct vgpu_node *list = vgpu_map_sift(&holdings, is_owned, owner);
    pthread_mutex_unlock(&lock);
    for (struct vgpu_node *next; list; list = next) {
        next = list->next;
        const struct holding *holding = (const struct holding *)list;
        bytes[holding->device] += bytes_back(holding);
        free(list);
    }
}

void vgpu_modules_forget(void) {
    pthread_mutex_init(&lock, NULL);
    memset(&holdings, 0, sizeof holdings);
    memset(&libraries, 0, sizeof libraries);
    any_library = 0;
    memset(&kernels, 0, sizeof kernels);
}
