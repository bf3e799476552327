/* The event ring: many writers, one reader (the supervisor), nobody waits.
 * A writer claims an index, takes the record by CAS on `turn`, writes, publishes. A record that a
 * writer of an earlier lap still holds (it died, or sleeps) is taken over; one that a later lap
 * holds is not waited for: the event counts as lost. */
#ifndef VGPU_RING_H
#define VGPU_RING_H

#include <stdbool.h>

#include "region.h"

struct vgpu_event {
    uint32_t kind;   /* VGPU_EVENT_* */
    uint32_t device; /* index into region->devices or VGPU_NO_DEVICE */
    const char *api; /* entry point, or NULL */
    uint64_t value[5];
};

/* Publishes the event as process (pid, name) and rings the supervisor's bell if it sleeps.
 * Async-signal-safe but for the bell's open/write/close. Returns false if the event was lost. */
bool vgpu_ring_publish(struct vgpu_region *region, const char *region_path, uint32_t pid,
                       const char *name, const struct vgpu_event *event);

/* What `record->check` is if the record is the one that was published with this turn. A writer that
 * was stopped while it wrote, and lapped, may go on at any time and write into what a later one has
 * published: such a record has another check than its own, and counts as lost. */
uint32_t vgpu_ring_check(const struct vgpu_record *record, uint64_t turn);

/* Wakes the supervisor if it sleeps. */
void vgpu_ring_bell(struct vgpu_header *header, const char *region_path);

#endif
