/* The machine's file: made once, mapped by every process, guarded by one robust mutex, swept of the
 * dead. No daemon. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim.h"

#define MAGIC UINT64_C(0x346d69732d757067) /* "gpu-sim4": change it with the layout */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sim_machine *mapped;
static char directory[200];

/* The state is private to one user: a directory that others may write to would let them feed us
 * their mappings. */
static bool find_directory(void) {
    const char *given = getenv("VGPU_SIM_DIR");
    int length = given && *given ? snprintf(directory, sizeof directory, "%s", given)
                                 : snprintf(directory, sizeof directory, "/dev/shm/vgpu-sim-%u",
                                            (unsigned)getuid());
    struct stat info;
    if (length < 0 || (size_t)length >= sizeof directory) return false;
    if (mkdir(directory, 0700) && errno != EEXIST) return false;
    return !stat(directory, &info) && S_ISDIR(info.st_mode) && info.st_uid == getuid() &&
           !(info.st_mode & 022);
}

static void machine_init(struct sim_machine *machine) {
    machine->switch_ns = SIM_SWITCH_NS;
    machine->mps_switch_ns = SIM_MPS_SWITCH_NS;
    machine->slice_ns = SIM_SLICE_NS;
    for (int i = 0; i < SIM_MAX_CARDS; i++) machine->card[i].holder = machine->card[i].client = -1;
    __atomic_store_n(&machine->magic, MAGIC, __ATOMIC_RELEASE);
}

static void set_by(const char *variable, uint64_t *ns) {
    const char *us = getenv(variable);
    if (us && *us >= '0' && *us <= '9') *ns = (uint64_t)(strtod(us, NULL) * 1000);
}

static void complain(const char *reason) {
    fprintf(stderr,
            "vgpu: the simulated GPU cannot keep its state in %s: %s; VGPU_SIM_DIR names "
            "another place\n",
            directory, reason);
}

/* Gives the file real blocks, so that a full disk is an error here and no SIGBUS later. Those of an
 * earlier process are left as they are. Returns 0, or the error. */
static int reserve(int fd, off_t bytes) {
    struct stat info;
    if (fstat(fd, &info) || (info.st_size > bytes && ftruncate(fd, bytes))) return errno;
    if (info.st_size == bytes && (off_t)info.st_blocks * 512 >= bytes) return 0;
    int error;
    do error = posix_fallocate(fd, 0, bytes);
    while (error == EINTR);
    return error;
}

static void map_machine(void) {
    if (!find_directory()) {
        complain("it must be a directory of your own that nobody else may write to");
        return;
    }
    char path[sizeof directory + 40];
    snprintf(path, sizeof path, "%s/%s.4", directory, sim_model()->key);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        complain(strerror(errno));
        return;
    }
    struct sim_machine *machine = MAP_FAILED;
    /* The file lock makes one process the founder; a kill ends it. It must be given up by hand: the
     * mapping would hold it. */
    int error = flock(fd, LOCK_EX) ? errno : reserve(fd, (off_t)sizeof *machine);
    if (!error) {
        machine = mmap(NULL, sizeof *machine, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (machine == MAP_FAILED) error = errno;
    }
    if (machine != MAP_FAILED && machine->magic != MAGIC) machine_init(machine);
    flock(fd, LOCK_UN);
    close(fd);
    if (machine == MAP_FAILED) {
        complain(strerror(error));
        return;
    }
    set_by("VGPU_SIM_SWITCH_US", &machine->switch_ns);
    set_by("VGPU_SIM_MPS_SWITCH_US", &machine->mps_switch_ns);
    set_by("VGPU_SIM_SLICE_US", &machine->slice_ns);
    if (!machine->slice_ns) machine->slice_ns = 1;
    mapped = machine;
}

struct sim_machine *sim_machine(void) {
    pthread_once(&once, map_machine);
    return mapped;
}

static void recount(struct sim_machine *machine) {
    for (int card = 0; card < SIM_MAX_CARDS; card++) {
        uint64_t sum = 0;
        for (int i = 0; i < machine->proc_end; i++)
            if (machine->proc[i].pid)
                sum += machine->proc[i].listed[card] + machine->proc[i].hidden[card];
        machine->card[card].taken = sum;
    }
}

/* The owner was killed or stopped between two stores. Only the sums can be wrong; each is made anew
 * from what it sums. */
void sim_recover(struct sim_machine *machine) {
    for (int i = 0; i < machine->queue_end; i++) {
        struct sim_queue *queue = &machine->queue[i];
        if (queue->done > queue->submitted) queue->done = queue->submitted;
    }
    sim_reap(machine);
    recount(machine);
}

