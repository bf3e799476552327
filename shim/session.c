#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "slot.h"

/* UNKNOWN → ATTACHED | ABSENT | FAILED, once a process (and again in a forked child). */
enum { UNKNOWN, ATTACHED, ABSENT, FAILED };

#define MAX_FORGETTERS 16

/* Ours, and those around it from the inside out. */
static struct vgpu_session sessions[VGPU_MAX_DEPTH];
static int status = UNKNOWN;
static pthread_mutex_t attaching = PTHREAD_MUTEX_INITIALIZER;
static void (*forgetters[MAX_FORGETTERS])(void);
static int forgetter_count;

/* The one line that the shim ever writes: limits were asked for and cannot be held. */
static int fail(const char *path, const char *reason) {
    fprintf(stderr, "vgpu: cannot join the session %s: %s; CUDA is refused in process %d\n", path,
            reason, (int)getpid());
    return FAILED;
}

static const char *check_header(const struct vgpu_region *region, off_t size) {
    if (size < (off_t)sizeof region->header || region->header.magic != VGPU_MAGIC)
        return "not a vgpu region";
    if (region->header.layout_version != VGPU_LAYOUT_VERSION ||
        region->header.region_bytes != sizeof *region || size != (off_t)sizeof *region)
        return "made by another version of vgpu";
    return NULL;
}

/* The descriptor stays open: its shared lock tells sweepers that the region is in use. It is moved
 * out of the low numbers, which programs expect to get from their own open(). */
static int open_locked(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return -1;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 200);
    if (high >= 0) {
        close(fd);
        fd = high;
    }
    /* Who looks whether the session lives holds the lock for a moment. */
    for (int i = 0; i < 100 && flock(fd, LOCK_SH | LOCK_NB) != 0; i++) sched_yield();
    return fd;
}

/* The same devices as before a fork, in our new slot. */
static void renew_accounts(struct vgpu_session *session) {
    for (int i = 0; session->outer && i < VGPU_MAX_DEVICES; i++)
        if (session->outer_accounts[i].slot) session->outer_accounts[i].slot = session->outer->slot;
}

/* Joins the session at `path`, and those around it. */
static int join(const char *path, int depth) {
    struct vgpu_session *session = &sessions[depth];
    if (strlen(path) >= sizeof session->region_path) return fail(path, "path too long");
    int fd = open_locked(path);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) return fail(path, strerror(errno));
    if (info.st_size < (off_t)sizeof(struct vgpu_header)) return fail(path, "not a vgpu region");
    void *mapped =
        mmap(NULL, sizeof(struct vgpu_region), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) return fail(path, strerror(errno));
    const char *reason = check_header(mapped, info.st_size);
    if (reason) return fail(path, reason);

    char name[16] = "";
    prctl(PR_GET_NAME, name);
    struct vgpu_region *region = mapped;
    int index = vgpu_slot_claim(region, (uint32_t)getpid(), name);
    if (index < 0) return fail(path, "512 processes hold its slots");
    session->region = region;
    session->slot = &region->slots[index];
    session->slot_index = (uint32_t)index;
    session->pid = (uint32_t)getpid();
    session->depth = (uint32_t)depth;
    strcpy(session->region_path, path);
    session->outer = NULL;
    const struct vgpu_event event = {.kind = VGPU_EVENT_PROCESS_ATTACH, .device = VGPU_NO_DEVICE};
    vgpu_session_event(session, &event);
    if (!region->header.outer[0]) return ATTACHED;
    if (depth + 1 == VGPU_MAX_DEPTH) return fail(path, "too many sessions inside sessions");
    if (join(region->header.outer, depth + 1) == FAILED) return FAILED;
    session->outer = &sessions[depth + 1];
    renew_accounts(session);
    return ATTACHED;
}

static int attach(void) {
    const char *path = getenv("VGPU_REGION");
    return path && *path ? join(path, 0) : ABSENT;
}

/* The child shares the parent's mapping (harmless, and unmapped by its own attach never: it is
 * small) but owns nothing in it. */
static void forget_in_child(void) {
    for (int i = 0; i < forgetter_count; i++) forgetters[i]();
    pthread_mutex_init(&attaching, NULL);
    vgpu_store_release(&status, UNKNOWN);
}

static struct vgpu_session *attach_once(void) {
    int saved = errno;
    pthread_mutex_lock(&attaching);
    if (status == UNKNOWN) {
        static bool registered; /* inherited by children: one handler serves all generations */
        if (!registered) pthread_atfork(NULL, NULL, forget_in_child);
        registered = true;
        vgpu_store_release(&status, attach());
    }
    pthread_mutex_unlock(&attaching);
    errno = saved;
    return status == ATTACHED ? sessions : NULL;
}

struct vgpu_session *vgpu_session_get(void) {
    int now = vgpu_load_acquire(&status);
    if (__builtin_expect(now == ATTACHED, 1)) return sessions;
    return now == UNKNOWN ? attach_once() : NULL;
}

/* Says goodbye: who is missing without it was killed, or left by _exit. */
__attribute__((destructor)) static void leave(void) {
    if (vgpu_load_acquire(&status) != ATTACHED || sessions->pid != (uint32_t)getpid()) return;
    const struct vgpu_event event = {.kind = VGPU_EVENT_PROCESS_EXIT, .device = VGPU_NO_DEVICE};
    for (struct vgpu_session *session = sessions; session; session = session->outer)
        vgpu_session_event(session, &event);
}

bool vgpu_session_failed(void) {
    vgpu_session_get();
    return vgpu_load_acquire(&status) == FAILED;
}

void vgpu_session_event(struct vgpu_session *self, const struct vgpu_event *event) {
    vgpu_ring_publish(self->region, self->region_path, self->pid, self->slot->name, event);
}

void vgpu_session_on_fork(void (*forget)(void)) {
    if (forgetter_count < MAX_FORGETTERS) forgetters[forgetter_count++] = forget;
}
