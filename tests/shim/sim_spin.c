/* Kernels that wait for others: on streams, cards and processes of the simulated machine. */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "sim_check.h"

static CUfunction spin, meet, fill, ms;

static CUstream stream_new(void) {
    CUstream stream;
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    return stream;
}

static CUdeviceptr word_new(void) {
    CUdeviceptr word;
    MUST(cuMemAlloc_v2(&word, 4096));
    MUST(cuMemsetD32_v2(word, 0, 1));
    return word;
}

static void wait_for(CUdeviceptr word, unsigned int value, CUstream stream) {
    MUST(check_launch(spin, stream, (void *[]){&word, &value}));
}

static void write_by_kernel(CUdeviceptr word, unsigned int value, CUstream stream) {
    unsigned int one = 1;
    MUST(check_launch(fill, stream, (void *[]){&word, &value, &one}));
}

static void streams(void) {
    CUstream a = stream_new(), b = stream_new();
    CUdeviceptr word = word_new();
    CUevent from, to;
    float took;
    MUST(cuEventCreate(&from, 0));
    MUST(cuEventCreate(&to, 0));
    MUST(cuEventRecord(from, a));
    wait_for(word, 1, a);
    MUST(check_launch(ms, a, NULL));
    MUST(cuEventRecord(to, a));
    for (int i = 0; i < 5; i++) MUST(check_launch(ms, b, NULL));
    MUST(cuStreamSynchronize(b));
    CHECK("another stream's kernels run beside it",
          cuEventQuery(from) == 0 && cuStreamQuery(a) == 600);
    nvmlUtilization_t use = {0};
    nvmlDevice_t card;
    nanosleep(&(struct timespec){0, 300000000}, NULL);
    MUST(nvmlDeviceGetHandleByIndex_v2(0, &card));
    MUST(nvmlDeviceGetUtilizationRates(card, &use));
    CHECK("the card is busy with it", use.gpu >= 20);
    write_by_kernel(word, 1, b);
    MUST(cuStreamSynchronize(a));
    MUST(cuEventElapsedTime_v2(&took, from, to));
    CHECK("a kernel of another stream ends it, and its stream goes on", took > 300);
    wait_for(word, 2, a);
    MUST(cuStreamWriteValue32_v2(b, word, 2, 0));
    MUST(cuStreamSynchronize(a));
    wait_for(word, 3, a);
    MUST(cuMemcpyHtoDAsync_v2(word, &(unsigned int){3}, 4, b));
    MUST(cuStreamSynchronize(a));
    CHECK("so do a stream's write and a copy", 1);
    wait_for(word, 4, a);
    for (int i = 0; i < 3; i++) write_by_kernel(word + 4, 9, a);
    MUST(cuStreamSynchronize(b));
    unsigned int seen = 1;
    MUST(cuMemcpyDtoHAsync_v2(&seen, word + 4, 4, b));
    MUST(cuStreamSynchronize(b));
    CHECK("what is behind it in its stream waits", seen == 0);
    write_by_kernel(word, 4, b);
    MUST(cuStreamSynchronize(a));
    MUST(cuMemcpyDtoH_v2(&seen, word + 4, 4));
    CHECK("and runs then", seen == 9);
    write_by_kernel(word, 6, b);
    MUST(cuStreamSynchronize(b));
    wait_for(word, 5, a);
    MUST(cuStreamSynchronize(a));
    CHECK("a value that has been passed counts as reached", 1);
}

static void rounds(void) {
    CUstream in[4];
    CUdeviceptr counter = word_new();
    unsigned int four = 4, count = 0;
    for (int i = 0; i < 4; i++) in[i] = stream_new();
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 3; i++) MUST(check_launch(meet, in[i], (void *[]){&counter, &four}));
        if (!round) {
            nanosleep(&(struct timespec){0, 5000000}, NULL);
            CHECK("three of four wait", cuStreamQuery(in[0]) == 600);
        }
        MUST(check_launch(meet, in[3], (void *[]){&counter, &four}));
        for (int i = 0; i < 4; i++) MUST(cuStreamSynchronize(in[i]));
    }
    MUST(cuMemcpyDtoH_v2(&count, counter, 4));
    CHECK("ten rounds of four", count == 40);
}

static void cards(CUcontext first) {
    CUcontext second;
    CUstream a = stream_new(), b;
    CUdeviceptr counter = word_new();
    unsigned int two = 2;
    MUST(cuDevicePrimaryCtxRetain(&second, 1));
    MUST(cuCtxSetCurrent(second));
    b = stream_new();
    CUfunction nccl = check_kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL");
    const char *name = "";
    MUST(cuFuncGetName(&name, nccl));
    CHECK("a kernel has the name that it was asked for",
          !strcmp(name, "ncclDevKernel_AllReduce_Sum_f32_RING_LL"));
    MUST(check_launch(nccl, b, (void *[]){&counter, &two}));
    nanosleep(&(struct timespec){0, 5000000}, NULL);
    CHECK("one card waits for the other", cuStreamQuery(b) == 600);
    MUST(cuCtxSetCurrent(first));
    MUST(check_launch(meet, a, (void *[]){&counter, &two}));
    MUST(cuStreamSynchronize(a));
    MUST(cuStreamSynchronize(b));
    CHECK("and both go on", 1);
    MUST(cuDevicePrimaryCtxRelease_v2(1));
}

