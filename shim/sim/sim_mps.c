/* MPS: which processes share a card at the same time. The daemon (mps_control.c) holds a lock in
 * its pipe directory as long as it lives; a process joins the daemon that it finds when CUDA
 * initialises, and stays with it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim.h"

bool sim_mps_path(const char *name, char *path, size_t size) {
    const char *directory = getenv("CUDA_MPS_PIPE_DIRECTORY");
    if (!directory || !*directory) directory = "/tmp/nvidia-mps";
    int length = snprintf(path, size, "%s/%s", directory, name);
    return length > 0 && (size_t)length < size;
}

static bool daemon_lives(void) {
    char path[300];
    struct stat info;
    if (!sim_mps_path("control_lock", path, sizeof path)) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false;
    struct flock lock = {.l_type = F_RDLCK};
    bool lives = !fstat(fd, &info) && info.st_uid == getuid() && !fcntl(fd, F_OFD_GETLK, &lock) &&
                 lock.l_type == F_WRLCK;
    close(fd);
    return lives;
}

int32_t sim_mps_server(void) {
    char path[300], text[20] = "";
    if (!daemon_lives() || !sim_mps_path("nvidia-cuda-mps-control.pid", path, sizeof path))
        return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    return length > 0 ? (int32_t)strtol(text, NULL, 10) : 0;
}

/* As long as a client lives that saw a fault, nobody new is let in. */
bool sim_mps_faulted(struct sim_machine *machine, int32_t server) {
    bool faulted = false;
    sim_lock(machine);
    sim_reap(machine);
    for (int i = 0; i < machine->proc_end; i++) {
        const struct sim_proc *proc = &machine->proc[i];
        faulted |= proc->pid && proc->server == server && proc->fault;
    }
    sim_unlock(machine);
    return faulted;
}

static void end_work(struct sim_machine *machine, int slot, uint32_t code) {
    if (machine->proc[slot].fault) return;
    __atomic_store_n(&machine->proc[slot].fault, code, __ATOMIC_RELAXED);
    for (int i = 0; i < machine->queue_end; i++) {
        struct sim_queue *queue = &machine->queue[i];
        if (queue->proc != slot) continue;
        queue->done = queue->submitted;
        queue->spinning = 0;
    }
}

void sim_fault(struct sim_machine *machine, int slot, int card, uint32_t code) {
    end_work(machine, slot, code);
    for (int i = 0; i < machine->proc_end; i++)
        if (machine->proc[i].pid && machine->proc[i].contexts[card] &&
            sim_same_turn(machine, i, slot))
            end_work(machine, i, 810); /* CUDA_ERROR_MPS_CLIENT_TERMINATED */
}
