/* Plain allocations: reserve, call, then enter or refund. No lock is held across a driver call. */
#include "atomics.h"
#include "blocks.h"
#include "charge.h"
#include "context.h"
#include "exports.h"
#include "graph_ends.h"
#include "interpose.h"
#include "pools.h"

/* Rows are padded to this (measured); corrected after the call. */
#define PITCH_STEP UINT64_C(512)

struct plain {
    struct vgpu_place place; /* session NULL: only forward */
    uint64_t charge;
    uint16_t piece;
};

/* Reserves what the driver will take. bytes 0 is left to the driver to refuse. */
static CUresult begin(struct plain *plain, uint64_t bytes, const char *api) {
    CUresult rc = vgpu_context_here(&plain->place, api);
    if (bytes == 0) plain->place.session = NULL;
    if (rc != CUDA_SUCCESS || !plain->place.session) return rc;
    plain->piece = bytes <= VGPU_PIECE_BYTES;
    plain->charge = vgpu_block_charge(bytes);
    const struct vgpu_request request = {plain->charge, bytes, 0, api};
    return vgpu_charge(plain->place.session, &plain->place.account, &request);
}

static CUresult end(const struct plain *plain, CUresult rc, CUdeviceptr address) {
    const struct vgpu_account *account = &plain->place.account;
    if (!plain->place.session) return rc;
    if (rc != CUDA_SUCCESS) {
        vgpu_ledger_refund(account, plain->charge);
        return rc;
    }
    const struct vgpu_block block = {address, plain->charge, plain->place.owner,
                                     (uint16_t)account->device, plain->piece};
    vgpu_ledger_refund(account, vgpu_blocks_put(&block));
    vgpu_ledger_allocated(account);
    return rc;
}

VGPU_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t bytes) {
    struct plain plain;
    CUresult rc = begin(&plain, out ? bytes : 0, "cuMemAlloc_v2");
    if (rc != CUDA_SUCCESS) return rc;
    rc = REAL(cuMemAlloc_v2)(out, bytes);
    return end(&plain, rc, out ? *out : 0);
}

VGPU_EXPORT CUresult cuMemAlloc(CUdeviceptr_v1 *out, unsigned int bytes) {
    struct plain plain;
    CUresult rc = begin(&plain, out ? bytes : 0, "cuMemAlloc");
    if (rc != CUDA_SUCCESS) return rc;
    rc = REAL(cuMemAlloc)(out, bytes);
    return end(&plain, rc, out ? *out : 0);
}

static uint64_t rows(uint64_t pitch, uint64_t height) {
    uint64_t bytes;
    return __builtin_mul_overflow(pitch, height, &bytes) ? UINT64_MAX : bytes;
}

static uint64_t rows_guess(uint64_t width, uint64_t height) {
    return rows((width + PITCH_STEP - 1) / PITCH_STEP * PITCH_STEP, height);
}

/* Replaces the guess by the pitch that the driver chose. */
static CUresult end_pitch(struct plain *plain, CUresult rc, CUdeviceptr address, uint64_t bytes,
                          const char *api) {
    if (!plain->place.session || rc != CUDA_SUCCESS) return end(plain, rc, address);
    uint64_t charge = vgpu_block_charge(bytes);
    if (charge > plain->charge) {
        const struct vgpu_request more = {charge - plain->charge, bytes, 0, api};
        rc = vgpu_charge(plain->place.session, &plain->place.account, &more);
        if (rc != CUDA_SUCCESS) {
            REAL(cuMemFree_v2)(address);
            return end(plain, rc, address);
        }
    } else {
        vgpu_ledger_refund(&plain->place.account, plain->charge - charge);
    }
    plain->charge = charge;
    plain->piece = bytes <= VGPU_PIECE_BYTES;
    return end(plain, rc, address);
}

VGPU_EXPORT CUresult cuMemAllocPitch_v2(CUdeviceptr *out, size_t *pitch, size_t width,
                                        size_t height, unsigned int element) {
    struct plain plain;
    CUresult rc = begin(&plain, out && pitch ? rows_guess(width, height) : 0, "cuMemAllocPitch_v2");
    if (rc != CUDA_SUCCESS) return rc;
    rc = REAL(cuMemAllocPitch_v2)(out, pitch, width, height, element);
    if (rc != CUDA_SUCCESS) return end(&plain, rc, 0);
    return end_pitch(&plain, rc, *out, rows(*pitch, height), "cuMemAllocPitch_v2");
}

