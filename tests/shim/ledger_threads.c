/* Races between processes as ThreadSanitizer can see them: one region mapped twice, two slots,
 * eight threads. Sources: shim/ledger.c shim/slot.c. */
#define _GNU_SOURCE
#include "memory_check.h"

#include <pthread.h>

#include "../../shim/ledger.h"
#include "../../shim/slot.h"

static struct vgpu_region *mapped[2];
static uint64_t granted, over;
static bool stop;

static void *worker(void *number) {
    uint32_t which = (uint32_t)(uintptr_t)number % 2;
    const struct vgpu_account account = {mapped[which], &mapped[which]->slots[which], 0};
    while (!vgpu_load_relaxed(&stop)) {
        uint64_t bytes = (random_below(20) + 1) * MiB;
        if (!vgpu_ledger_reserve(&account, bytes)) continue;
        if (vgpu_add_seq_cst(&granted, bytes) + bytes > 64 * MiB)
            vgpu_add_relaxed(&over, UINT64_C(1));
        vgpu_sub_seq_cst(&granted, bytes);
        vgpu_ledger_refund(&account, bytes);
    }
    return NULL;
}

int main(void) {
    mapped[0] = region_new(64 * MiB);
    mapped[1] = mremap(mapped[0], 0, sizeof *mapped[0], MREMAP_MAYMOVE);
    const pid_t pids[2] = {getpid(), getppid()};
    for (int i = 0; i < 2; i++)
        if (vgpu_slot_claim(mapped[i], (uint32_t)pids[i], "test") != i) return 1;
    pthread_t threads[8];
    for (uintptr_t i = 0; i < 8; i++) pthread_create(&threads[i], NULL, worker, (void *)i);
    usleep(1000000);
    vgpu_store_relaxed(&stop, true);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    equal(over, 0, "threads of two processes: never over");
    equal(vgpu_ledger_used(mapped[0], 0), 0, "and nothing left behind");
    return failures != 0;
}
