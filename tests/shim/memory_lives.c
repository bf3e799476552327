/* Who pays when processes come, go, and share: reused pids, a second session on the card, a
 * supervisor that is gone, exported memory. Run by memory_run.sh with a limit of 4 GiB. */
#define _GNU_SOURCE
#include "memory_driver.h"

#include <signal.h>
#include <sys/wait.h>

static struct vgpu_region *region;

static void works(CUresult rc, const char *name) { equal((uint64_t)rc, 0, name); }

static CUresult start(void) {
    CUcontext context;
    CUresult rc = cuInit(0);
    if (!rc) rc = cuDevicePrimaryCtxRetain(&context, 0);
    return rc ? rc : cuCtxSetCurrent(context);
}

/* A slot that says: this pid, that start time, so many bytes. */
static struct vgpu_slot *plant(pid_t pid, uint64_t start_time, uint64_t bytes) {
    struct vgpu_slot *slot = &region->slots[region->header.slots_used];
    slot->start_time = start_time;
    slot->use[0].charged_bytes = bytes;
    slot->owner = (uint64_t)pid << 32 | 1 << 8 | VGPU_SLOT_LIVE;
    region->header.slots_used++;
    return slot;
}

static void reused_pids(void) {
    CUdeviceptr p;
    uint64_t started = 0, flags;
    char state;
    pid_t other = fork();
    if (other == 0)
        for (;;) pause();
    vgpu_process_stat((uint32_t)other, &started, &state, &flags);
    plant(other, started + 1, 3 * GiB);
    works(cuMemAlloc_v2(&p, 2 * GiB), "the pid lives, but is another process: its bytes are free");
    works(cuMemFree_v2(p), "free");
    struct vgpu_slot *slot = plant(other, started, 3 * GiB);
    equal(cuMemAlloc_v2(&p, 2 * GiB), CUDA_ERROR_OUT_OF_MEMORY, "the same process: they are not");
    kill(other, SIGSTOP);
    equal(cuMemAlloc_v2(&p, 2 * GiB), CUDA_ERROR_OUT_OF_MEMORY, "nor while it is stopped");
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    works(cuMemAlloc_v2(&p, 2 * GiB), "after its end they are");
    equal(vgpu_slot_state(slot->owner), VGPU_SLOT_FREE, "and its slot is free");
    works(cuMemFree_v2(p), "free");
}

/* The supervisor named in the region does not live: nobody waits for it. */
static void no_supervisor(void) {
    CUdeviceptr p[64];
    int n = 0;
    pid_t gone = fork();
    if (gone == 0) _exit(0);
    waitpid(gone, NULL, 0);
    region->header.supervisor_pid = (uint32_t)gone;
    region->header.audit = 1;
    double start_s = now_s();
    while (n < 64 && cuMemAlloc_v2(&p[n], 64 * MiB) == CUDA_SUCCESS) n++;
    check(n > 50 && n < 64, "without a supervisor the limit holds", (uint64_t)n, 56);
    check(now_s() - start_s < 1, "and nobody waits", 0, 0);
    while (n) cuMemFree_v2(p[--n]);

    /* 1 GiB that no hook sees: known at the first refusal, and then it counts. */
    const uint64_t base = charged(region);
    const struct vgpu_use *use = &region->slots[0].use[0];
    CUdeviceptr behind, big;
    works(REAL_FUNCTION(cuMemAlloc_v2)(&behind, GiB), "1 GiB behind our back");
    works(cuMemAlloc_v2(&p[0], 2 * GiB), "2 GiB");
    usleep(20000); /* the look at the last refusal is too old by then */
    equal(cuMemAlloc_v2(&big, 2 * GiB), CUDA_ERROR_OUT_OF_MEMORY, "2 more are refused");
    equal((uint64_t)use->drift_bytes, GiB, "and NVML was asked what else there is");
    equal(cuMemAlloc_v2(&big, GiB), CUDA_ERROR_OUT_OF_MEMORY, "it counts");
    works(REAL_FUNCTION(cuMemFree_v2)(behind), "it goes");
    usleep(20000);
    equal(cuMemAlloc_v2(&big, GiB), CUDA_ERROR_OUT_OF_MEMORY, "a lower figure is not believed");
    usleep(3100000);
    works(cuMemAlloc_v2(&big, GiB), "before it has stood for 3 s");
    works(cuMemFree_v2(big), "free");
    works(cuMemFree_v2(p[0]), "free");
    equal(charged(region), base, "no byte is lost");
    region->header.audit = 0;
}

static pid_t run(char *self, const char *role, int in, int out) {
    pid_t child = fork();
    if (child == 0) {
        dup2(in, 0);
        dup2(out, 1);
        execl(self, self, role, (char *)NULL);
        _exit(127);
    }
    return child;
}

