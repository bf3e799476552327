/* The supervisor is gone: whoever is about to refuse a request looks at NVML itself, and corrects
 * what the session's processes are taken to hold by the supervisor's own rules (src/audit.ts). */
#ifndef VGPU_AUDIT_ALONE_H
#define VGPU_AUDIT_ALONE_H

#include "session.h"

/* Opens NVML the first time, which can take a second or two; asks it at most every
 * VGPU_AUDIT_AGE_NS. Does nothing while there is a supervisor, without NVML, or while another
 * thread looks. */
void vgpu_audit_alone(struct vgpu_session *session, uint32_t device);

#endif
