/* The ledger: who holds how many bytes of which device, and whether one more request fits.
 *
 * There is no counter to corrupt: a session's use of a device is the sum over its slots of what
 * each process has charged, so a process that dies takes its bytes with its slot. A request is
 * first added to the asker's own charge, then the sum is taken: of two processes that race for the
 * last bytes the later adder sees both, so they can never both win.
 *
 * A session inside another one counts against both: its process has a slot in each region, and an
 * account knows the one around it.
 *
 * Pure: works on any mapped region, calls no driver, takes no lock, waits at most a few ms.
 */
#ifndef VGPU_LEDGER_H
#define VGPU_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "region.h"

/* One process's account on one device. */
struct vgpu_account {
    struct vgpu_region *region;
    struct vgpu_slot *slot;
    uint32_t device;                  /* index into region->devices */
    const struct vgpu_account *outer; /* in the session around this one; NULL: there is none */
};

/* Bytes the session may use, VGPU_NO_LIMIT if there is no limit: min(set, the card's own size). */
uint64_t vgpu_ledger_limit(const struct vgpu_region *region, uint32_t device);

/* Bytes the session uses now, reservations in flight included. */
uint64_t vgpu_ledger_used(const struct vgpu_region *region, uint32_t device);

/* What is left under the limit, 0 when use is above it; VGPU_NO_LIMIT if there is no limit. */
uint64_t vgpu_ledger_left(const struct vgpu_region *region, uint32_t device);

/* The same for the account: the least of its session and those around it. */
uint64_t vgpu_account_limit(const struct vgpu_account *account);
uint64_t vgpu_account_left(const struct vgpu_account *account);

/* True unless one of them uses more than its limit. */
bool vgpu_account_fits(const struct vgpu_account *account);

/* Charges the bytes if they fit everywhere. */
bool vgpu_ledger_reserve(const struct vgpu_account *account, uint64_t bytes);

/* Where something did not fit, and the use that it met there, in bytes. */
struct vgpu_refusal {
    const struct vgpu_account *where;
    uint64_t used;
};

/* Of this thread's last refused reservation: by the time it is told of, others may have given back.
 */
struct vgpu_refusal vgpu_ledger_refusal(void);

/* As things stand: the session, from the account outwards, that has the least left. */
struct vgpu_refusal vgpu_account_tightest(const struct vgpu_account *account);

/* Charges (or, negative, refunds) bytes that are a fact already, whatever the limit says. */
void vgpu_ledger_adjust(const struct vgpu_account *account, int64_t bytes);

static inline void vgpu_ledger_refund(const struct vgpu_account *account, uint64_t bytes) {
    if (bytes) vgpu_ledger_adjust(account, (int64_t)(0 - bytes));
}

/* Notes that so much of what was charged is managed memory, which NVML need not list. */
void vgpu_ledger_managed(const struct vgpu_account *account, uint64_t bytes);

/* Counts an allocation of the process. */
void vgpu_ledger_allocated(const struct vgpu_account *account);

/* Counts a refused request, in the process and in the session of this account alone. */
void vgpu_ledger_denied(const struct vgpu_account *account);

#endif
