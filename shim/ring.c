#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "atomics.h"

#define RECORD_WORDS (sizeof(struct vgpu_record) / sizeof(uint64_t))

/* The fifo lives beside the region as PATH.bell. It is opened for each ring and not kept: programs
 * that close every descriptor (daemons) must not break it, and only the first event after the
 * supervisor went to sleep pays for it. */
static void ring_bell(const char *region_path) {
    char path[256];
    if (snprintf(path, sizeof path, "%s.bell", region_path) >= (int)sizeof path) return;
    int saved = errno;
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t written = write(fd, "", 1);
        (void)written; /* a full fifo has woken the supervisor already */
        close(fd);
    }
    errno = saved;
}

void vgpu_ring_bell(struct vgpu_header *header, const char *region_path) {
    /* seq_cst pairs with the supervisor's "set bell_wanted, then look once more". */
    if (vgpu_exchange_seq_cst(&header->bell_wanted, 0U) == 1U) ring_bell(region_path);
}

/* FNV-1a, a 32-bit word at a time: src/ring.ts has the same. */
uint32_t vgpu_ring_check(const struct vgpu_record *record, uint64_t turn) {
    uint32_t words[sizeof *record / sizeof(uint32_t)];
    memcpy(words, record, sizeof words);
    words[offsetof(struct vgpu_record, check) / sizeof *words] = 0;
    uint32_t check = (uint32_t)turn;
    for (size_t i = sizeof turn / sizeof *words; i < sizeof words / sizeof *words; i++)
        check = (check ^ words[i]) * 16777619U;
    return check;
}

bool vgpu_ring_publish(struct vgpu_region *region, const char *region_path, uint32_t pid,
                       const char *name, const struct vgpu_event *event) {
    struct vgpu_header *header = &region->header;
    uint64_t index = vgpu_add_relaxed(&header->ring_head, UINT64_C(1));
    struct vgpu_record *record = &region->ring[index % VGPU_RING_RECORDS];
    uint64_t writing = 2 * (index / VGPU_RING_RECORDS) + 1, published = writing + 1;
    uint64_t turn = vgpu_load_acquire(&record->turn);
    /* An odd turn of an earlier lap is a writer that died (or sleeps): take its record over. */
    if (turn >= writing || !vgpu_cas_acq_rel(&record->turn, &turn, writing)) {
        vgpu_add_relaxed(&header->ring_lost, UINT64_C(1));
        return false;
    }

    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct vgpu_record copy = {
        .turn = writing,
        .mono_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec,
        .kind = event->kind,
        .pid = pid,
        .device = event->device,
    };
    if (event->api) strncpy(copy.api, event->api, sizeof copy.api - 1);
    if (name) strncpy(copy.name, name, sizeof copy.name - 1);
    memcpy(copy.value, event->value, sizeof copy.value);
    copy.check = vgpu_ring_check(&copy, published);
    /* Word by word with relaxed stores: the reader may look while a stalled writer resumes. */
    uint64_t words[RECORD_WORDS];
    memcpy(words, &copy, sizeof words);
    uint64_t *target = (uint64_t *)record;
    for (size_t i = 1; i < RECORD_WORDS; i++) vgpu_store_relaxed(&target[i], words[i]);

    if (!vgpu_cas_acq_rel(&record->turn, &writing, published)) {
        vgpu_add_relaxed(&header->ring_lost, UINT64_C(1));
        return false;
    }
    vgpu_ring_bell(header, region_path);
    return true;
}