static bool proc_alive(const struct sim_proc *proc) {
    char state;
    uint64_t started;
    if (!sim_thread_stat(proc->pid, 0, &state, &started) || started != proc->started) return false;
    if (state != 'Z' && state != 'X') return true;
    /* A zombie may be a main thread that left other threads running: then /proc/PID/task lists more
     * than itself. */
    char path[40];
    struct stat info;
    snprintf(path, sizeof path, "/proc/%d/task", proc->pid);
    return state == 'Z' && !stat(path, &info) && info.st_nlink > 3;
}

static void proc_clear(struct sim_machine *machine, int slot) {
    struct sim_proc *proc = &machine->proc[slot];
    for (int card = 0; card < SIM_MAX_CARDS; card++) {
        proc->listed[card] = proc->hidden[card] = 0;
        proc->contexts[card] = 0;
    }
    proc->server = 0;
    proc->fault = 0;
    memset(proc->busy, 0, sizeof proc->busy);
    for (int i = 0; i < machine->queue_end; i++)
        if (machine->queue[i].proc == slot) sim_queue_give(machine, i);
}

static void proc_release(struct sim_machine *machine, int slot) {
    struct sim_proc *proc = &machine->proc[slot];
    proc->pid = 0;
    for (int card = 0; card < SIM_MAX_CARDS; card++) {
        machine->card[card].taken -= proc->listed[card] + proc->hidden[card];
        if (machine->card[card].holder == slot) machine->card[card].holder = -1;
        if (machine->card[card].client == slot) machine->card[card].client = -1;
    }
    proc_clear(machine, slot);
    for (int i = 0; i < SIM_MAX_SHARES; i++) {
        struct sim_share *share = &machine->share[i];
        if (!share->id) continue;
        share->imports[slot] = 0;
        if (share->exporter == slot) share->exporter = -1;
        if (share->payer == slot) share->payer = -1;
        sim_share_settle(machine, share);
    }
}

void sim_reap(struct sim_machine *machine) {
    for (int i = 0; i < machine->proc_end; i++)
        if (machine->proc[i].pid && machine->proc[i].pid != getpid() &&
            !proc_alive(&machine->proc[i]))
            proc_release(machine, i);
}

int sim_proc_join(struct sim_machine *machine) {
    char state;
    uint64_t started;
    int slot = -1;
    if (!sim_thread_stat(getpid(), 0, &state, &started)) return -1;
    sim_lock(machine);
    sim_reap(machine);
    for (int i = 0; i < machine->proc_end;
         i++) /* an earlier program of this process, before exec, or of this pid */
        if (machine->proc[i].pid == getpid()) proc_release(machine, i);
    for (int i = 0; i < SIM_MAX_PROCS && slot < 0; i++)
        if (!machine->proc[i].pid) slot = i;
    if (slot >= 0) {
        proc_clear(machine, slot); /* whoever released it may have been killed halfway */
        machine->proc[slot].generation++;
        machine->proc[slot].started = started;
        machine->proc[slot].pid = getpid();
        if (machine->proc_end <= slot) machine->proc_end = slot + 1;
    }
    sim_unlock(machine);
    return slot;
}

bool sim_take(int slot, int card, uint64_t listed, uint64_t hidden) {
    struct sim_machine *machine = mapped;
    uint64_t total = sim_model()->total, bytes = listed + hidden;
    sim_lock(machine);
    struct sim_card *state = &machine->card[card];
    if (bytes < listed || bytes > total - state->taken) sim_reap(machine);
    bool fits = bytes >= listed && bytes <= total - state->taken;
    if (fits) {
        machine->proc[slot].listed[card] += listed;
        machine->proc[slot].hidden[card] += hidden;
        state->taken += bytes;
    }
    sim_unlock(machine);
    return fits;
}

void sim_give(int slot, int card, uint64_t listed, uint64_t hidden) {
    struct sim_machine *machine = mapped;
    sim_lock(machine);
    machine->proc[slot].listed[card] -= listed;
    machine->proc[slot].hidden[card] -= hidden;
    machine->card[card].taken -= listed + hidden;
    sim_unlock(machine);
}

uint64_t sim_taken(int card) {
    struct sim_machine *machine = mapped;
    sim_lock(machine);
    sim_reap(machine);
    uint64_t taken = machine->card[card].taken;
    sim_unlock(machine);
    return taken;
}

void sim_share_path(uint64_t id, char *path, size_t size) {
    snprintf(path, size, "%s/share.%llu", directory, (unsigned long long)id);
}

/* The bytes stay as long as anyone holds them: a payer that let go is followed by an importer, the
 * last one ends it. */
void sim_share_settle(struct sim_machine *machine, struct sim_share *share) {
    if (share->payer >= 0) return;
    for (int i = 0; i < machine->proc_end; i++)
        if (share->imports[i] && machine->proc[i].pid) {
            share->payer = i;
            machine->proc[i].listed[share->card] += share->bytes;
            machine->card[share->card].taken += share->bytes;
            return;
        }
    char path[300];
    sim_share_path(share->id, path, sizeof path);
    unlink(path);
    share->id = 0;
}
