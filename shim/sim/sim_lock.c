/* The machine's lock. It is held for less than a microsecond, but its owner may be killed or
 * stopped (SIGSTOP, a debugger) while it has it; neither may hold up the others. So a waiter that
 * has waited for 2 ms looks at the owner's state, and takes the lock over. A robust mutex covers
 * only death. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

static __thread uint64_t self;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void in_child(void) { self = 0; }
static void watch_fork(void) { pthread_atfork(NULL, NULL, in_child); }

static uint64_t this_thread(void) {
    if (!self) {
        pthread_once(&once, watch_fork);
        self = (uint64_t)getpid() << 32 | (uint32_t)syscall(SYS_gettid);
    }
    return self;
}

bool sim_thread_stat(int pid, int tid, char *state, uint64_t *started) {
    char path[60], text[1024];
    if (tid) snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, tid);
    else snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return false;
    text[length] = 0;
    char *name_end = strrchr(text, ')');
    if (!name_end || sscanf(name_end + 1, " %c", state) != 1) return false;
    char *field = name_end + 2;
    for (int i = 3; i < 22 && field; i++) field = strchr(field + 1, ' ');
    if (!field) return false;
    *started = strtoull(field, NULL, 10);
    return true;
}

static bool owner_lost(uint64_t owner) {
    char state;
    uint64_t started;
    if (!sim_thread_stat((int)(owner >> 32), (int)(uint32_t)owner, &state, &started)) return true;
    return strchr("ZXTt", state);
}

static bool try_lock(struct sim_machine *machine, uint64_t from) {
    return __atomic_compare_exchange_n(&machine->lock, &from, this_thread(), false,
                                       __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

void sim_lock(struct sim_machine *machine) {
    const struct timespec pause = {0, 20000};
    uint64_t since = 0, watched = 0;
    for (unsigned int tries = 0; !try_lock(machine, 0); tries++) {
        if (tries < 200) continue;
        uint64_t owner = __atomic_load_n(&machine->lock, __ATOMIC_RELAXED), now = sim_now();
        if (owner != watched) {
            watched = owner;
            since = now;
        } else if (owner && now - since > 2000000) {
            if (owner_lost(owner) && try_lock(machine, owner)) {
                sim_recover(machine);
                return;
            }
            since = now;
        }
        nanosleep(&pause, NULL);
    }
}

bool sim_holds(const struct sim_machine *machine) {
    return __atomic_load_n(&machine->lock, __ATOMIC_RELAXED) == this_thread();
}

/* If the lock was taken over, it is somebody else's now. */
void sim_unlock(struct sim_machine *machine) {
    uint64_t mine = this_thread();
    __atomic_compare_exchange_n(&machine->lock, &mine, 0, false, __ATOMIC_RELEASE,
                                __ATOMIC_RELAXED);
}
