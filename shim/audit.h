/* Memory that no call names (code loaded at a first launch, library workspaces) is known to NVML
 * alone. The supervisor asks it now and then; near the limit that is not often enough, so there the
 * shim asks the supervisor to look and waits for it: no byte of the last few hundred MiB is given
 * away on an old figure. Targets open NVML themselves only when nobody else is left to
 * (audit_alone.h). */
#ifndef VGPU_AUDIT_H
#define VGPU_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "session.h"

/* Below this many bytes left, a request waits for figures that are at most VGPU_AUDIT_AGE_NS old.
 */
#define VGPU_AUDIT_ZONE_BYTES (UINT64_C(256) << 20)
#define VGPU_AUDIT_AGE_NS UINT64_C(10000000)

/* True if the supervisor has looked at NVML since the call began, or less than the given age
 * before. False if it is dead, or did not answer within 50 ms: the ledger's own figures stand. */
bool vgpu_audit_refresh(struct vgpu_session *session, uint64_t age_ns);

/* The supervisor that the region names is alive. */
bool vgpu_audit_supervised(const struct vgpu_header *header);

#endif
