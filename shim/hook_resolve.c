/* cuGetProcAddress: the driver answers with the caller's version and flags, and what it answers is
 * swapped by pointer. So versions, _v2/_v3 and per-thread-stream flavours are the driver's
 * business. */
#include <stddef.h>
#include <string.h>

#include "atomics.h"
#include "capture.h"
#include "cuda_abi.h"
#include "driver.h"
#include "hook_names.h"
#include "interpose.h"
#include "session.h"

#define UNKNOWN_NAMES 64 /* each is an event once; beyond, only the count goes on */

static void count_unknown(const char *name);
static bool is_allocation(const char *name);

static void swap(const char *name, void **function, const void *caller) {
    if (!name || !function || !*function) return;
    enum vgpu_hook hook = vgpu_driver_hook_at(*function, name);
    if (hook == VGPU_HOOK_COUNT) {
        /* Also a new variant of a base name that has hooks. */
        if (is_allocation(name) && !vgpu_elf_is_own(*function)) count_unknown(name);
        vgpu_capture_note_unhooked(name);
        return;
    }
    const char *symbol = vgpu_hook_symbol(hook);
    void *own = vgpu_driver_exempts(caller, symbol) ? NULL : vgpu_elf_own(symbol);
    if (own) *function = own;
}

VGPU_EXPORT CUresult cuGetProcAddress(const char *name, void **function, int version,
                                      cuuint64_t flags) {
    CUresult result = REAL(cuGetProcAddress)(name, function, version, flags);
    if (result == CUDA_SUCCESS) swap(name, function, __builtin_return_address(0));
    return result;
}

VGPU_EXPORT CUresult cuGetProcAddress_v2(const char *name, void **function, int version,
                                         cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    CUresult result = REAL(cuGetProcAddress_v2)(name, function, version, flags, status);
    if (result == CUDA_SUCCESS) swap(name, function, __builtin_return_address(0));
    return result;
}

/* --- Entry points that nobody has classed yet ------------------------------------------------ */

static bool has_memory_prefix(const char *name) {
    static const char *const prefixes[] = {
        "cuMemAlloc",
        "cuMemCreate",
        "cuMemPoolCreate",
        "cuMemHostAlloc",
        "cuArrayCreate",
        "cuArray3DCreate",
        "cuMipmappedArrayCreate",
        "cuMemMap",
        "cuMemImport",
        "cuMemPoolImport",
        "cuImportExternal",
        "cuIpcOpenMem",
        "cuMulticastCreate",
        "cuMulticastBind",
        "cuCtxCreate",
        "cuGreenCtxCreate",
        "cuLaunch",
        "cuGraphLaunch",
    };
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

static bool is_excused(const char *name) {
    static const char *const excused[] = {
#define EXCUSED(symbol, why) #symbol,
#include "excused.def"
#undef EXCUSED
    };
    for (size_t i = 0; i < sizeof excused / sizeof *excused; i++)
        if (strcmp(name, excused[i]) == 0) return true;
    return false;
}

/* A name is remembered by its hash (FNV-1a); 0 is an empty place. */
static bool is_first_time(const char *name) {
    static uint64_t seen[UNKNOWN_NAMES];
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
    if (hash == 0) hash = 1;
    for (size_t i = 0; i < UNKNOWN_NAMES; i++) {
        uint64_t there = 0;
        if (vgpu_cas_acq_rel(&seen[i], &there, hash)) return true;
        if (there == hash) return false;
    }
    return false;
}

static bool is_allocation(const char *name) { return has_memory_prefix(name) && !is_excused(name); }

static void count_unknown(const char *name) {
    struct vgpu_session *session = vgpu_session_get();
    if (!session) return;
    vgpu_add_relaxed(&session->region->header.unknown_calls, UINT64_C(1));
    if (!is_first_time(name)) return;
    struct vgpu_event event = {
        .kind = VGPU_EVENT_MEMORY_UNKNOWN, .device = VGPU_NO_DEVICE, .api = name};
    vgpu_session_event(session, &event);
}

bool vgpu_resolve_is_unknown(const char *symbol) {
    return is_allocation(symbol) && vgpu_hook_find(symbol) == VGPU_HOOK_COUNT;
}

bool vgpu_resolve_unknown(const char *symbol) {
    if (!vgpu_resolve_is_unknown(symbol)) return false;
    count_unknown(symbol);
    return true;
}