static void graphs(void) {
    CUstream a = stream_new(), b = stream_new();
    CUdeviceptr word = word_new();
    CUgraph graph;
    CUgraphExec exec;
    MUST(cuStreamBeginCapture_v2(a, CU_STREAM_CAPTURE_MODE_RELAXED));
    wait_for(word, 1, a);
    write_by_kernel(word, 2, a);
    MUST(cuStreamEndCapture(a, &graph));
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cuGraphLaunch(exec, a));
    nanosleep(&(struct timespec){0, 5000000}, NULL);
    CHECK("a graph waits at it", cuStreamQuery(a) == 600);
    write_by_kernel(word, 1, b);
    MUST(cuStreamSynchronize(a));
    unsigned int value = 0;
    MUST(cuMemcpyDtoH_v2(&value, word, 4));
    CHECK("and goes on", value == 2);
}

/* A process that meets this one in memory of this one, or spins for ever. */
static int other(const char *path) {
    CUipcMemHandle handle;
    CUdeviceptr counter;
    unsigned int two = 2;
    FILE *file = fopen(path, "r");
    if (!file) {
        counter = word_new();
        wait_for(counter, 1, NULL);
        puts("spinning");
        fflush(stdout);
        pause();
        return 1;
    }
    if (fread(&handle, sizeof handle, 1, file) != 1) return 1;
    fclose(file);
    MUST(cuIpcOpenMemHandle_v2(&counter, handle, 1));
    MUST(check_launch(meet, NULL, (void *[]){&counter, &two}));
    MUST(cuStreamSynchronize(NULL));
    return 0;
}

static pid_t start(const char *argument, int *from) {
    int ends[2];
    if (pipe(ends)) exit(1);
    pid_t pid = fork();
    if (!pid) {
        dup2(ends[1], 1);
        execl("/proc/self/exe", "sim_spin", argument, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *from = ends[0];
    return pid;
}

static void processes(void) {
    char path[300], text[20] = "";
    int from, status;
    CUdeviceptr counter = word_new();
    CUipcMemHandle handle;
    unsigned int two = 2;
    MUST(cuIpcGetMemHandle(&handle, counter));
    snprintf(path, sizeof path, "%s/handle", getenv("VGPU_SIM_DIR"));
    FILE *file = fopen(path, "w");
    fwrite(&handle, sizeof handle, 1, file);
    fclose(file);
    CUstream a = stream_new();
    MUST(check_launch(meet, a, (void *[]){&counter, &two}));
    pid_t pid = start(path, &from);
    MUST(cuStreamSynchronize(a));
    waitpid(pid, &status, 0);
    CHECK("two processes that take turns on a card meet on it", !status);
    pid = start("for ever", &from);
    CHECK("one spins for ever", read(from, text, sizeof text) > 0);
    double beside = 0;
    for (int tries = 0; tries < 20 && beside <= 18; tries++) { /* it may not be on the card yet */
        double begin = check_now();
        for (int i = 0; i < 10; i++) MUST(check_launch(ms, a, NULL));
        MUST(cuStreamSynchronize(a));
        beside = check_now() - begin;
    }
    CHECK("the card has turns for the others", beside > 18 && beside < 500);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    MUST(check_launch(ms, a, NULL));
    MUST(cuStreamSynchronize(a));
    CHECK("it can be killed", WIFSIGNALED(status));
}

int main(int count, char **words) {
    check_start();
    setenv("VGPU_SIM_GPUS", "2", 1);
    setenv("VGPU_SIM_KERNELS",
           "ms=1000,vgpu_sim_fill=10,ncclDevKernel_AllReduce_Sum_f32_RING_LL=meet", 1);
    CUcontext context = check_context();
    spin = check_kernel("vgpu_sim_spin");
    meet = check_kernel("vgpu_sim_meet");
    fill = check_kernel("vgpu_sim_fill");
    ms = check_kernel("ms");
    if (count > 1) return other(words[1]);
    MUST(nvmlInit_v2());
    streams();
    rounds();
    cards(context);
    graphs();
    processes();
    /* the end of a context is the end of its spinners */
    wait_for(word_new(), 1, NULL);
    MUST(cuDevicePrimaryCtxReset_v2(0));
    CHECK("a context ends with a spinner in it", 1);
    return check_failed;
}
