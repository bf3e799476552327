/* A session that cannot be joined refuses CUDA and NVML; no session leaves both alone. Run by
 * memory_run.sh; the cases set their own environment. */
#include "memory_driver.h"

#include <sys/wait.h>

static void expect(char *self, const char *region, const char *init, const char *name) {
    pid_t child = fork();
    if (child == 0) {
        if (region) setenv("VGPU_REGION", region, 1);
        else unsetenv("VGPU_REGION");
        freopen("/dev/null", "w", stderr); /* the one line that says why */
        execl(self, self, init, (char *)NULL);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    equal((uint64_t)status, 0, name);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        int wanted = atoi(argv[1]);
        return !((int)cuInit(0) == wanted && (int)nvmlInit_v2() == wanted &&
                 (int)nvmlInitWithFlags(0) == wanted);
    }
    char path[] = "/tmp/vgpu-closed-XXXXXX";
    int fd = mkstemp(path);
    expect(argv[0], "/nonexistent/region", "999", "no such region: 999");
    expect(argv[0], path, "999", "an empty file: 999");
    if (ftruncate(fd, sizeof(struct vgpu_region)) != 0) failures++;
    expect(argv[0], path, "999", "a file without our magic: 999");
    struct vgpu_region *region =
        mmap(NULL, sizeof *region, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    region_fill(region, 4 * GiB);
    expect(argv[0], path, "0", "a good one: works");
    region->header.layout_version++;
    expect(argv[0], path, "999", "another layout: 999");
    expect(argv[0], NULL, "0", "no session: the driver's answer");
    unlink(path);
    return failures != 0;
}
