/* Several processes on one simulated card: capacity, time, sudden death, fork, exec, handles
 * between them. */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "sim_check.h"

static const char *self;

/* Starts this program again in a role; its stdout is the pipe *from. */
static pid_t start(const char *role, const char *argument, int *from) {
    int ends[2];
    if (pipe(ends)) exit(1);
    pid_t pid = fork();
    if (!pid) {
        dup2(ends[1], 1);
        close(ends[0]);
        execl(self, self, role, argument, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *from = ends[0];
    return pid;
}

static void line(int from, char *text, size_t size) {
    size_t length = 0;
    while (length + 1 < size && read(from, text + length, 1) == 1 && text[length] != '\n') length++;
    text[length] = 0;
}

static int finish(pid_t pid) {
    int status;
    waitpid(pid, &status, 0);
    return status;
}

/* Takes GiB and stays until killed, or until stdin... there is none: until its parent dies. */
static int hold(const char *gib) {
    CUdeviceptr p;
    check_context();
    CUresult rc = cuMemAlloc_v2(&p, (size_t)atoi(gib) << 30);
    printf("%d\n", (int)rc);
    fflush(stdout);
    pause();
    return 0;
}

/* Keeps the card busy for a second and prints how many kernels of 50 us it got. */
static int burn(const char *name) {
    check_context();
    CUfunction kernel = check_kernel(name);
    CUstream stream;
    CUevent mark[2];
    MUST(cuStreamCreate(&stream, 1));
    for (int i = 0; i < 2; i++) MUST(cuEventCreate(&mark[i], CU_EVENT_DISABLE_TIMING));
    puts("ready");
    fflush(stdout);
    long done = 0;
    double end = check_now() + 1000;
    for (int i = 0; check_now() < end; i++) {
        if (i >= 2) {
            MUST(cuEventSynchronize(mark[i % 2]));
            done += 20;
        }
        for (int k = 0; k < 20; k++) MUST(check_launch(kernel, stream, NULL));
        MUST(cuEventRecord(mark[i % 2], stream));
    }
    printf("%ld\n", done);
    return 0;
}

static int import(const char *path) {
    CUipcMemHandle handle;
    CUdeviceptr p;
    unsigned int word = 0;
    char go;
    check_context();
    FILE *file = fopen(path, "r");
    if (!file || fread(&handle, sizeof handle, 1, file) != 1) return 1;
    fclose(file);
    MUST(cuIpcOpenMemHandle_v2(&p, handle, 1));
    MUST(cuMemcpyDtoH_v2(&word, p, 4));
    printf("%u\n", word);
    fflush(stdout);
    if (read(0, &go, 1) < 0) return 1;
    MUST(cuIpcCloseMemHandle(p));
    puts("closed");
    fflush(stdout);
    pause();
    return 0;
}

static void capacity(void) {
    char text[50];
    int from;
    size_t before = check_free();
    pid_t pid = start("hold", "100", &from);
    line(from, text, sizeof text);
    CUdeviceptr p;
    CHECK("another process takes 100 GiB",
          !strcmp(text, "0") && before - check_free() >= (size_t)100 << 30);
    CHECK("they are not ours to take", cuMemAlloc_v2(&p, (size_t)60 << 30) == 2);
    CHECK("NVML lists it",
          check_listed((unsigned int)pid) == (518 * MIB) + ((unsigned long long)100 << 30));
    kill(pid, SIGSTOP);
    CHECK("stopped: still there", check_listed((unsigned int)pid) > 0);
    kill(pid, SIGKILL);
    siginfo_t info;
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT); /* a zombie now */
    CHECK("killed: gone at the next look",
          check_listed((unsigned int)pid) == 0 && check_free() == before);
    CHECK("and its memory is free",
          cuMemAlloc_v2(&p, (size_t)100 << 30) == 0 && cuMemFree_v2(p) == 0);
    finish(pid);
    close(from);
}

static void time_slices(void) {
    char text[50];
    int from[2];
    pid_t pid[2];
    pid[0] = start("burn", "k", &from[0]);
    line(from[0], text, sizeof text);
    line(from[0], text, sizeof text);
    long alone = atol(text);
    finish(pid[0]);
    close(from[0]);
    printf("# alone %ld kernels a second\n", alone);
    CHECK("alone: up to 20000 kernels of 50 us", alone > 8000 && alone <= 20000);
    long got[2];
    for (int i = 0; i < 2; i++) {
        pid[i] = start("burn", "k", &from[i]);
        line(from[i], text, sizeof text);
    }
    for (int i = 0; i < 2; i++) {
        line(from[i], text, sizeof text);
        got[i] = atol(text);
        finish(pid[i]);
        close(from[i]);
    }
    printf("# two: %ld + %ld\n", got[0], got[1]);
    CHECK("two: about half each", got[0] > alone * 0.3 && got[1] > alone * 0.3 &&
                                      got[0] < alone * 0.7 && got[1] < alone * 0.7);
    CHECK("less what the changes cost", got[0] + got[1] < 19700 && got[0] + got[1] > alone * 0.7);
}

static void endless(void) {
    char text[50];
    int from;
    pid_t pid = start("burn", "forever", &from);
    line(from, text, sizeof text);
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    CUfunction kernel = check_kernel("ms");
    double begin = check_now();
    MUST(check_launch(kernel, NULL, NULL));
    MUST(cuStreamSynchronize(NULL));
    CHECK("beside an endless kernel others still run", check_now() - begin < 500);
    kill(pid, SIGKILL);
    finish(pid);
    close(from);
    for (int i = 0; i < 3; i++) nanosleep(&(struct timespec){0, 10000000}, NULL);
    begin = check_now();
    for (int i = 0; i < 10; i++) MUST(check_launch(kernel, NULL, NULL));
    MUST(cuStreamSynchronize(NULL));
    double took = check_now() - begin;
    CHECK("after its death the card is ours", took < 500);
}

/* Kills at random moments, often in the middle of the machine's lock. */
static void kills(void) {
    size_t before = check_free();
    unsigned int seed = 7;
    for (int i = 0; i < 60; i++) {
        pid_t pid = fork();
        if (!pid) {
            execl(self, self, "churn", "", (char *)NULL);
            _exit(127);
        }
        seed = seed * 1103515245 + 12345;
        nanosleep(&(struct timespec){0, 1000000 + (long)(seed >> 8) % 15000000}, NULL);
        kill(pid, SIGKILL);
        finish(pid);
    }
    CHECK("60 kills leave nothing behind", check_free() == before);
}
static int churn(void) {
    check_context();
    CUfunction kernel = check_kernel("k");
    for (;;) {
        CUdeviceptr p, q;
        MUST(cuMemAlloc_v2(&p, 5 * MIB));
        MUST(check_launch(kernel, NULL, NULL));
        MUST(cuMemAllocAsync(&q, 5 * MIB, NULL));
        MUST(cuMemFreeAsync(q, NULL));
        MUST(cuMemFree_v2(p));
    }
}

/* Stops at random moments: nobody else may wait for the stopped one. */
static void stops(void) {
    CUdeviceptr p;
    double slowest = 0;
    pid_t pid = fork();
    if (!pid) {
        execl(self, self, "churn", "", (char *)NULL);
        _exit(127);
    }
    nanosleep(&(struct timespec){0, 50000000}, NULL);
    for (int i = 0; i < 100; i++) {
        kill(pid, SIGSTOP);
        double begin = check_now();
        MUST(cuMemAlloc_v2(&p, 5 * MIB));
        MUST(cuMemFree_v2(p));
        if (check_now() - begin > slowest) slowest = check_now() - begin;
        kill(pid, SIGCONT);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    printf("# slowest beside a stopped process: %.1f ms\n", slowest);
    CHECK("100 stops hold nobody up", slowest < 500);
    kill(pid, SIGKILL);
    finish(pid);
}

static void forked(void) {
    pid_t pid = fork();
    if (!pid) {
        CUdeviceptr p;
        int count;
        _exit(cuInit(0) == 3 && cuDeviceGetCount(&count) == 3 && cuMemAlloc_v2(&p, 10) == 3 ? 0
                                                                                            : 1);
    }
    CHECK("in a forked child every call is 3", finish(pid) == 0);
}

static void handles(void) {
    char path[300], text[50];
    int from, to[2];
    CUdeviceptr p;
    CUipcMemHandle handle;
    unsigned int word = 4711;
    size_t before = check_free();
    MUST(cuMemAlloc_v2(&p, 1024 * MIB));
    MUST(cuMemcpyHtoD_v2(p, &word, 4));
    MUST(cuIpcGetMemHandle(&handle, p));
    snprintf(path, sizeof path, "%s/handle", getenv("VGPU_SIM_DIR"));
    FILE *file = fopen(path, "w");
    fwrite(&handle, sizeof handle, 1, file);
    fclose(file);
    if (pipe(to)) exit(1);
    int old = dup(0);
    dup2(to[0], 0);
    pid_t pid = start("import", path, &from);
    dup2(old, 0);
    line(from, text, sizeof text);
    CHECK("an importer sees the contents", !strcmp(text, "4711"));
    long long held = (long long)before - (long long)check_free();
    MUST(cuMemFree_v2(p));
    CHECK("freed while imported: the bytes stay",
          (long long)before - (long long)check_free() == held &&
              check_listed((unsigned int)pid) == (518 + 1024) * (unsigned long long)MIB);
    if (write(to[1], "x", 1) != 1) exit(1);
    line(from, text, sizeof text);
    CHECK("closed: they go", check_listed((unsigned int)pid) == 518 * MIB);
    kill(pid, SIGKILL);
    finish(pid);
    CHECK("all back", check_free() == before);
}

int main(int count, char **words) {
    self = "/proc/self/exe";
    if (count > 2) {
        check_start();
        if (!strcmp(words[1], "hold")) return hold(words[2]);
        if (!strcmp(words[1], "burn")) return burn(words[2]);
        if (!strcmp(words[1], "churn")) return churn();
        if (!strcmp(words[1], "import")) return import(words[2]);
        return 2;
    }
    check_start();
    setenv("VGPU_SIM_KERNELS", "ms=1000,forever=inf", 1);
    check_context();
    MUST(nvmlInit_v2());
    capacity();
    time_slices();
    endless();
    kills();
    stops();
    forked();
    handles();
    return check_failed;
}
