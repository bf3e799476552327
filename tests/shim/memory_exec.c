/* Processes that come and go: exec gives everything back, a killed one too, and what one process
 * holds the next cannot have. Run by memory_run.sh with a limit of 4 GiB. */
#include "memory_driver.h"

#include <signal.h>
#include <sys/wait.h>

static struct vgpu_region *region;

static bool take(uint64_t bytes) {
    CUcontext context;
    CUdeviceptr p;
    return !cuInit(0) && !cuDevicePrimaryCtxRetain(&context, 0) && !cuCtxSetCurrent(context) &&
           (!bytes || !cuMemAlloc_v2(&p, bytes));
}

int main(int argc, char **argv) {
    if (argc > 1) { /* after exec, or a child: takes argv[1] MiB; argv[2]: how it ends */
        if (!take(strtoull(argv[1], NULL, 0) * MiB)) return 7;
        if (argc > 2 && strcmp(argv[2], "exec") == 0)
            execl(argv[0], argv[0], argv[1], (char *)NULL);
        if (argc > 2 && strcmp(argv[2], "kill") == 0) raise(SIGKILL);
        if (argc > 2 && strcmp(argv[2], "_exit") == 0) _exit(0);
        return 0;
    }
    region = session_region();
    const char *ends[] = {"exec", "kill", "_exit", "return"};
    for (int i = 0; i < 40; i++) {
        const char *how = ends[i % 4];
        pid_t child = fork();
        if (child == 0) {
            execl(argv[0], argv[0], "2000", how, (char *)NULL);
            _exit(127);
        }
        int status;
        waitpid(child, &status, 0);
        char line[64];
        snprintf(line, sizeof line, "2,000 of 4,096 MiB, %s", how);
        int wanted = strcmp(how, "kill") == 0 ? SIGKILL : 0;
        check(status == wanted, line, (uint64_t)status, (uint64_t)wanted);
    }
    check(take(3000 * MiB), "nobody left a byte behind", 0, 0);
    equal(charged(region), 518 * MiB + 3000 * MiB, "only ours is charged");

    pid_t child = fork();
    if (child == 0) {
        execl(argv[0], argv[0], "1000", (char *)NULL);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    equal((uint64_t)WEXITSTATUS(status), 7, "a child cannot have what its parent holds");
    return failures != 0;
}
