/* Seats: a session's place on the board of each GPU that it uses. Taking, living, leaving; whose
 * turn it is stands in turn.h. */
#ifndef VGPU_SEAT_H
#define VGPU_SEAT_H

#include <stdbool.h>
#include <stdint.h>

#include "board.h"
#include "session.h"

/* The session's seat on the board of its device (index into the region), taken if need be. False:
 * no board directory, or the board cannot be had, or all seats are taken by live sessions. Costs
 * two loads once known. Thread-safe. Wakes the sessions that are there already: they are no longer
 * alone. */
bool vgpu_seat_take(struct vgpu_session *session, uint32_t device,
                    struct vgpu_place_on_board *place);

/* The place that this process has taken, without taking one. board NULL: none. */
struct vgpu_place_on_board vgpu_seat_taken(uint32_t device);

/* True while the place is ours. */
static inline bool vgpu_seat_is_ours(const struct vgpu_place_on_board *place) {
    return place->board && __atomic_load_n(&place->board->seats[place->seat].owner,
                                           __ATOMIC_ACQUIRE) == place->owner;
}

/* Copies share, burst, weight and memory limit from the region into the seat. */
void vgpu_seat_update(const struct vgpu_place_on_board *place, struct vgpu_region *region,
                      uint32_t device);

/* Frees the seats of sessions that are gone: their supervisor is dead and nobody holds the lock on
 * their region. Costs a few file operations a seat: once a second at most. Returns how many. */
int vgpu_seat_reap(const struct vgpu_place_on_board *place);

/* True if a session other than ours has a seat, and both share the card's time: who has SMs of its
 * own is nobody's company. */
bool vgpu_seat_has_company(const struct vgpu_place_on_board *place);

#endif
