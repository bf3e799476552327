#define _GNU_SOURCE
#include "context.h"

#include <pthread.h>
#include <stdlib.h>

#include "arrays.h"
#include "atomics.h"
#include "blocks.h"
#include "charge.h"
#include "device.h"
#include "exports.h"
#include "graph_ends.h"
#include "graph_memory.h"
#include "handles.h"
#include "interpose.h"
#include "local.h"
#include "modules.h"
#include "packs.h"
#include "pace.h"
#include "partition.h"
#include "seat.h"
#include "stream_order.h"

#define ORDINALS 64

/* MAKING: one thread is about to charge and make it; others just call the driver and look again
 * afterwards. */
enum { ABSENT, MAKING, PRESENT };
static struct primary {
    uint32_t state;
    CUcontext handle;
    /* Changed under `counting`: */
    uint32_t references; /* retains seen by us: at most the driver's own count */
    uint32_t greens;     /* the program's own green contexts, each of which holds it too */
} primaries[ORDINALS];

/* Around the driver's call and our count of it: only so is it known which release is the last.
 * Recursive, since a tool that the driver calls back may retain and release too. The outermost of
 * our locks. */
static pthread_mutex_t counting = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

static struct primary *primary_of(CUdevice ordinal) {
    return (unsigned)ordinal < ORDINALS ? &primaries[ordinal] : NULL;
}

static void forget_in_child(void) {
    counting = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    __builtin_memset(primaries, 0, sizeof primaries);
    vgpu_contexts_forget();
    vgpu_blocks_forget();
    vgpu_handles_forget();
    vgpu_arrays_forget();
    vgpu_packs_forget();
    vgpu_modules_forget();
    vgpu_graph_memory_forget();
    vgpu_local_forget();
    vgpu_exports_forget();
    vgpu_partition_forget();
    vgpu_graph_ends_forget();
    vgpu_order_forget();
}

__attribute__((constructor)) static void register_fork(void) {
    vgpu_session_on_fork(forget_in_child);
}

void vgpu_context_on_device(struct vgpu_place *place, CUdevice ordinal) {
    *place = (struct vgpu_place){.ordinal = ordinal};
    struct vgpu_session *session = vgpu_session_get();
    uint32_t index = session ? vgpu_device_index(session, ordinal) : VGPU_NO_DEVICE;
    if (index == VGPU_NO_DEVICE) return;
    place->session = session;
    place->account = vgpu_session_account(session, index);
}

static CUresult reserve(const struct vgpu_place *place, const char *api, uint64_t *charge) {
    *charge = vgpu_device_context_bytes(place->session->region, place->account.device);
    const struct vgpu_request request = {*charge, *charge, *charge, api};
    CUresult rc = vgpu_charge(place->session, &place->account, &request);
    if (rc != CUDA_SUCCESS) *charge = 0;
    return rc;
}

/* Enters a context whose charge is reserved; gives the charge back if another thread was first. */
static void enter(const struct vgpu_place *place, CUcontext context, uint64_t charge) {
    struct vgpu_context entry = {.handle = context,
                                 .device = place->account.device,
                                 .ordinal = place->ordinal,
                                 .charge = charge};
    if (!vgpu_contexts_put(&entry)) vgpu_ledger_refund(&place->account, charge);
    struct vgpu_place_on_board seat;
    uint32_t device = place->account.device;
    struct vgpu_session *outermost = vgpu_session_outermost(place->session, &device);
    vgpu_seat_take(outermost, device, &seat);
}

/* Refunds what ended with the context: itself and its plain allocations. Virtual memory and pools
 * belong to the process and the device, and stay. */
static void drop(const struct vgpu_context *entry) {
    struct vgpu_session *session = vgpu_session_get();
    uint64_t bytes[VGPU_MAX_DEVICES] = {0};
    bytes[entry->device] = entry->charge;
    vgpu_blocks_drop_owner(entry->owner, bytes);
    vgpu_arrays_drop_owner(entry->owner, bytes);
    vgpu_modules_drop_owner(entry->owner, bytes);
    if (!session) return;
    for (uint32_t i = 0; i < VGPU_MAX_DEVICES; i++) {
        const struct vgpu_account account = vgpu_session_account(session, i);
        vgpu_ledger_refund(&account, bytes[i]);
    }
}

