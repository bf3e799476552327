/* The functions of include/vgpu.h, which programs look up by name. */
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "atomics.h"
#include "device.h"
#include "include/vgpu.h"
#include "interpose.h"
#include "ledger.h"
#include "session.h"

static int refuse(int code) {
    errno = code;
    return -1;
}

/* In a session inside another one what is left may be less than its own use tells. */
static uint64_t used_of(const struct vgpu_account *account) {
    uint64_t limit = vgpu_account_limit(account);
    if (!account->outer || limit == VGPU_NO_LIMIT)
        return vgpu_ledger_used(account->region, account->device);
    return limit - vgpu_account_left(account);
}

VGPU_EXPORT int vgpu_memory_get(int ordinal, struct vgpu_memory *memory, size_t bytes) {
    struct vgpu_session *session = vgpu_session_get();
    if (!session) return refuse(ENOENT);
    if (!memory) return refuse(EINVAL);
    uint32_t index = vgpu_device_index(session, ordinal);
    if (index == VGPU_NO_DEVICE) return refuse(ENODEV);
    const struct vgpu_account account = vgpu_session_account(session, index);
    const struct vgpu_device *device = &session->region->devices[index];
    const struct vgpu_use *use = &session->slot->use[index];
    int64_t own = (int64_t)vgpu_load_relaxed(&use->charged_bytes) +
                  (int64_t)vgpu_load_relaxed(&use->drift_bytes);
    uint64_t soft = vgpu_load_relaxed(&device->soft_bytes);
    if (!soft) soft = session->region->header.default_soft_bytes;
    uint32_t pressure = vgpu_load_relaxed(&device->pressure);
    const struct vgpu_memory now = {
        .limit = vgpu_account_limit(&account),
        .soft = soft ? soft : VGPU_MEMORY_UNLIMITED,
        .used = used_of(&account),
        .peak = vgpu_load_relaxed(&device->peak_bytes),
        .own = own > 0 ? (uint64_t)own : 0,
        .velocity = vgpu_load_relaxed(&device->velocity),
        .pressure = pressure & ~VGPU_PRESSURE_SOFT,
        .above_soft = (pressure & VGPU_PRESSURE_SOFT) != 0,
        .changes = vgpu_load_relaxed(&device->pressure_changes),
        .denials = (uint32_t)vgpu_load_relaxed(&device->denials),
    };
    memcpy(memory, &now, bytes < sizeof now ? bytes : sizeof now);
    return 0;
}

/* The supervisor touches the region's attributes at every change: any number of processes can wait
 * for that without a file, a descriptor or a thread of ours. */
VGPU_EXPORT int vgpu_pressure_fd(void) {
    struct vgpu_session *session = vgpu_session_get();
    if (!session) return refuse(ENOENT);
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) return -1;
    if (inotify_add_watch(fd, session->region_path, IN_ATTRIB) >= 0) return fd;
    int code = errno;
    close(fd);
    return refuse(code);
}
