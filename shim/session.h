/* This process's membership in its session: attached on the first driver call, never before. */
#ifndef VGPU_SESSION_H
#define VGPU_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "ledger.h"
#include "region.h"
#include "ring.h"

/* `vgpu run` may be used inside a session: then this process is a member of the inner session and
 * of each one around it, with a slot in every region. */
struct vgpu_session {
    struct vgpu_region *region;
    struct vgpu_slot *slot; /* ours */
    uint32_t slot_index;
    uint32_t pid;
    uint32_t depth; /* sessions inside this one that we are in */
    char region_path[256];
    struct vgpu_session *outer;                           /* the session around this one, or NULL */
    struct vgpu_account outer_accounts[VGPU_MAX_DEVICES]; /* there, by this one's device index */
};

/* Our account on a device that vgpu_device_index has given. */
static inline struct vgpu_account vgpu_session_account(const struct vgpu_session *session,
                                                       uint32_t device) {
    return (struct vgpu_account){session->region, session->slot, device,
                                 session->outer ? &session->outer_accounts[device] : NULL};
}

/* The attached session; attaches on the first call. NULL: no VGPU_REGION in the environment (the
 * hooks then only forward) or the attach failed (then cuInit and nvmlInit must fail closed:
 * vgpu_session_failed). One load and one branch once attached. Thread-safe; after fork the child
 * attaches anew with a slot of its own. */
struct vgpu_session *vgpu_session_get(void);

/* True if VGPU_REGION names a region that could not be joined; one line has gone to stderr. */
bool vgpu_session_failed(void);

/* The outermost session, whose seat and turns are ours too; *device becomes the index there. */
static inline struct vgpu_session *vgpu_session_outermost(struct vgpu_session *session,
                                                          uint32_t *device) {
    for (; session->outer; session = session->outer)
        *device = session->outer_accounts[*device].device;
    return session;
}

/* Publishes an event as this process, in this session alone. */
void vgpu_session_event(struct vgpu_session *session, const struct vgpu_event *event);

/* Registers a function to run in a child after fork, before it may attach anew: drop all
 * process-local state of the parent (blocks, streams, watcher). Call from a constructor. At
 * most 16.
 */
void vgpu_session_on_fork(void (*forget)(void));

#endif