static bool primary_active(CUdevice ordinal) {
    unsigned flags;
    int active = 0;
    return CALL(cuDevicePrimaryCtxGetState)(ordinal, &flags, &active) == CUDA_SUCCESS && active;
}

/* Refunds a primary context that has ended. Caller holds the lock. */
static void refund(struct primary *primary) {
    CUcontext handle = vgpu_load_relaxed(&primary->handle);
    struct vgpu_context entry;
    if (!handle || !vgpu_contexts_take(handle, &entry)) return;
    vgpu_store_relaxed(&primary->references, 0U);
    vgpu_store_relaxed(&primary->greens, 0U);
    vgpu_store_release(&primary->state, (uint32_t)ABSENT);
    drop(&entry);
}

/* Refunds the primary contexts that ended with a green one. */
static void look_at_primaries(void) {
    pthread_mutex_lock(&counting);
    for (CUdevice ordinal = 0; ordinal < ORDINALS; ordinal++)
        if (vgpu_load_acquire(&primaries[ordinal].state) == PRESENT && !primary_active(ordinal))
            refund(&primaries[ordinal]);
    pthread_mutex_unlock(&counting);
}

/* The handle of a primary context that is alive: retaining it once more is free. */
static CUcontext primary_handle(CUdevice ordinal) {
    CUcontext handle = NULL;
    if (!primary_active(ordinal) ||
        REAL(cuDevicePrimaryCtxRetain)(&handle, ordinal) != CUDA_SUCCESS)
        return NULL;
    REAL(cuDevicePrimaryCtxRelease_v2)(ordinal);
    return handle;
}

void vgpu_context_enter_free(CUcontext context, CUdevice ordinal) {
    struct vgpu_place place;
    struct vgpu_context primary = {0};
    vgpu_context_on_device(&place, ordinal);
    if (!place.session || !context) return;
    CUcontext handle = primary_handle(ordinal);
    if (handle) vgpu_contexts_find(handle, &primary);
    struct vgpu_context entry = {.handle = context,
                                 .owner = primary.owner,
                                 .device = place.account.device,
                                 .ordinal = ordinal};
    vgpu_contexts_put(&entry);
}

/* The device of any context, current or not. */
static bool device_of(CUcontext context, CUdevice *ordinal) {
    CUcontext current = NULL;
    CALL(cuCtxGetCurrent)(&current);
    if (current == context) return CALL(cuCtxGetDevice)(ordinal) == CUDA_SUCCESS;
    if (REAL(cuCtxPushCurrent_v2)(context) != CUDA_SUCCESS) return false;
    bool found = CALL(cuCtxGetDevice)(ordinal) == CUDA_SUCCESS;
    CALL(cuCtxPopCurrent_v2)(&current);
    return found;
}

static CUresult learn_primary(const struct vgpu_place *place, CUcontext context, const char *api) {
    struct primary *primary = primary_of(place->ordinal);
    uint32_t state = ABSENT;
    if (!vgpu_cas_acq_rel(&primary->state, &state, (uint32_t)MAKING)) return CUDA_SUCCESS;
    uint64_t charge;
    CUresult rc = reserve(place, api, &charge);
    if (rc == CUDA_SUCCESS) {
        vgpu_store_relaxed(&primary->handle, context);
        enter(place, context, charge);
    }
    vgpu_store_release(&primary->state, (uint32_t)(rc == CUDA_SUCCESS ? PRESENT : ABSENT));
    return rc;
}

static CUresult learn(CUcontext context, const char *api) {
    struct vgpu_place place;
    CUdevice ordinal;
    if (!device_of(context, &ordinal)) return CUDA_SUCCESS; /* the driver will say what is wrong */
    vgpu_context_on_device(&place, ordinal);
    if (!place.session) return CUDA_SUCCESS;
    CUcontext primary = primary_handle(ordinal);
    if (primary_of(ordinal) && context == primary) return learn_primary(&place, context, api);
    /* Not the primary one, and not made through a hook. */
    uint64_t charge;
    CUresult rc = reserve(&place, api, &charge);
    if (rc == CUDA_SUCCESS) enter(&place, context, charge);
    return rc;
}

