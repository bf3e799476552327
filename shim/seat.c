#define _GNU_SOURCE
#include "seat.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "slot.h"

static struct vgpu_place_on_board places[VGPU_MAX_DEVICES];
static bool refused[VGPU_MAX_DEVICES]; /* no board to be had: not asked again */
static pthread_mutex_t taking = PTHREAD_MUTEX_INITIALIZER;

static uint64_t owner_word(uint32_t pid, uint64_t generation, uint32_t state) {
    return (uint64_t)pid << 32 | (generation & 0xffffff) << 8 | state;
}

static uint64_t generation_of(uint64_t owner) { return owner >> 8 & 0xffffff; }

static uint32_t seats_used(const struct vgpu_board *board) {
    uint32_t used = vgpu_load_acquire(&board->header.seats_used);
    return used < VGPU_MAX_SEATS ? used : VGPU_MAX_SEATS;
}

/* ---- who lives ------------------------------------------------------------------------------ */

static bool process_lives(uint32_t pid, uint64_t start) {
    uint64_t found, flags;
    char state;
    return pid && vgpu_process_stat(pid, &found, &state, &flags) && found == start &&
           state != 'Z' && state != 'X';
}

/* A session lives as long as somebody holds the lock on its region. */
static bool is_locked(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno != ENOENT;
    bool locked = flock(fd, LOCK_EX | LOCK_NB) != 0;
    close(fd);
    return locked;
}

static bool seat_lives(const struct vgpu_seat *seat, uint64_t owner) {
    if (vgpu_slot_state(owner) == VGPU_SLOT_CLAIMING) {
        uint64_t start, flags;
        char state;
        return vgpu_process_stat(vgpu_slot_pid(owner), &start, &state, &flags);
    }
    char path[sizeof seat->region];
    memcpy(path, seat->region, sizeof path);
    path[sizeof path - 1] = '\0';
    return process_lives(seat->supervisor_pid, seat->supervisor_start) || is_locked(path);
}

static bool free_seat(struct vgpu_board *board, uint32_t index, uint64_t owner) {
    struct vgpu_seat *seat = &board->seats[index];
    uint64_t freed = owner_word(0, generation_of(owner) + 1, VGPU_SLOT_FREE);
    if (!vgpu_cas_seq_cst(&seat->owner, &owner, freed)) return false;
    uint64_t wanted = vgpu_load_seq_cst(&board->turn.turn_wanted);
    while (!vgpu_cas_seq_cst(&board->turn.turn_wanted, &wanted, wanted & ~(UINT64_C(1) << index))) {
    }
    return true;
}

_Static_assert(sizeof((struct vgpu_seat *)0)->region ==
                   sizeof((struct vgpu_session *)0)->region_path,
               "a seat holds any region's path");

/* ---- telling the others ---------------------------------------------------------------------- */

/* Raises limits_version of the region at `path`, so that the next launch of each of its processes
 * looks around, and its supervisor now. Only a region of ours, of our version; else nothing. */
