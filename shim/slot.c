#include "slot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "atomics.h"

#define PF_EXITING 0x4U /* field 9 of /proc/PID/stat: the process is past exit_signals() */

static uint64_t owner_word(uint32_t pid, uint64_t generation, uint32_t state) {
    return (uint64_t)pid << 32 | (generation & 0xffffff) << 8 | state;
}

static uint64_t next_generation(uint64_t owner) { return (owner >> 8 & 0xffffff) + 1; }

/* Reads a small /proc file without stdio's malloc. Returns the length or -1. */
static ssize_t read_file(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = read(fd, text, size - 1);
    close(fd);
    if (length >= 0) text[length] = '\0';
    return length;
}

bool vgpu_process_stat(uint32_t pid, uint64_t *start_time, char *state, uint64_t *flags) {
    char path[32], text[1024];
    int saved = errno;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    ssize_t length = read_file(path, text, sizeof text);
    errno = saved;
    if (length <= 0) return false;
    /* comm is in parentheses and may hold ") Z"; the last ')' ends it. */
    char *field = strrchr(text, ')');
    if (!field || field[1] != ' ') return false;
    field += 2;
    *state = *field;
    for (int number = 3; number < 22; number++) {
        if (number == 9) *flags = strtoull(field, NULL, 10);
        field = strchr(field, ' ');
        if (!field) return false;
        field++;
    }
    *start_time = strtoull(field, NULL, 10);
    return true;
}

/* A zombie leader may have threads that are still being torn down. Their number is the directory's
 * link count: reading its entries ends early when a thread goes meanwhile. */
static bool other_threads_left(uint32_t pid) {
    char path[32];
    struct stat info;
    snprintf(path, sizeof path, "/proc/%u/task", pid);
    return stat(path, &info) == 0 && info.st_nlink > 2 + 1;
}

static enum vgpu_life judge(uint32_t pid, char state, uint64_t flags) {
    if (state == 'Z' || state == 'X') return other_threads_left(pid) ? VGPU_EXITING : VGPU_GONE;
    if (flags & PF_EXITING) return VGPU_EXITING;
    if (state == 'T' || state == 't') return VGPU_STOPPED;
    return VGPU_ALIVE;
}

enum vgpu_life vgpu_process_life(uint32_t pid, uint64_t start_time) {
    uint64_t found, flags;
    char state;
    if (!vgpu_process_stat(pid, &found, &state, &flags) || found != start_time) return VGPU_GONE;
    return judge(pid, state, flags);
}

enum vgpu_life vgpu_slot_life(const struct vgpu_slot *slot) {
    uint64_t owner = vgpu_load_acquire(&slot->owner);
    uint64_t start_time, flags;
    char state;
    if (!vgpu_process_stat(vgpu_slot_pid(owner), &start_time, &state, &flags)) return VGPU_GONE;
    /* A claimer that has not yet written its start time is judged by its pid alone. */
    uint64_t expected = vgpu_load_acquire(&slot->start_time);
    if (vgpu_slot_state(owner) == VGPU_SLOT_LIVE && start_time != expected) return VGPU_GONE;
    return judge(vgpu_slot_pid(owner), state, flags);
}

int vgpu_slot_reap(struct vgpu_region *region) {
    int reaped = 0;
    uint32_t used = vgpu_load_acquire(&region->header.slots_used);
    for (uint32_t i = 0; i < used && i < VGPU_MAX_SLOTS; i++) {
        struct vgpu_slot *slot = &region->slots[i];
        uint64_t owner = vgpu_load_acquire(&slot->owner);
        if (vgpu_slot_state(owner) == VGPU_SLOT_FREE || vgpu_slot_life(slot) != VGPU_GONE) continue;
        uint64_t freed = owner_word(0, next_generation(owner), VGPU_SLOT_FREE);
        if (vgpu_cas_seq_cst(&slot->owner, &owner, freed)) reaped++;
    }
    return reaped;
}

static void slot_fill(struct vgpu_slot *slot, uint32_t pid, const char *name) {
    uint64_t start_time = 0, flags;
    char state;
    vgpu_process_stat(pid, &start_time, &state, &flags);
    /* Word by word: others may still be summing up what its last owner held. */
    uint64_t *end = (uint64_t *)(slot->use + VGPU_MAX_DEVICES);
    for (uint64_t *word = (uint64_t *)slot->use; word < end; word++) vgpu_store_relaxed(word, 0U);
    memset(slot->name, 0, sizeof slot->name);
    strncpy(slot->name, name, sizeof slot->name - 1);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    slot->attach_mono_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
    vgpu_store_release(&slot->start_time, start_time);
}

static int claim_free(struct vgpu_region *region, uint32_t pid, const char *name) {
    for (uint32_t i = 0; i < VGPU_MAX_SLOTS; i++) {
        struct vgpu_slot *slot = &region->slots[i];
        uint64_t owner = vgpu_load_acquire(&slot->owner);
        if (vgpu_slot_state(owner) != VGPU_SLOT_FREE) continue;
        uint64_t generation = next_generation(owner);
        uint64_t claiming = owner_word(pid, generation, VGPU_SLOT_CLAIMING);
        if (!vgpu_cas_seq_cst(&slot->owner, &owner, claiming)) continue;
        uint32_t used = vgpu_load_relaxed(&region->header.slots_used);
        while (used <= i && !vgpu_cas_seq_cst(&region->header.slots_used, &used, i + 1)) {
        }
        slot_fill(slot, pid, name);
        vgpu_store_seq_cst(&slot->owner, owner_word(pid, generation, VGPU_SLOT_LIVE));
        return (int)i;
    }
    return -1;
}

/* After exec the process is the same (pid, start time), its driver state is not: what the old image
 * held is gone, and its slot with it. */
static void leave_before_exec(struct vgpu_region *region, uint32_t pid) {
    uint32_t used = vgpu_load_acquire(&region->header.slots_used);
    for (uint32_t i = 0; i < used && i < VGPU_MAX_SLOTS; i++) {
        uint64_t owner = vgpu_load_acquire(&region->slots[i].owner);
        if (vgpu_slot_pid(owner) != pid || vgpu_slot_state(owner) == VGPU_SLOT_FREE) continue;
        uint64_t freed = owner_word(0, next_generation(owner), VGPU_SLOT_FREE);
        vgpu_cas_seq_cst(&region->slots[i].owner, &owner, freed);
    }
}

int vgpu_slot_claim(struct vgpu_region *region, uint32_t pid, const char *name) {
    leave_before_exec(region, pid);
    int index = claim_free(region, pid, name);
    if (index < 0 && vgpu_slot_reap(region) > 0) index = claim_free(region, pid, name);
    return index;
}
