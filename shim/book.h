/* The book: how long a kernel (function + grid) or a graph takes on the GPU, learnt from timed
 * groups. Pure, process-local, one per device; the caller serialises. */
#ifndef VGPU_BOOK_H
#define VGPU_BOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VGPU_BOOK_ENTRIES 4096U     /* beyond that, keys share entries: only a guess is lost */
#define VGPU_BOOK_DEFAULT_NS 20000U /* for a kernel that was never timed */
#define VGPU_BOOK_TRIALS 3U         /* a new kernel is timed alone that often */
#define VGPU_BOOK_VARIES 64U        /* … and one that takes now long, now short, for a while */
#define VGPU_BOOK_VARIES_NS 100000U /* … by more than this, and half of what it takes */
#define VGPU_BOOK_TALK_ONE_IN 8U    /* and of communication one launch in so many, for ever */

struct vgpu_book_entry {
    uint64_t key;
    uint32_t estimate_ns; /* saturates at 4.29 s */
    uint16_t timed;       /* results so far, saturating */
    uint16_t in_flight;   /* launched without a result: the trial, and what did not wait for it */
    const void *trial_on; /* the track of the trial */
    bool suspect, spins;  /* see stall.h */
    bool named, talks;    /* whether it is known, and true: it is communication, see class.h */
    uint8_t varies;   /* so many more launches are timed alone: one took far longer than known */
    uint16_t untimed; /* communication: launches since the last that was timed alone */
};

struct vgpu_book {
    struct vgpu_book_entry entries[VGPU_BOOK_ENTRIES];
};

static inline uint64_t vgpu_book_mix(uint64_t x) {
    x ^= x >> 31;
    x *= UINT64_C(0x7fb5d329728ea185);
    x ^= x >> 27;
    x *= UINT64_C(0x81dadef4bc2dd44d);
    return x ^ x >> 33;
}

/* Key of a kernel launch; a graph's key is its handle with dims 0. */
static inline uint64_t vgpu_book_key(const void *function, uint64_t grid_blocks,
                                     uint64_t block_threads) {
    uint64_t dims = vgpu_book_mix(grid_blocks ^ block_threads << 48);
    uint64_t key = vgpu_book_mix((uint64_t)(uintptr_t)function ^ dims);
    return key ? key : 1;
}

/* The key's entry, made if new (displacing an old one when its neighbourhood is full). Never NULL.
 */
struct vgpu_book_entry *vgpu_book_find(struct vgpu_book *book, uint64_t key);

/* The key's first place. */
static inline struct vgpu_book_entry *vgpu_book_home(struct vgpu_book *book, uint64_t key) {
    return &book->entries[key & (VGPU_BOOK_ENTRIES - 1)];
}

/* The entry, where it is found at once and its launches need no special care: it was timed alone
 * often enough and does not wait for others. Else NULL, which says nothing. */
static inline struct vgpu_book_entry *vgpu_book_settled(struct vgpu_book *book, uint64_t key) {
    struct vgpu_book_entry *entry = vgpu_book_home(book, key);
    bool settled = entry->key == key && entry->timed >= VGPU_BOOK_TRIALS &&
                   !(entry->suspect | entry->spins | entry->talks | (entry->varies > 0));
    return settled ? entry : NULL;
}

/* Prediction for one launch, ns. How long a spinner takes is no property of it. */
uint64_t vgpu_book_predict(const struct vgpu_book_entry *entry);

/* True if the next launch should be timed by itself. */
bool vgpu_book_wants_trial(const struct vgpu_book_entry *entry);

/* Notes that a launch is being submitted; trial: it will be timed by itself. */
void vgpu_book_note_launch(struct vgpu_book_entry *entry, bool trial);

/* A launch timed alone took measured_ns. Falls at once, rises by a quarter: a first launch is slow
 * because its code is loaded, a later one because other work ran beside it. Communication also
 * waits for its peers, however long that is: what it takes by itself is nearer to the least, so it
 * rises by a quarter of what it was at most. */
void vgpu_book_learn(struct vgpu_book_entry *entry, uint64_t measured_ns);

/* A launch of a timed group, as it was predicted then: groups of several streams are out at once,
 * and each result must move the book from there, not from where the one before has moved it to. */
struct vgpu_book_member {
    struct vgpu_book_entry *entry;
    uint64_t predicted_ns;
};

/* A group took measured_ns: each member took its part of that, in proportion to the predictions.
 * One that waited for others tells nothing. */
void vgpu_book_learn_group(const struct vgpu_book_member *members, unsigned count,
                           uint64_t measured_ns);

/* A group took far longer than predicted while the GPU had waited for it, too: where its launches
 * can be timed alone, the next ones are. */
void vgpu_book_doubt(const struct vgpu_book_member *members, unsigned count);

#endif
