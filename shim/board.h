/* THE layout of a board: one shared file per GPU (keyed by UUID), where the sessions of one user on
 * that GPU meet. Expands, like region.h, to the C structs and to src/layout.gen.ts.
 *
 * Glossary
 *   board    the file: header, turn, seats, in this order. Lies in header.board_dir of the region.
 *   seat     one session's place on the board. A seat never moves; owner = claimer's pid +
 * generation + state in one word. It is taken when a process of the session first makes a context
 * on the GPU, and lasts as long as the session: while its supervisor lives or a process holds the
 * lock on its region. Only the session itself writes into its seat, but for the few words of
 * turn.h. turn     who may submit work now: one word (turn.h). Exclusive. group    a group of SMs
 * that a session of spatial mode owns, a bit each.
 *
 * Whoever needs a board first makes it under a name of its own and links it when it is complete:
 * a kill at any moment leaves no torn board. Every process that maps it holds a shared lock on it.
 * What is read here may be wrong or old (a seat's session has just died): every wait on it has a
 * deadline. All times are CLOCK_MONOTONIC ns, all shares parts per million of the GPU.
 */
#ifndef VGPU_BOARD_H
#define VGPU_BOARD_H

#include "region.h"

#define VGPU_BOARD_MAGIC UINT64_C(0x6472616f62706776) /* "vgpboard" on disk */
#define VGPU_BOARD_VERSION 1U
#define VGPU_MAX_SEATS 64
#define VGPU_MAX_GROUPS 256

#define VGPU_BOARD_FIELDS(X, A)                                                                    \
    X(u64, magic)                                                                                  \
    X(u32, board_version)                                                                          \
    X(u32, board_bytes)                                                                            \
    A(u8, uuid, 16)                                                                                \
    X(u64, start_mono_ns)                                                                          \
    X(u32, changes)         /* raised when a seat is taken or freed, or its promises change */     \
    X(u32, mode)            /* VGPU_BOARD_*: set by the first session with --sm */                 \
    X(u32, sm_count)        /* of the card; 0 = nobody has asked yet */                            \
    X(u32, group_sms)       /* SMs a group; 0 = no groups yet */                                   \
    X(u32, groups_total)    /* groups that can be owned */                                         \
    X(u32, seats_used)      /* high-water mark: seats at and above it were never taken */          \
    A(u64, board_spare, 24) /* for spatial mode */

/* The line that waiters and holder share. */
#define VGPU_TURN_FIELDS(X, A)                                                                     \
    X(u64, turn_word)        /* see turn.h */                                                      \
    X(u64, turn_wanted)      /* a bit a seat: its session waits for the turn */                    \
    X(u64, turn_v)           /* the greatest v that the turn was ever granted at */                \
    X(u32, turn_bell)        /* futex: bumped when the turn is free, or its holder should look */  \
    X(u32, turn_overlap_pid) /* the robbed process whose work goes on */                           \
    X(u64, turn_drained_ns)  /* when the last slice to be settled had drained */                   \
    X(u64, turn_overlap_ns)  /* since when work of a robbed session overlaps */                    \
    X(u64, turn_overlap_end_ns) /* until when it did; 0 = not known yet */                         \
    X(u64, turn_overlap_seat)   /* whose it is, + 1; 0 = nobody's */

#define VGPU_SEAT_FIELDS(X, A)                                                                     \
    X(u64, owner)        /* pid << 32 | generation << 8 | VGPU_SLOT_*: claimed by CAS */           \
    A(char, session, 16) /* NUL-terminated id */                                                   \
    A(char, region, 256) /* path of its region; its lock says whether the session lives */         \
    X(u64, supervisor_start)                                                                       \
    X(u32, supervisor_pid)                                                                         \
    X(u32, device)    /* index of this GPU in its region */                                        \
    X(u32, share_ppm) /* as asked, VGPU_WHOLE_GPU = none asked: copies of the region's */          \
    X(u32, burst_ppm)                                                                              \
    X(u32, weight_ppm)                                                                             \
    X(u32, throttle)                                                                               \
    X(u64, mem_promise) /* the session's memory limit here, bytes; VGPU_NO_LIMIT = none */         \
    X(u32, group_count) /* groups it asked for; 0 = time mode */                                   \
    X(u32, group_spare)                                                                            \
    A(u64, groups, 4)      /* the groups it owns, a bit each */                                    \
    A(u64, seat_spare, 11) /* for spatial mode */                                                  \
    X(u64, turn_v)         /* its charge ÷ weight: see turn.h */                                  \
    X(u64, wants_ns)       /* since when it waits for the turn, 0 = it does not */                 \
    X(u64, active_ns)      /* when it last held or wanted the turn */                              \
    X(u64, holder)         /* of its turn: pid << 32 | epoch */                                    \
    X(u64, holder_start)   /* /proc/PID/stat field 22 */                                           \
    X(u64, seen_ns)        /* last sign of life of the process that holds the turn */              \
    X(u64, turns)          /* turns taken */                                                       \
    X(u64, stolen)         /* turns it lost because it did not answer */                           \
    X(u64, waited_ns)      /* time it waited for the turn while its schedule allowed a slice */    \
    X(u64, bursting)       /* 1: the turn is held above the share, on time nobody else wants */    \
    X(u64, frees_ns)       /* when it expects to give the turn up; 0 = nobody waits for it */      \
    A(u64, seat_pad, 5)

enum { VGPU_BOARD_UNSET, VGPU_BOARD_TIME, VGPU_BOARD_SPATIAL };

#define VGPU_SCALAR(type, name) vgpu_##type name;
#define VGPU_ARRAY(type, name, count) vgpu_##type name[count];
struct vgpu_board_header {
    VGPU_BOARD_FIELDS(VGPU_SCALAR, VGPU_ARRAY)
};
struct vgpu_turn {
    VGPU_TURN_FIELDS(VGPU_SCALAR, VGPU_ARRAY)
};
struct vgpu_seat {
    VGPU_SEAT_FIELDS(VGPU_SCALAR, VGPU_ARRAY)
};
struct vgpu_board {
    struct vgpu_board_header header;
    struct vgpu_turn turn;
    struct vgpu_seat seats[VGPU_MAX_SEATS];
};
#undef VGPU_SCALAR
#undef VGPU_ARRAY

_Static_assert(sizeof(struct vgpu_board_header) == 256, "board header: whole cache lines");
_Static_assert(sizeof(struct vgpu_turn) == 64, "turn: one cache line");
_Static_assert(sizeof(struct vgpu_seat) == 576, "seat: whole cache lines");
_Static_assert(offsetof(struct vgpu_seat, turn_v) % 64 == 0, "the turn's words lie together");

/* A session's place; board NULL: it has none and is on its own. */
struct vgpu_place_on_board {
    struct vgpu_board *board;
    uint32_t seat;  /* index into board->seats */
    uint64_t owner; /* the seat's owner word while it is ours */
};

/* Maps directory/board-UUID, making it if there is none, and keeps a shared lock on it for as long
 * as this process lives. NULL if it cannot be had; *why then says so, in words for a user. */
struct vgpu_board *vgpu_board_open(const char *directory, const uint8_t uuid[16], const char **why);

/* Tells everybody that a seat or a promise has changed. */
void vgpu_board_changed(struct vgpu_board *board);

#endif
