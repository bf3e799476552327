/* Memory that was handed to other processes (cuIpcGetMemHandle, cuMemExportToShareableHandle): an
 * importer keeps it alive after its exporter has freed it, and no call tells the exporter so.
 *
 * The rule: the exporter pays for as long as another process of the session could hold it, that is
 * while the session has another live process; importers pay nothing. Too much may be charged, never
 * too little. Where the supervisor reads NVML, it sets both right. */
#ifndef VGPU_EXPORTS_H
#define VGPU_EXPORTS_H

#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"
#include "session.h"

/* Not zero once anything was exported. */
extern uint32_t vgpu_exports_count;
static inline bool vgpu_exports_any(void) {
    return __builtin_expect(__atomic_load_n(&vgpu_exports_count, __ATOMIC_RELAXED) != 0, 0);
}

/* The allocation at the address (or the block that it is a piece of) was exported. */
void vgpu_exports_note(uint64_t address);

/* To be called instead of a refund where vgpu_exports_any: refunds the bytes, now or, if the
 * allocation was exported and there is a process that may have it, later. */
void vgpu_exports_refund(const struct vgpu_account *account, uint64_t address, uint64_t bytes);

/* The same for what is known to be exported. */
void vgpu_exports_refund_late(const struct vgpu_account *account, uint64_t bytes);

/* Refunds what was kept if the session has no other process any more. */
void vgpu_exports_reclaim(struct vgpu_session *session);

void vgpu_exports_forget(void);

#endif
