/* Turns of several processes: what a hand-over costs, and the stand-in for MPS, under which they
 * run at the same time and fall together. */
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "sim_check.h"

static char control[PATH_MAX + 40];

/* This program in another role; what it prints first is waited for. */
static pid_t start(const char *role, const char *argument) {
    int ends[2];
    char first;
    if (pipe(ends)) exit(1);
    pid_t pid = fork();
    if (!pid) {
        dup2(ends[1], 3);
        execl("/proc/self/exe", "sim_mps", role, argument, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    if (read(ends[0], &first, 1) < 0) exit(1);
    close(ends[0]);
    return pid;
}
static void ready(void) {
    if (write(3, "r", 1) < 0) exit(1);
    close(3);
}
static int finish(pid_t pid) {
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
static int result_of(const char *role) { return finish(start(role, "")); }

/* Commands for the daemon; what it answered. */
static const char *command(const char *words) {
    static char text[2000];
    char line[PATH_MAX + 200];
    snprintf(line, sizeof line, "echo %s | %s 2>&1", words, control);
    FILE *pipe = popen(line, "r");
    size_t length = pipe ? fread(text, 1, sizeof text - 1, pipe) : 0;
    text[length] = 0;
    if (pipe) pclose(pipe);
    return text;
}

static CUstream partition(unsigned int first) {
    CUdevResource all, groups[15];
    CUdevResourceDesc desc;
    CUgreenCtx green;
    CUstream stream;
    unsigned int count = 15;
    MUST(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
    MUST(cuDevSmResourceSplitByCount(groups, &count, &all, NULL, 0, 8));
    MUST(cuDevResourceGenerateDesc(&desc, groups + first, 7));
    MUST(cuGreenCtxCreate(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
    MUST(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
    return stream;
}

/* Device time of a kernel of 1 ms; of a drained card, with what the card needs to begin. */
static float takes(CUstream stream, int drained) {
    CUevent from, to;
    CUfunction ms = check_kernel("ms");
    float took;
    MUST(cuEventCreate(&from, 0));
    MUST(cuEventCreate(&to, 0));
    if (!drained) MUST(check_launch(ms, stream, NULL));
    MUST(cuEventRecord(from, stream));
    MUST(check_launch(ms, stream, NULL));
    MUST(cuEventRecord(to, stream));
    MUST(cuEventSynchronize(to));
    MUST(cuEventElapsedTime_v2(&took, from, to));
    return took;
}

/* --- roles --- */

static int pulse(void) {
    check_context();
    takes(NULL, 1);
    ready();
    pause();
    return 0;
}
static int burn(const char *first) {
    check_context();
    CUstream stream = partition((unsigned int)atoi(first));
    CUfunction ms = check_kernel("ms");
    for (int i = 0; i < 1000; i++) MUST(check_launch(ms, stream, NULL));
    ready();
    pause();
    return 0;
}
static int fault(void) {
    check_context();
    MUST(check_launch(check_kernel("vgpu_sim_fault"), NULL, NULL));
    return cuCtxSynchronize() == 700 && cuMemAlloc_v2(&(CUdeviceptr){0}, 1) == 700 ? 0 : 1;
}
static int init(void) { return (int)cuInit(0) & 0xff; }
static int attribute(void) {
    int value = 9;
    MUST(cuInit(0));
    MUST(cuDeviceGetAttribute(&value, 133, 0));
    return value;
}
static int wait_for_end(void) {
    check_context();
    ready();
    pause();
    return 0;
}

/* The least time of five rounds, after another process has had the card. */
static float hand_over(void) {
    float least = 1e9f;
    for (int i = 0; i < 5; i++) {
        pid_t pid = start("pulse", "");
        float took = takes(NULL, 1);
        if (took < least) least = took;
        kill(pid, SIGKILL);
        finish(pid);
    }
    return least;
}
static float without_hand_over(void) {
    float least = 1e9f;
    for (int i = 0; i < 5; i++) {
        float took = takes(NULL, 1);
        if (took < least) least = took;
    }
    return least;
}

/* Costs are set so high that a late host changes nothing: 40 ms, under MPS 20. */
static int plain(void) {
    check_context();
    CUstream stream = partition(7);
    int value = 9;
    MUST(cuDeviceGetAttribute(&value, 133, 0));
    CHECK("without a daemon there is no MPS", value == 0);
    takes(NULL, 1);
    float same = without_hand_over(), other = hand_over();
    printf("# again %.3f ms, after another process %.3f ms\n", (double)same, (double)other);
    CHECK("the card's change of process costs VGPU_SIM_SWITCH_US", other >= 41 && same < 41);
    pid_t pid = start("burn", "0");
    CHECK("processes take turns, also on SMs of their own", takes(stream, 0) > 40);
    kill(pid, SIGKILL);
    finish(pid);
    CHECK("a fault is the faulty process's own", result_of("fault") == 0 && !cuCtxSynchronize());
    return check_failed;
}

static int client(void) {
    char expected[20];
    int value = 0;
    check_context();
    CUstream stream = partition(7);
    MUST(cuDeviceGetAttribute(&value, 133, 0));
    CHECK("a process is a client", value == 1);
    snprintf(expected, sizeof expected, "%d\n", (int)getpid());
    CHECK("the daemon knows it", !strcmp(command("get_client_list"), expected) &&
                                     strstr(command("ps"), strtok(expected, "\n")));
    CHECK("now it has a server", atoi(command("get_server_list")) > 0);
    takes(NULL, 1);
    float same = without_hand_over(), other = hand_over();
    printf("# again %.3f ms, after another client %.3f ms\n", (double)same, (double)other);
    CHECK("between clients a hand-over costs VGPU_SIM_MPS_SWITCH_US",
          other >= 21 && other < 41 && same < 21);
    pid_t pid = start("burn", "0");
    float beside = takes(stream, 0);
    CHECK("on other SMs a neighbour is not felt", beside > 2.357f && beside < 2.358f);
    kill(pid, SIGKILL);
    finish(pid);
    pid = start("burn", "7");
    float shared = takes(stream, 0);
    CHECK("on the same SMs it takes half", shared > 4.714f && shared < 4.716f);
    kill(pid, SIGKILL);
    finish(pid);
    takes(stream, 0); /* its end is noticed within 5 ms */
    CHECK("a client's death is not a fault", takes(stream, 0) < 2.358f);
    CHECK("a client's fault", result_of("fault") == 0);
    CHECK("ends the others: 810", cuStreamSynchronize(stream) == 810 &&
                                      check_launch(NULL, stream, NULL) == 810 &&
                                      cuMemAlloc_v2(&(CUdeviceptr){0}, 1) == 810);
    CHECK("until they are gone, nobody is let in: 807", result_of("init") == (807 & 0xff));
    return check_failed;
}

static void daemon_life(void) {
    char path[200], lock[300], line[PATH_MAX + 100];
    struct stat info;
    snprintf(path, sizeof path, "%s/mps", getenv("VGPU_SIM_DIR"));
    setenv("CUDA_MPS_PIPE_DIRECTORY", path, 1);
    CHECK("commands without a daemon", strstr(command("ps"), "Cannot find MPS control daemon"));
    CHECK("no daemon: as without MPS", result_of("plain") == 0);
    snprintf(line, sizeof line, "%s -d", control);
    CHECK("it starts", system(line) == 0);
    snprintf(lock, sizeof lock, "%s/control", path);
    CHECK("with its socket", !stat(lock, &info) && S_ISSOCK(info.st_mode));
    CHECK("once", system(line) != 0);
    CHECK("it answers", !strcmp(command("get_default_active_thread_percentage"), "100.0\n") &&
                            !strcmp(command("get_server_list"), "") &&
                            strstr(command("nonsense"), "Unknown command"));
    CHECK("clients", result_of("client") == 0);
    CHECK("when the faulty are gone it takes new ones", result_of("attribute") == 1);
    pid_t pid = start("wait", "");
    command("quit");
    CHECK("after quit there is none for new processes", result_of("attribute") == 0);
    CHECK("but it waits for its clients", !stat(lock, &info));
    kill(pid, SIGKILL);
    finish(pid);
    for (int i = 0; i < 1000 && !stat(lock, &info); i++)
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    CHECK("and ends with the last", stat(lock, &info));
    CHECK("it can be started again", system(line) == 0);
    snprintf(lock, sizeof lock, "%s/nvidia-cuda-mps-control.pid", path);
    FILE *file = fopen(lock, "r");
    int daemon = 0;
    if (!file || fscanf(file, "%d", &daemon) != 1) exit(1);
    fclose(file);
    kill(daemon, SIGKILL);
    for (int i = 0; i < 1000 && result_of("attribute"); i++)
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    CHECK("what a killed one leaves behind misleads nobody",
          !stat(lock, &info) && result_of("attribute") == 0 && system(line) == 0);
    command("quit -t 0");
    snprintf(lock, sizeof lock, "%s/control", path);
    for (int i = 0; i < 1000 && !stat(lock, &info); i++)
        nanosleep(&(struct timespec){0, 5000000}, NULL);
}

int main(int count, char **words) {
    ssize_t length = readlink("/proc/self/exe", control, PATH_MAX - 1);
    if (length < 0) return 1;
    strcpy(dirname(control) + strlen(control), "/nvidia-cuda-mps-control");
    check_start();
    setenv("VGPU_SIM_KERNELS", "ms=1000,vgpu_sim_fault=10", 1);
    setenv("VGPU_SIM_SWITCH_US", "40000", 1);
    setenv("VGPU_SIM_MPS_SWITCH_US", "20000", 1);
    if (count > 2) {
        const char *role = words[1];
        if (!strcmp(role, "pulse")) return pulse();
        if (!strcmp(role, "burn")) return burn(words[2]);
        if (!strcmp(role, "fault")) return fault();
        if (!strcmp(role, "init")) return init();
        if (!strcmp(role, "attribute")) return attribute();
        if (!strcmp(role, "wait")) return wait_for_end();
        if (!strcmp(role, "plain")) return plain();
        return client();
    }
    daemon_life();
    return check_failed;
}