VGPU_EXPORT CUresult cuMemAllocPitch(CUdeviceptr_v1 *out, unsigned int *pitch, unsigned int width,
                                     unsigned int height, unsigned int element) {
    struct plain plain;
    CUresult rc = begin(&plain, out && pitch ? rows_guess(width, height) : 0, "cuMemAllocPitch");
    if (rc != CUDA_SUCCESS) return rc;
    rc = REAL(cuMemAllocPitch)(out, pitch, width, height, element);
    if (rc != CUDA_SUCCESS) return end(&plain, rc, 0);
    return end_pitch(&plain, rc, *out, rows(*pitch, height), "cuMemAllocPitch");
}

/* Charged in full at the call: which of its pages lie on the device cannot be seen from here. */
VGPU_EXPORT CUresult cuMemAllocManaged(CUdeviceptr *out, size_t bytes, unsigned int flags) {
    struct plain plain;
    CUresult rc = vgpu_context_here(&plain.place, "cuMemAllocManaged");
    if (rc != CUDA_SUCCESS) return rc;
    if (!out || !bytes) plain.place.session = NULL;
    plain.charge = bytes;
    plain.piece = 0;
    if (plain.place.session) {
        const struct vgpu_request request = {bytes, bytes, 0, "cuMemAllocManaged"};
        rc = vgpu_charge(plain.place.session, &plain.place.account, &request);
        if (rc != CUDA_SUCCESS) return rc;
    }
    rc = REAL(cuMemAllocManaged)(out, bytes, flags);
    if (rc == CUDA_SUCCESS && plain.place.session) vgpu_ledger_managed(&plain.place.account, bytes);
    return end(&plain, rc, out ? *out : 0);
}

/* --- Giving back --- */

struct release {
    struct vgpu_session *session;
    bool plain; /* the pointer is one of ours */
    struct vgpu_block block;
    struct vgpu_orphan orphan;
};

/* Before the driver frees it, since afterwards another thread may be given the same address. */
static void begin_free(struct release *release, CUdeviceptr address) {
    release->session = vgpu_session_get();
    if (!release->session) return;
    release->plain = vgpu_blocks_take(address, &release->block);
    if (!release->plain) release->orphan = vgpu_pools_before_free(address);
}

static CUresult end_free(const struct release *release, CUresult rc, bool synchronises) {
    if (!release->session) return rc;
    if (!release->plain) {
        if (rc != CUDA_SUCCESS) return rc;
        vgpu_pools_after_free(&release->orphan);
        if (synchronises) vgpu_pools_refresh();
        else vgpu_pools_mark_dirty();
        return rc;
    }
    const struct vgpu_block *block = &release->block;
    const struct vgpu_account account = vgpu_session_account(release->session, block->device);
    if (rc == CUDA_SUCCESS || (block->owner && !vgpu_contexts_alive(block->owner))) {
        uint64_t bytes = vgpu_blocks_left(block);
        if (vgpu_exports_any()) vgpu_exports_refund(&account, block->address, bytes);
        else vgpu_ledger_refund(&account, bytes);
    } else {
        vgpu_ledger_refund(&account, vgpu_blocks_return(block));
    }
    return rc;
}

VGPU_EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
    struct release release;
    vgpu_graph_ends_wait(NULL); /* as the driver waits for kernels */
    begin_free(&release, address);
    return end_free(&release, REAL(cuMemFree_v2)(address), true);
}

VGPU_EXPORT CUresult cuMemFree(CUdeviceptr_v1 address) {
    struct release release;
    vgpu_graph_ends_wait(NULL); /* as the driver waits for kernels */
    begin_free(&release, address);
    return end_free(&release, REAL(cuMemFree)(address), true);
}

VGPU_EXPORT CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    struct release release;
    begin_free(&release, address);
    return end_free(&release, REAL(cuMemFreeAsync)(address, stream), false);
}

VGPU_EXPORT CUresult cuMemFreeAsync_ptsz(CUdeviceptr address, CUstream stream) {
    struct release release;
    begin_free(&release, address);
    return end_free(&release, REAL(cuMemFreeAsync_ptsz)(address, stream), false);
}