CUresult vgpu_context_seen_by(CUcontext context, const char *api) {
    struct vgpu_context known;
    if (!context || vgpu_contexts_find(context, &known)) return CUDA_SUCCESS;
    return vgpu_session_get() ? learn(context, api) : CUDA_SUCCESS;
}

CUresult vgpu_context_seen(CUcontext context) {
    return vgpu_context_seen_by(context, "cuCtxSetCurrent");
}

/* --- spatial mode --- */

/* The view of a primary context that has been charged. */
static CUresult view_of(CUdevice ordinal, CUcontext primary, CUcontext *view) {
    bool made;
    CUresult rc = vgpu_partition_view(ordinal, primary, view, &made);
    if (rc == CUDA_SUCCESS && made) vgpu_context_enter_free(*view, ordinal);
    return rc;
}

/* Only rooms hold it: the program has a dead one. */
static bool is_let_go(const struct primary *primary, CUdevice ordinal) {
    return !vgpu_load_relaxed(&primary->references) && !vgpu_load_relaxed(&primary->greens) &&
           !vgpu_partition_is_shared() && vgpu_partition_has_room(ordinal);
}

CUresult vgpu_context_inside(CUcontext context, const char *api, CUcontext *inside) {
    struct vgpu_context known;
    CUdevice ordinal;
    *inside = context;
    if (!context || !vgpu_partition_any()) return CUDA_SUCCESS;
    *inside = vgpu_partition_inside(context);
    if (*inside != context) return CUDA_SUCCESS;
    if (vgpu_contexts_find(context, &known)) {
        ordinal = known.ordinal;
        struct primary *primary = primary_of(ordinal);
        if (!primary || vgpu_load_relaxed(&primary->handle) != context) return CUDA_SUCCESS;
        if (is_let_go(primary, ordinal)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    } else {
        if (!device_of(context, &ordinal) || primary_handle(ordinal) != context)
            return CUDA_SUCCESS;
        CUresult rc = vgpu_context_seen_by(context, api);
        if (rc != CUDA_SUCCESS) return rc;
    }
    return vgpu_partition_sms(ordinal) ? view_of(ordinal, context, inside) : CUDA_SUCCESS;
}

/* A primary context that became current on a way that we do not see, or that has come back after
 * its end: the view of then is dead. */
static CUresult step_inside(CUcontext *current, const char *api) {
    CUcontext known = vgpu_partition_outside(*current), inside;
    CUresult rc = vgpu_context_inside(known, api, &inside);
    if (rc != CUDA_SUCCESS || inside == known || inside == *current) return rc;
    *current = inside;
    return REAL(cuCtxSetCurrent)(inside);
}

/* Before the primary context goes. Who has the view current gets the primary itself, which is about
 * to die in its hands as it would without us; if rooms keep it alive, the view is left in its
 * place, dead. */
static void leave_partition(CUdevice ordinal) {
    CUcontext primary, view, current = NULL;
    struct vgpu_context entry;
    struct vgpu_place place;
    if (!vgpu_partition_of(ordinal, &primary, &view)) return;
    vgpu_pace_forget_context(view);
    vgpu_graph_ends_forget_context(view);
    vgpu_order_forget_context(view);
    if (CALL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current == view &&
        !vgpu_partition_has_room(ordinal))
        REAL(cuCtxSetCurrent)(primary);
    vgpu_context_on_device(&place, ordinal);
    if (vgpu_contexts_take(view, &entry) && place.session)
        vgpu_ledger_refund(&place.account, entry.charge);
    vgpu_partition_end_view(ordinal);
}

CUresult vgpu_context_open_room(CUcontext *out, CUdevice ordinal, unsigned int flags,
                                const char *api) {
    CUcontext primary, room;
    struct vgpu_place place;
    vgpu_context_on_device(&place, ordinal);
    if (!primary_active(ordinal)) {
        CUresult rc = CALL(cuDevicePrimaryCtxSetFlags_v2)(ordinal, flags);
        if (rc != CUDA_SUCCESS) return rc;
    }
    CUresult rc = vgpu_context_retain_primary(&primary, ordinal, api);
    if (rc != CUDA_SUCCESS) return rc;
    rc = vgpu_partition_open_room(ordinal, flags, &room);
    if (rc == CUDA_SUCCESS) {
        struct vgpu_context entry = {
            .handle = room, .device = place.account.device, .ordinal = ordinal};
        vgpu_contexts_put(&entry);
        rc = REAL(cuCtxPushCurrent_v2)(room);
        if (rc == CUDA_SUCCESS) *out = room;
        else vgpu_context_end(room, NULL);
    }
    vgpu_context_release_primary(ordinal, REAL(cuDevicePrimaryCtxRelease_v2), false);
    return rc;
}

/* What a context that has ended owned of the primary one, which lives on. To free it the driver
 * wants a current context. */
static void free_owned(uint32_t owner, CUcontext primary) {
    CUcontext popped;
    uint64_t count, *addresses = vgpu_blocks_list(owner, &count);
    bool pushed = REAL(cuCtxPushCurrent_v2)(primary) == CUDA_SUCCESS;
    for (uint64_t i = 0; i < count; i++) cuMemFree_v2(addresses[i]);
    if (pushed) CALL(cuCtxPopCurrent_v2)(&popped);
    free(addresses);
}

/* A context frees what it owns. A room's allocations are its primary context's, which may live on:
 * they are freed one by one. Its arrays and modules stay, and stay charged. */
static CUresult close_room(CUcontext room) {
    struct vgpu_context entry = {0};
    CUcontext current = NULL;
    CUdevice ordinal = -1;
    vgpu_partition_is_room(room, &ordinal, NULL);
    vgpu_pace_forget_context(room);
    vgpu_graph_ends_forget_context(room);
    vgpu_order_forget_context(room);
    if (CALL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current == room)
        CALL(cuCtxPopCurrent_v2)(&current);
    bool known = vgpu_contexts_take(room, &entry);
    CUresult rc = vgpu_partition_close_room(room);
    if (!known) return rc;
    if (!primary_active(ordinal)) {
        drop(&entry);
        look_at_primaries();
        return rc;
    }
    free_owned(entry.owner, primary_handle(ordinal));
    struct vgpu_place place;
    vgpu_context_on_device(&place, ordinal);
    if (place.session) vgpu_ledger_refund(&place.account, entry.charge);
    return rc;
}

/* --- */

CUresult vgpu_context_here(struct vgpu_place *place, const char *api) {
    place->session = NULL;
    place->context = NULL;
    struct vgpu_session *session = vgpu_session_get();
    CUcontext current = NULL;
    if (!session || CALL(cuCtxGetCurrent)(&current) != CUDA_SUCCESS || !current)
        return CUDA_SUCCESS;
    if (vgpu_partition_any()) {
        CUresult rc = step_inside(&current, api);
        if (rc != CUDA_SUCCESS) return rc;
    }
    struct vgpu_context known;
    if (__builtin_expect(!vgpu_contexts_find(current, &known), 0)) {
        CUresult rc = learn(current, api);
        if (rc != CUDA_SUCCESS) return rc;
        if (!vgpu_contexts_find(current, &known)) {
            /* Another thread is entering it this moment. Owner 0: outlives any context. */
            CUdevice ordinal;
            if (CALL(cuCtxGetDevice)(&ordinal) == CUDA_SUCCESS)
                vgpu_context_on_device(place, ordinal);
            place->owner = 0;
            return CUDA_SUCCESS;
        }
    }
    place->session = session;
    place->account = vgpu_session_account(session, known.device);
    place->ordinal = known.ordinal;
    place->owner = known.owner;
    place->context = current;
    return CUDA_SUCCESS;
}

CUresult vgpu_context_make(CUcontext *out, CUdevice ordinal, const char *api,
                           CUresult (*make)(void *how), void *how) {
    struct vgpu_place place;
    uint64_t charge;
    vgpu_context_on_device(&place, ordinal);
    if (!place.session || !out) return make(how);
    CUresult rc = reserve(&place, api, &charge);
    if (rc != CUDA_SUCCESS) return rc;
    rc = make(how);
    if (rc == CUDA_SUCCESS) enter(&place, *out, charge);
    else vgpu_ledger_refund(&place.account, charge);
    return rc;
}

CUresult vgpu_context_end(CUcontext context, CUresult (*end)(CUcontext)) {
    struct vgpu_context entry;
    if (vgpu_partition_any() && vgpu_partition_is_room(context, NULL, NULL))
        return close_room(context);
    vgpu_pace_forget_context(context);
    /* Out of the table first: the handle may be given to a new context before end() returns. */
    bool known = context && vgpu_contexts_take(context, &entry);
    CUresult rc = end(context);
    if (!known) return rc;
    if (rc == CUDA_SUCCESS) drop(&entry);
    else vgpu_contexts_put(&entry);
    return rc;
}

static CUresult retain(struct primary *primary, CUcontext *context, CUdevice ordinal) {
    pthread_mutex_lock(&counting);
    CUresult rc = REAL(cuDevicePrimaryCtxRetain)(context, ordinal);
    if (rc == CUDA_SUCCESS) vgpu_add_relaxed(&primary->references, 1U);
    pthread_mutex_unlock(&counting);
    return rc;
}

CUresult vgpu_context_retain_primary(CUcontext *out, CUdevice ordinal, const char *api) {
    struct vgpu_place place;
    struct primary *primary = primary_of(ordinal);
    vgpu_context_on_device(&place, ordinal);
    if (!place.session || !primary || !out) return REAL(cuDevicePrimaryCtxRetain)(out, ordinal);

    uint64_t charge = 0;
    uint32_t state = ABSENT;
    bool making = vgpu_cas_acq_rel(&primary->state, &state, (uint32_t)MAKING);
    CUresult rc = making ? reserve(&place, api, &charge) : CUDA_SUCCESS;
    CUcontext context = NULL;
    if (rc == CUDA_SUCCESS) rc = retain(primary, &context, ordinal);
    if (making) {
        if (rc == CUDA_SUCCESS) {
            vgpu_store_relaxed(&primary->handle, context);
            enter(&place, context, charge);
        } else {
            vgpu_ledger_refund(&place.account, charge);
        }
        vgpu_store_release(&primary->state, (uint32_t)(rc == CUDA_SUCCESS ? PRESENT : ABSENT));
    } else if (rc == CUDA_SUCCESS) {
        /* It may have ended and come back, or its maker may have been refused: look once more. */
        rc = vgpu_context_seen_by(context, api);
        if (rc != CUDA_SUCCESS)
            vgpu_context_release_primary(ordinal, REAL(cuDevicePrimaryCtxRelease_v2), false);
    }
    if (rc == CUDA_SUCCESS) *out = context;
    return rc;
}

/* The view goes with what would be the last of the program's holds. What cudart holds we do not
 * see. */
static bool is_last(const struct primary *primary) {
    return primary->references + primary->greens == 1 && !vgpu_partition_is_shared();
}

/* A primary context that rooms keep alive is reset: contexts of the program's own would outlive it,
 * and so do they. Its arrays and modules stay, and stay charged. Caller holds the lock. */
static CUresult reset_beside_rooms(struct primary *primary, CUdevice ordinal, CUcontext handle) {
    struct vgpu_context known;
    leave_partition(ordinal);
    if (handle && vgpu_contexts_find(handle, &known)) free_owned(known.owner, handle);
    for (uint32_t i = primary->references; i; i--) REAL(cuDevicePrimaryCtxRelease_v2)(ordinal);
    vgpu_store_relaxed(&primary->references, 0U);
    vgpu_store_relaxed(&primary->greens, 0U);
    return CUDA_SUCCESS;
}

/* Caller holds the lock. */
static CUresult release(struct primary *primary, CUdevice ordinal, CUresult (*end)(CUdevice),
                        bool reset) {
    uint32_t references = primary->references;
    CUcontext handle = vgpu_load_relaxed(&primary->handle);
    bool has_room = vgpu_partition_any() && vgpu_partition_has_room(ordinal);
    bool is_held = has_room || (vgpu_partition_sms(ordinal) && primary->greens);
    /* The driver would take what rooms and green contexts hold. */
    if (!reset && !references && is_held && !vgpu_partition_is_shared())
        return CUDA_ERROR_INVALID_CONTEXT;
    /* The pacer's streams and events must go while the context still lives. */
    if (handle && (reset || references <= 1)) vgpu_pace_forget_context(handle);
    if (reset && has_room) return reset_beside_rooms(primary, ordinal, handle);
    if (reset || is_last(primary)) leave_partition(ordinal);
    CUresult rc = end(ordinal);
    if (rc != CUDA_SUCCESS) return rc;
    if (reset) vgpu_store_relaxed(&primary->greens, 0U);
    vgpu_store_relaxed(&primary->references, reset || references == 0 ? 0 : references - 1);
    if (reset || !primary_active(ordinal)) refund(primary);
    return rc;
}

CUresult vgpu_context_release_primary(CUdevice ordinal, CUresult (*end)(CUdevice), bool reset) {
    struct primary *primary = primary_of(ordinal);
    if (!vgpu_session_get() || !primary) return end(ordinal);
    pthread_mutex_lock(&counting);
    CUresult rc = release(primary, ordinal, end, reset);
    pthread_mutex_unlock(&counting);
    return rc;
}

CUresult vgpu_context_make_green(CUgreenCtx *out, CUdevResourceDesc resources, CUdevice ordinal,
                                 unsigned int flags) {
    struct primary *primary = primary_of(ordinal);
    CUcontext context;
    if (!vgpu_session_get() || !primary)
        return REAL(cuGreenCtxCreate)(out, resources, ordinal, flags);
    CUresult rc = vgpu_context_retain_primary(&context, ordinal, "cuGreenCtxCreate");
    if (rc != CUDA_SUCCESS) return rc;
    pthread_mutex_lock(&counting);
    rc = REAL(cuGreenCtxCreate)(out, resources, ordinal, flags);
    if (rc == CUDA_SUCCESS) vgpu_add_relaxed(&primary->greens, 1U);
    pthread_mutex_unlock(&counting);
    vgpu_context_release_primary(ordinal, REAL(cuDevicePrimaryCtxRelease_v2), false);
    return rc;
}

/* Caller holds the lock. */
static CUresult end_green(struct primary *primary, CUdevice ordinal, CUgreenCtx green) {
    CUresult rc = REAL(cuGreenCtxDestroy)(green);
    if (rc != CUDA_SUCCESS || !primary || !primary->greens) return rc;
    if (is_last(primary)) leave_partition(ordinal);
    vgpu_sub_relaxed(&primary->greens, 1U);
    return rc;
}

CUresult vgpu_context_synchronize(void) {
    CUcontext view = NULL, known, popped;
    CUdevice ordinal;
    CUresult rc = REAL(cuCtxSynchronize)();
    if (rc != CUDA_SUCCESS || !vgpu_partition_any()) return rc;
    if (REAL(cuCtxGetCurrent)(&view) != CUDA_SUCCESS) return rc;
    known = vgpu_partition_outside(view);
    if (known == view || CALL(cuCtxGetDevice)(&ordinal) != CUDA_SUCCESS) return rc;
    const struct primary *primary = primary_of(ordinal);
    if (!primary || !vgpu_load_relaxed(&primary->greens)) return rc;
    if (REAL(cuCtxPushCurrent_v2)(known) != CUDA_SUCCESS) return rc;
    rc = REAL(cuCtxSynchronize)();
    REAL(cuCtxPopCurrent_v2)(&popped);
    return rc;
}

CUresult vgpu_context_end_green(CUgreenCtx green) {
    CUcontext context = NULL;
    CUdevice ordinal = -1;
    struct vgpu_context entry;
    if (!vgpu_session_get()) return REAL(cuGreenCtxDestroy)(green);
    bool known = REAL(cuCtxFromGreenCtx)(&context, green) == CUDA_SUCCESS;
    if (known) device_of(context, &ordinal);
    known = known && vgpu_contexts_take(context, &entry);
    pthread_mutex_lock(&counting);
    CUresult rc = end_green(primary_of(ordinal), ordinal, green);
    pthread_mutex_unlock(&counting);
    if (rc == CUDA_SUCCESS) look_at_primaries();
    else if (known) vgpu_contexts_put(&entry);
    return rc;
}