static int import(void) {
    CUipcMemHandle handle;
    CUdeviceptr p;
    char byte;
    if (start()) return 1;
    if (read(0, &handle, sizeof handle) != sizeof handle) return 2;
    if (cuIpcOpenMemHandle_v2(&p, handle, 1)) return 3;
    if (write(1, "", 1) != 1) return 4;
    if (read(0, &byte, 1) < 0) return 5; /* until the parent goes on */
    return cuIpcCloseMemHandle(p) ? 6 : 0;
}

static void exports(char *self) {
    int to[2], from[2];
    CUdeviceptr p, q;
    CUipcMemHandle handle;
    char byte;
    if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC)) abort();
    uint64_t own = charged(region);
    works(cuMemAlloc_v2(&p, GiB), "1 GiB");
    works(cuIpcGetMemHandle(&handle, p), "exported");
    pid_t child = run(self, "import", to[0], from[1]);
    if (write(to[1], &handle, sizeof handle) < 0) abort();
    equal((uint64_t)read(from[0], &byte, 1), 1, "imported");
    uint64_t both = own + 518 * MiB;
    equal(charged(region), both + GiB, "charged once");
    works(cuMemFree_v2(p), "the exporter frees it");
    equal(charged(region), both + GiB, "the importer keeps it: still charged");
    equal(listed(), both + GiB, "as NVML lists it");
    equal(cuMemAlloc_v2(&q, 3 * GiB), CUDA_ERROR_OUT_OF_MEMORY, "and nobody gets it");
    close(to[1]);
    int status;
    waitpid(child, &status, 0);
    equal((uint64_t)status, 0, "closed");
    works(cuMemAlloc_v2(&q, 3 * GiB), "once nobody can have it, it is free");
    works(cuMemFree_v2(q), "free");
    equal(charged(region), own, "no byte is lost");
    works(cuMemAlloc_v2(&p, GiB), "1 GiB");
    works(cuIpcGetMemHandle(&handle, p), "exported, and nobody there to import it");
    works(cuMemFree_v2(p), "free");
    equal(charged(region), own, "refunded at once");
}

/* --- virtual memory, handed over as a descriptor --- */

static const CUmemAllocationProp shareable = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                              .requestedHandleTypes =
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                              .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};

/* Maps 1 GiB that descriptor 3 stands for; says so on 1 and keeps it until 0 is closed. */
static int import_virtual(void) {
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at;
    char byte = 0;
    if (start() || cuMemImportFromShareableHandle(&handle, (void *)3,
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
        return 1;
    if (cuMemAddressReserve(&at, GiB, 0, 0, 0) || cuMemMap(at, GiB, 0, handle, 0)) return 2;
    if (write(1, &byte, 1) != 1 || read(0, &byte, 1) < 0) return 3;
    return cuMemUnmap(at, GiB) || cuMemRelease(handle) ? 4 : 0;
}

/* Makes 1 GiB, hands it to a process that it starts, and waits to be killed. */
static int export_and_die(char *self) {
    CUmemGenericAllocationHandle handle;
    int fd;
    if (start() || cuMemCreate(&handle, GiB, &shareable, 0) ||
        cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0))
        return 1;
    dup2(fd, 3);
    if (fork() == 0) execl(self, self, "import virtual", (char *)NULL);
    for (;;) pause();
}

static void shared_virtual_memory(char *self) {
    int to[2], from[2], fd, status;
    CUmemGenericAllocationHandle handle;
    CUdeviceptr p;
    char byte;
    uint64_t own = charged(region);
    if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC)) abort();
    works(cuMemCreate(&handle, GiB, &shareable, 0), "1 GiB of virtual memory");
    works(cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
          "exported");
    pid_t child = fork();
    if (child == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        dup2(fd, 3);
        execl(self, self, "import virtual", (char *)NULL);
        _exit(127);
    }
    equal((uint64_t)read(from[0], &byte, 1), 1, "imported and mapped");
    const uint64_t both = own + 518 * MiB;
    equal(charged(region), both + GiB, "charged once");
    works(cuMemRelease(handle), "the exporter releases it");
    equal(charged(region), both + GiB, "the importer keeps it: still charged");
    equal(cuMemAlloc_v2(&p, 3 * GiB), CUDA_ERROR_OUT_OF_MEMORY, "and nobody gets it");
    close(to[1]);
    waitpid(child, &status, 0);
    equal((uint64_t)status, 0, "unmapped and released");
    works(cuMemAlloc_v2(&p, 3 * GiB), "once nobody can have it, it is free");
    works(cuMemFree_v2(p), "free");
    close(fd);

    if (pipe2(to, O_CLOEXEC)) abort();
    pid_t exporter = run(self, "export and die", to[0], from[1]);
    equal((uint64_t)read(from[0], &byte, 1), 1, "another exporter and its importer");
    equal(charged(region), own + 2 * 518 * MiB + GiB, "charged once");
    kill(exporter, SIGKILL);
    waitpid(exporter, NULL, 0);
    vgpu_slot_reap(region);
    equal(charged(region), listed(), "the exporter gone: what NVML lists");
    close(to[0]);
    close(to[1]);
    for (double end = now_s() + 10; now_s() < end && charged(region) != own; usleep(1000))
        vgpu_slot_reap(region);
    equal(charged(region), own, "no byte is lost");
}