static void tell_region(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    struct stat info;
    if (fd < 0) return;
    bool good = fstat(fd, &info) == 0 && info.st_uid == getuid() &&
                info.st_size == (off_t)sizeof(struct vgpu_region);
    struct vgpu_header *header = MAP_FAILED;
    if (good) header = mmap(NULL, sizeof *header, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (header == MAP_FAILED) return;
    if (vgpu_load_acquire(&header->magic) == VGPU_MAGIC &&
        header->layout_version == VGPU_LAYOUT_VERSION) {
        vgpu_add_seq_cst(&header->limits_version, 1U);
        vgpu_ring_bell(header, path);
    }
    munmap(header, sizeof *header);
}

static void tell_all(struct vgpu_board *board) {
    int saved = errno;
    for (uint32_t i = 0; i < seats_used(board); i++) {
        const struct vgpu_seat *seat = &board->seats[i];
        if (vgpu_slot_state(vgpu_load_acquire(&seat->owner)) != VGPU_SLOT_LIVE) continue;
        char path[sizeof seat->region];
        memcpy(path, seat->region, sizeof path);
        path[sizeof path - 1] = '\0';
        tell_region(path);
    }
    vgpu_board_changed(board);
    errno = saved;
}

static int reap(struct vgpu_board *board) {
    int reaped = 0, saved = errno;
    for (uint32_t i = 0; i < seats_used(board); i++) {
        uint64_t owner = vgpu_load_acquire(&board->seats[i].owner);
        if (vgpu_slot_state(owner) == VGPU_SLOT_FREE || seat_lives(&board->seats[i], owner))
            continue;
        reaped += free_seat(board, i, owner);
    }
    if (reaped) tell_all(board);
    errno = saved;
    return reaped;
}

int vgpu_seat_reap(const struct vgpu_place_on_board *place) {
    return place->board ? reap(place->board) : 0;
}

bool vgpu_seat_has_company(const struct vgpu_place_on_board *place) {
    if (!place->board || place->board->seats[place->seat].group_count) return false;
    for (uint32_t i = 0; i < seats_used(place->board); i++) {
        const struct vgpu_seat *seat = &place->board->seats[i];
        if (i != place->seat && !seat->group_count &&
            vgpu_slot_state(vgpu_load_acquire(&seat->owner)) == VGPU_SLOT_LIVE)
            return true;
    }
    return false;
}

/* ---- taking -----------------------------------------------------------------------------------
 */

void vgpu_seat_update(const struct vgpu_place_on_board *place, struct vgpu_region *region,
                      uint32_t device) {
    if (!vgpu_seat_is_ours(place)) return;
    struct vgpu_seat *seat = &place->board->seats[place->seat];
    const struct vgpu_device *entry = &region->devices[device];
    vgpu_store_relaxed(&seat->share_ppm, vgpu_load_relaxed(&entry->share_ppm));
    vgpu_store_relaxed(&seat->burst_ppm, vgpu_load_relaxed(&entry->burst_ppm));
    vgpu_store_relaxed(&seat->weight_ppm, vgpu_load_relaxed(&region->header.weight_ppm));
    vgpu_store_relaxed(&seat->throttle, vgpu_load_relaxed(&region->header.throttle));
    vgpu_store_relaxed(&seat->mem_promise, vgpu_load_relaxed(&entry->mem_limit));
}

/* All but the owner word: whoever had the seat before is forgotten. */
static void fill(struct vgpu_seat *seat, const struct vgpu_session *session, uint32_t device) {
    const struct vgpu_header *header = &session->region->header;
    memset((char *)seat + sizeof seat->owner, 0, sizeof *seat - sizeof seat->owner);
    memcpy(seat->session, header->session, sizeof seat->session);
    memcpy(seat->region, session->region_path, sizeof seat->region);
    seat->supervisor_pid = header->supervisor_pid;
    seat->supervisor_start = header->supervisor_start;
    seat->device = device;
    const struct vgpu_device *entry = &session->region->devices[device];
    memcpy(seat->groups, entry->sm_groups, sizeof seat->groups);
    seat->group_count = entry->sm_count ? entry->sm_count / entry->group_sms : 0;
}

/* Claims a free seat for the session; not yet live. Returns its owner word, 0 if none is free. */
static uint64_t claim(struct vgpu_board *board, const struct vgpu_session *session, uint32_t device,
                      uint32_t *index) {
    for (uint32_t i = 0; i < VGPU_MAX_SEATS; i++) {
        struct vgpu_seat *seat = &board->seats[i];
        uint64_t owner = vgpu_load_acquire(&seat->owner);
        if (vgpu_slot_state(owner) != VGPU_SLOT_FREE) continue;
        uint64_t claiming = owner_word(session->pid, generation_of(owner) + 1, VGPU_SLOT_CLAIMING);
        if (!vgpu_cas_seq_cst(&seat->owner, &owner, claiming)) continue;
        uint32_t used = vgpu_load_relaxed(&board->header.seats_used);
        while (used <= i && !vgpu_cas_seq_cst(&board->header.seats_used, &used, i + 1)) {
        }
        fill(seat, session, device);
        *index = i;
        return claiming;
    }
    return 0;
}

/* The seat of our session that another of its processes has claimed; a claim that was interrupted
 * before it was live is made live. */
static bool join(const struct vgpu_session *session, uint32_t index,
                 struct vgpu_place_on_board *place) {
    struct vgpu_seat *seat = &place->board->seats[index];
    uint64_t owner = vgpu_load_acquire(&seat->owner);
    if (vgpu_slot_state(owner) == VGPU_SLOT_FREE ||
        strncmp(seat->region, session->region_path, sizeof seat->region) != 0)
        return false;
    uint64_t live = owner_word(vgpu_slot_pid(owner), generation_of(owner), VGPU_SLOT_LIVE);
    if (owner != live && !vgpu_cas_seq_cst(&seat->owner, &owner, live) && owner != live)
        return false;
    place->seat = index;
    place->owner = live;
    return true;
}

/* The region's device entry says which seat is the session's: processes that race agree on one. */
static bool take(struct vgpu_session *session, uint32_t device, struct vgpu_place_on_board *place) {
    uint32_t *agreed = &session->region->devices[device].board_seat; /* seat + 1, 0 = none */
    for (int i = 0; i < 2 * VGPU_MAX_SEATS; i++) {
        uint32_t known = vgpu_load_seq_cst(agreed), index;
        if (known && known <= VGPU_MAX_SEATS && join(session, known - 1, place)) return true;
        uint64_t claimed = claim(place->board, session, device, &index);
        if (!claimed) {
            if (reap(place->board)) continue;
            return false;
        }
        if (vgpu_cas_seq_cst(agreed, &known, index + 1)) {
            if (!join(session, index, place)) continue;
            vgpu_seat_update(place, session->region, device);
            tell_all(place->board);
            return true;
        }
        free_seat(place->board, index, claimed);
    }
    return false;
}

static bool take_locked(struct vgpu_session *session, uint32_t device) {
    struct vgpu_place_on_board *place = &places[device];
    if (vgpu_seat_is_ours(place)) return true;
    if (refused[device]) return false;
    struct vgpu_place_on_board found = {.board = place->board};
    const char *why;
    if (!found.board)
        found.board = vgpu_board_open(session->region->header.board_dir,
                                      session->region->devices[device].uuid, &why);
    if (found.board) {
        reap(found.board);
        if (!take(session, device, &found)) found = (struct vgpu_place_on_board){0};
    }
    /* A board that was opened once stays mapped: other threads may be reading it. */
    if (found.board) *place = found;
    else refused[device] = true;
    return found.board != NULL;
}

bool vgpu_seat_take(struct vgpu_session *session, uint32_t device,
                    struct vgpu_place_on_board *place) {
    if (!session->region->header.board_dir[0]) return false;
    pthread_mutex_lock(&taking);
    bool taken = take_locked(session, device);
    if (taken) *place = places[device];
    pthread_mutex_unlock(&taking);
    return taken;
}

struct vgpu_place_on_board vgpu_seat_taken(uint32_t device) {
    pthread_mutex_lock(&taking);
    struct vgpu_place_on_board place = places[device];
    pthread_mutex_unlock(&taking);
    return place;
}

/* The child is of the same session: places stay. */
static void forget_in_child(void) { pthread_mutex_init(&taking, NULL); }

__attribute__((constructor)) static void register_fork(void) {
    vgpu_session_on_fork(forget_in_child);
}
