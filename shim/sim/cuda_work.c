/* What device work does to memory: the built-in kernels, copies, fills. Runs when the card's time
 * has come. */
#include <stdlib.h>
#include <string.h>

#include "cuda_sim.h"

static void run_kernel(const struct work *work) {
    uint32_t count = work->kernel.count;
    uint32_t *out = (uint32_t *)work->kernel.out;
    const uint32_t *a = (const uint32_t *)work->kernel.a, *b = (const uint32_t *)work->kernel.b;
    if (work->kind == WORK_FILL)
        for (uint32_t i = 0; i < count; i++) out[i] = work->kernel.value;
    else if (work->kind == WORK_ADD)
        for (uint32_t i = 0; i < count; i++) out[i] = a[i] + b[i];
    else {
        uint64_t sum = 0;
        for (uint32_t i = 0; i < count; i++) sum += a[i];
        *(uint64_t *)work->kernel.out = sum;
    }
}

static void run_copy(const struct work *work) {
    for (size_t z = 0; z < work->copy.depth; z++)
        for (size_t y = 0; y < work->copy.height; y++)
            memmove((char *)work->copy.dst + z * work->copy.dst_slice + y * work->copy.dst_pitch,
                    (const char *)work->copy.src + z * work->copy.src_slice +
                        y * work->copy.src_pitch,
                    work->copy.width);
}

static void run_set(const struct work *work) {
    size_t element = work->set.element, width = work->set.width;
    for (size_t y = 0; y < work->set.height; y++) {
        char *row = (char *)work->set.dst + y * work->set.pitch;
        if (element == 1) memset(row, (int)work->set.value, width);
        else
            for (size_t x = 0; x < width; x++) memcpy(row + x * element, &work->set.value, element);
    }
}

static void run_smids(const struct work *work) {
    uint32_t *out = (uint32_t *)work->smids.out;
    for (uint32_t i = 0; i < work->smids.words; i++)
        out[i] = i / 2 < SIM_SM_WORDS ? (uint32_t)(work->smids.sms.word[i / 2] >> i % 2 * 32) : 0;
}

void work_run(const struct work *work) {
    struct piece piece;
    switch (work->kind) {
    case WORK_NOTHING:
    case WORK_SPIN:
    case WORK_MEET:
        break;
    case WORK_FILL:
    case WORK_ADD:
    case WORK_CHECKSUM:
        run_kernel(work);
        break;
    case WORK_SMIDS:
        run_smids(work);
        break;
    case WORK_FAULT:
        sim_lock(sim_machine());
        sim_fault(sim_machine(), sim_process.slot, work->card, CUDA_ERROR_ILLEGAL_ADDRESS);
        sim_unlock(sim_machine());
        break;
    case WORK_COPY:
        run_copy(work);
        break;
    case WORK_SET:
        run_set(work);
        break;
    case WORK_STAGED:
        memcpy((void *)work->staged.dst, work->staged.bytes, work->staged.size);
        free(work->staged.bytes);
        break;
    case WORK_POOL_FREE:
        if (piece_find(work->freed.pointer, &piece) && piece.range->kind == RANGE_POOL)
            pool_free(piece.range, piece.start);
        break;
    case WORK_GRAPH_FREE:
        if (piece_find(work->freed.pointer, &piece) && piece.range->kind == RANGE_GRAPH) {
            struct device *device = &sim_process.device[piece.range->device];
            if (piece.range->charged) device->graph_used -= piece.range->charged;
            piece.range->charged = 0;
        }
        break;
    }
}