static int second(void) {
    CUdeviceptr p;
    size_t left, total;
    if (start()) return 1;
    if (cuMemGetInfo_v2(&left, &total) || total != 2 * GiB) return 2;
    if (cuMemAlloc_v2(&p, GiB)) return 3;
    return cuMemAlloc_v2(&p, GiB) == CUDA_ERROR_OUT_OF_MEMORY ? 0 : 4;
}

static void two_sessions(char *self) {
    char path[] = "/tmp/vgpu-second-XXXXXX";
    int fd = mkstemp(path), status;
    uint64_t own = charged(region);
    CUdeviceptr p;
    if (fd < 0 || ftruncate(fd, sizeof *region)) abort();
    struct vgpu_region *other =
        mmap(NULL, sizeof *other, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    region_fill(other, 2 * GiB);
    works(cuMemAlloc_v2(&p, 3 * GiB), "3 of our 4 GiB");
    pid_t child = fork();
    if (child == 0) {
        setenv("VGPU_REGION", path, 1);
        execl(self, self, "second", (char *)NULL);
        _exit(127);
    }
    waitpid(child, &status, 0);
    equal((uint64_t)WEXITSTATUS(status), 0, "a second session on the card has its own limit");
    equal(charged(region), own + 3 * GiB, "and ours is untouched");
    works(cuMemFree_v2(p), "free");
    munmap(other, sizeof *other);
    close(fd);
    unlink(path);
}

/* Everything in one child, which then ends in one of the ways there are. */
static int take(const char *end) {
    CUdeviceptr p;
    CUstream stream;
    CUmodule module;
    CUarray array;
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUDA_ARRAY_DESCRIPTOR flat = {3000, 3000, CU_AD_FORMAT_FLOAT, 4};
    if (start() || cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) ||
        cuMemAlloc_v2(&p, 300 * MiB) || cuMemAllocAsync(&p, 300 * MiB, stream) ||
        cuMemCreate(&handle, 300 * MiB, &properties, 0) || cuArrayCreate_v2(&array, &flat) ||
        cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 2048) ||
        cuModuleLoadData(&module, ".version 6.0\n.global .b8 x[67108864];\n"))
        return 1;
    if (strcmp(end, "reset") == 0) return cuDevicePrimaryCtxReset_v2(0) ? 1 : 0;
    if (strcmp(end, "kill") == 0) kill(getpid(), SIGKILL);
    if (strcmp(end, "abort") == 0) kill(getpid(), SIGABRT);
    if (strcmp(end, "_exit") == 0) _exit(0);
    if (strcmp(end, "fork") == 0) { /* a child that outlives it, without exec */
        if (fork() == 0) usleep(200000), _exit(0);
        _exit(0);
    }
    return 0;
}

static void ends(char *self) {
    static const char *const ways[] = {"return", "_exit", "kill", "abort", "reset", "fork"};
    uint64_t own = charged(region);
    CUdeviceptr p;
    for (unsigned i = 0; i < 6; i++) {
        int status;
        char line[64];
        pid_t child = fork();
        if (child == 0) {
            execl(self, self, "take", ways[i], (char *)NULL);
            _exit(127);
        }
        waitpid(child, &status, 0);
        snprintf(line, sizeof line, "a process of every kind of memory: %s", ways[i]);
        check(!WIFEXITED(status) || WEXITSTATUS(status) == 0, line, (uint64_t)status, 0);
        works(cuMemAlloc_v2(&p, 3 * GiB), "what it held is free");
        works(cuMemFree_v2(p), "free");
        equal(charged(region), own, "nothing is left of it");
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "import") == 0) return import();
    if (argc > 1 && strcmp(argv[1], "import virtual") == 0) return import_virtual();
    if (argc > 1 && strcmp(argv[1], "export and die") == 0) return export_and_die(argv[0]);
    if (argc > 1 && strcmp(argv[1], "second") == 0) return second();
    if (argc > 2 && strcmp(argv[1], "take") == 0) return take(argv[2]);
    region = session_region();
    works(start(), "start");
    reused_pids();
    no_supervisor();
    exports(argv[0]);
    shared_virtual_memory(argv[0]);
    two_sessions(argv[0]);
    ends(argv[0]);
    return failures != 0;
}
