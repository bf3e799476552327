/* cuIpc*MemHandle: an exported allocation moves into a file that importers map; sim.h says who pays
 * for it. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda_sim.h"

struct ticket {
    char magic[16];
    uint64_t id, bytes, offset;
    int32_t card, pid;
};

/* Puts the allocation's contents into the share's file and the file in the allocation's place.
 * Untouched pages stay holes. */
static bool share_contents(struct range *range, uint64_t id) {
    char path[300];
    sim_share_path(id, path, sizeof path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return false;
    bool done = !ftruncate(fd, (off_t)range->size);
    const size_t step = 1 << 20, page_size = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char resident[256]; /* enough for pages of 4 KiB */
    for (size_t at = 0; done && at < range->size; at += step) {
        if (mincore((void *)(range->start + at), step, resident)) continue;
        for (size_t i = 0; i < step / page_size; i++) {
            size_t offset = at + i * page_size;
            if (resident[i] & 1)
                done &= pwrite(fd, (void *)(range->start + offset), page_size, (off_t)offset) ==
                        (ssize_t)page_size;
        }
    }
    done = done && mmap((void *)range->start, range->size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) != MAP_FAILED;
    close(fd);
    return done;
}

static struct sim_share *share_of(struct sim_machine *machine, uint64_t id) {
    for (int i = 0; i < SIM_MAX_SHARES; i++)
        if (machine->share[i].id == id) return &machine->share[i];
    return NULL;
}

static CUresult share_new(struct range *range) {
    struct sim_machine *machine = sim_machine();
    sim_lock(machine);
    struct sim_share *share = share_of(machine, 0);
    uint64_t id = share ? ++machine->next_id : 0;
    if (share) {
        memset(share, 0, sizeof *share);
        share->card = sim_process.device[range->device].card;
        share->bytes = range->charged;
        share->exporter = share->payer = sim_process.slot;
        share->id = id;
    }
    sim_unlock(machine);
    if (!share || !share_contents(range, id)) return CUDA_ERROR_OUT_OF_MEMORY;
    range->flags = (unsigned int)id;
    return CUDA_SUCCESS;
}

API CUresult cuIpcGetMemHandle(CUipcMemHandle *out, CUdeviceptr pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!out || !piece_find((uintptr_t)pointer, &piece)) return CUDA_ERROR_INVALID_VALUE;
    struct range *range = piece.range;
    if (range->kind != RANGE_LARGE && range->kind != RANGE_BLOCK) return CUDA_ERROR_INVALID_VALUE;
    device_wait(range->device);
    if (!range->flags) CHECK(share_new(range));
    struct ticket ticket = {"vgpu-sim memory",
                            range->flags,
                            range->size,
                            piece.start - range->start,
                            sim_process.device[range->device].card,
                            getpid()};
    memset(out, 0, sizeof *out);
    memcpy(out, &ticket, sizeof ticket);
    return CUDA_SUCCESS;
}

static CUresult ipc_open(CUdeviceptr *out, CUipcMemHandle handle) {
    SIM_ENTER();
    struct context *context;
    struct ticket ticket;
    char path[300];
    memcpy(&ticket, &handle, sizeof ticket);
    if (!out || strcmp(ticket.magic, "vgpu-sim memory")) return CUDA_ERROR_INVALID_VALUE;
    CHECK(context_current(&context));
    if (ticket.pid == getpid()) return CUDA_ERROR_INVALID_CONTEXT; /* not within one process */
    sim_share_path(ticket.id, path, sizeof path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return CUDA_ERROR_INVALID_HANDLE;
    struct sim_machine *machine = sim_machine();
    sim_lock(machine);
    struct sim_share *share = share_of(machine, ticket.id);
    if (share) share->imports[sim_process.slot]++;
    sim_unlock(machine);
    void *pages = share ? pages_new(ticket.bytes) : NULL;
    if (pages && mmap(pages, ticket.bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED)
        pages = NULL;
    close(fd);
    struct range *range = pages ? range_add((uintptr_t)pages, ticket.bytes, RANGE_IMPORT) : NULL;
    if (!range) return share ? CUDA_ERROR_MAP_FAILED : CUDA_ERROR_INVALID_HANDLE;
    range->flags = (unsigned int)ticket.id;
    range->device = context->device;
    *out = range->start + ticket.offset;
    return CUDA_SUCCESS;
}
API CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *out, CUipcMemHandle handle, unsigned int flags) {
    return flags != 1 ? CUDA_ERROR_INVALID_VALUE
                      : ipc_open(out, handle); /* LAZY_ENABLE_PEER_ACCESS is required */
}
API CUresult cuIpcOpenMemHandle(CUdeviceptr *out, CUipcMemHandle handle, unsigned int flags) {
    return cuIpcOpenMemHandle_v2(out, handle, flags);
}

API CUresult cuIpcCloseMemHandle(CUdeviceptr pointer) {
    SIM_ENTER();
    struct piece piece;
    if (!piece_find((uintptr_t)pointer, &piece) || piece.range->kind != RANGE_IMPORT)
        return CUDA_ERROR_INVALID_VALUE;
    struct range *range = piece.range;
    device_wait(range->device);
    struct sim_machine *machine = sim_machine();
    sim_lock(machine);
    struct sim_share *share = share_of(machine, range->flags);
    if (share && share->imports[sim_process.slot] && !--share->imports[sim_process.slot] &&
        share->payer == sim_process.slot) {
        machine->proc[sim_process.slot].listed[share->card] -= share->bytes;
        machine->card[share->card].taken -= share->bytes;
        share->payer = -1;
        sim_share_settle(machine, share);
    }
    sim_unlock(machine);
    pages_drop(range->start, range->size);
    range_remove(range);
    return CUDA_SUCCESS;
}
