/* The programs of the route tests: `client CASE [ARGUMENT]` exits 0, or says on stdout what it got.
 * Numbers: the fake driver's 10000 + index, 100000 more for each passage through the shim. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/interpose.h"

#define SHIM 100000
#define REAL_(symbol) (10000 + VGPU_HOOK_##symbol)
#define HOOKED(symbol) (SHIM + REAL_(symbol))

static int want_(const char *what, long got, long wanted) {
    if (got != wanted) printf("%s: got %ld, wanted %ld; ", what, got, wanted);
    return got != wanted;
}
#define WANT(got, wanted)                                                                          \
    do {                                                                                           \
        if (want_(#got, (long)(got), (long)(wanted))) return 1;                                    \
    } while (0)

static int call(void *function) { return function ? ((int (*)(void))function)() : -1; }
static int call_named(void *handle, const char *name) { return call(dlsym(handle, name)); }
static void *open_(const char *name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }

typedef int (*ask_v1)(const char *, void **, int, uint64_t);
typedef int (*ask_v2)(const char *, void **, int, uint64_t, int *);

static double now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

#ifdef DIRECT /* linked with the driver */
int cuMemAlloc_v2(void);
int cuInit(void);
int nvmlInit_v2(void);
int cuDriverGetVersion(void);

static int direct(const char *argument) {
    (void)argument;
    WANT(cuInit(), HOOKED(cuInit));
    WANT(cuMemAlloc_v2(), HOOKED(cuMemAlloc_v2));
    WANT(nvmlInit_v2(), HOOKED(nvmlInit_v2));
    WANT(cuDriverGetVersion(), 18000);
    WANT(call_named(RTLD_DEFAULT, "cuMemAlloc_v2"), HOOKED(cuMemAlloc_v2));
    WANT(call_named(dlopen(NULL, RTLD_NOW), "cuMemAlloc_v2"), HOOKED(cuMemAlloc_v2));
    return 0;
}

static int direct_value(const char *argument) {
    WANT(cuMemAlloc_v2(), atol(argument));
    return 0;
}

static int constructor(const char *library) {
    int *constructed = dlsym(open_(library), "constructed");
    WANT(*constructed, HOOKED(cuMemFree_v2));
    return 0;
}

static int open_count(const char *argument) {
    int *count = dlsym(RTLD_DEFAULT, "opened_count");
    (void)argument;
    fclose(fopen("/dev/null", "r"));
    int before = *count;
    int (*open_now)(const char *, int, ...) =
        (int (*)(const char *, int, ...))dlsym(RTLD_DEFAULT, "open");
    close(open_now("/dev/null", 0));
    WANT(*count, before + 1);
    return 0;
}
#endif

/* --- dlopen and dlsym ------------------------------------------------------------------------- */

static int by_dlsym(const char *library) {
    void *handle = open_(library);
    WANT(handle != NULL, 1);
    WANT(call_named(handle, "cuInit"), HOOKED(cuInit));
    WANT(call_named(handle, "cuMemAlloc_v2"), HOOKED(cuMemAlloc_v2));
    WANT(call_named(handle, "cuLaunchKernel_ptsz"), HOOKED(cuLaunchKernel_ptsz));
    WANT(call_named(handle, "cuDriverGetVersion"), 18000);
    WANT(dlsym(handle, "cuNoSuchName") == NULL && dlerror() != NULL, 1);
    WANT(dlsym(handle, "cuNoSuchName") == dlsym(handle, "cuMemAlloc_v2"), 0);
    return 0;
}

static int all_by_dlsym(const char *library) {
    static const char *const names[] = {
#define HOOK(symbol, base, version, flavour, need) #symbol,
#define NVML_HOOK(symbol, need)
#include "../../shim/hooks.def"
#undef HOOK
#undef NVML_HOOK
    };
    void *handle = open_(library);
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
        if (!strncmp(names[i], "cuGetProcAddress", 16)) continue;
        int got = call_named(handle, names[i]);
        if (want_(names[i], got, SHIM + 10000 + i)) return 1;
    }
    return 0;
}

static int nvml_by_dlsym(const char *library) {
    void *handle = open_(library);
    WANT(call_named(handle, "nvmlInit_v2"), HOOKED(nvmlInit_v2));
    WANT(call_named(handle, "nvmlDeviceGetMemoryInfo"), HOOKED(nvmlDeviceGetMemoryInfo));
    WANT(call_named(handle, "nvmlSystemGetDriverVersion"), 18000);
    return 0;
}

static int by_dlvsym(const char *library) {
    void *handle = open_(library);
    WANT(call(dlvsym(handle, "cuMemAlloc_v2", "libcuda.so.1")), HOOKED(cuMemAlloc_v2));
    WANT(call(dlvsym(handle, "cuDriverGetVersion", "libcuda.so.1")), 18000);
    return 0;
}

static int from_libc(const char *libc) {
    void *handle = open_(libc);
    void *(*find)(void *, const char *) = (void *(*)(void *, const char *))dlsym(handle, "dlsym");
    void *(*open)(const char *, int) = (void *(*)(const char *, int))dlsym(handle, "dlopen");
    WANT(find != NULL && open != NULL, 1);
    WANT(find == dlsym(RTLD_DEFAULT, "dlsym"), 1);
    WANT(call(find(open("libcuda.so.1", RTLD_NOW), "cuMemAlloc_v2")), HOOKED(cuMemAlloc_v2));
    WANT(dlvsym(handle, "dlsym", "GLIBC_9.9") == NULL && dlerror() != NULL, 1);
    for (const char *const *version = (const char *const[]){"GLIBC_2.2.5", "GLIBC_2.17", NULL};
         *version; version++) {
        void *old = dlvsym(handle, "dlsym", *version);
        if (old) WANT(old == (void *)find, 1);
    }
    WANT(find(handle, "dladdr") == dlsym(RTLD_NEXT, "dladdr"), 1);
    return 0;
}

static int by_dlmopen(const char *library) {
    void *handle = dlmopen(LM_ID_NEWLM, library, RTLD_NOW);
    Lmid_t space = -1;
    WANT(handle != NULL, 1);
    WANT(call_named(handle, "cuMemAlloc_v2"), HOOKED(cuMemAlloc_v2));
    WANT(dlinfo(handle, RTLD_DI_LMID, &space), 0);
    WANT(space, LM_ID_BASE);
    WANT(handle == open_("libcuda.so.1"), 1);
    return 0;
}

static int dlmopen_other(const char *library) {
    void *handle = dlmopen(LM_ID_NEWLM, library, RTLD_NOW | RTLD_DEEPBIND);
    Lmid_t space = LM_ID_BASE;
    WANT(handle != NULL, 1);
    WANT(dlinfo(handle, RTLD_DI_LMID, &space), 0);
    WANT(space != LM_ID_BASE, 1);
    WANT(call_named(handle, "who"), 7);
    return 0;
}

static int deepbind(const char *library) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    WANT(call_named(handle, "plugin_call"), HOOKED(cuMemAlloc_v2));
    return 0;
}

static int deepbind_dlmopen(const char *library) {
    void *handle = dlmopen(LM_ID_BASE, library, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    WANT(call_named(handle, "plugin_call"), HOOKED(cuMemAlloc_v2));
    return 0;
}

static int second_copy(const char *copy) {
    void *first = open_("libcuda.so.1");
    WANT(open_(copy) == first, 1);
    WANT(dlmopen(LM_ID_NEWLM, copy, RTLD_NOW) == first, 1);
    WANT(call_named(open_(copy), "cuMemAlloc_v2"), HOOKED(cuMemAlloc_v2));
    WANT(call_named(open_(copy), "cuDriverGetVersion"), 18000);
    WANT(open_("/no/such/place/libcuda.so.1") == NULL && dlerror() != NULL, 1);
    return 0;
}

static int kept_after_dlclose(const char *library) {
    void *handle = open_(library);
    int (*alloc)(void) = (int (*)(void))dlsym(handle, "cuMemAlloc_v2");
    WANT(alloc(), HOOKED(cuMemAlloc_v2));
    for (int i = 0; i < 5; i++) dlclose(handle);
    WANT(alloc(), HOOKED(cuMemAlloc_v2));
    return 0;
}

static int value(const char *wanted) {
    WANT(call_named(open_("libcuda.so.1"), "cuMemAlloc_v2"), atol(wanted));
    return 0;
}

/* --- What must not change ----------------------------------------------------------------------
 */

static int foreign(const char *library) {
    void *handle = open_(library);
    WANT(call_named(handle, "cuInit"), 42);
    WANT(call_named(handle, "cuMemAlloc_v2"), 43);
    WANT(call_named(handle, "cuFooCreate"), 44);
    WANT(call_named(handle, "nvmlInit_v2"), 45);
    WANT(call_named(open_("libcuda.so.1"), "cuMemAlloc_v2"), HOOKED(cuMemAlloc_v2));
    WANT(call_named(handle, "cuMemAlloc_v2"), 43);
    return 0;
}

static int foreign_first(const char *library) { /* no driver is loaded */
    void *handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    WANT(call_named(handle, "foreign_call"), SHIM + 42); /* by symbol order; ends at home */
    WANT(call_named(handle, "cuInit"), 42);
    return 0;
}

static int no_driver(const char *argument) {
    void *program = dlopen(NULL, RTLD_NOW);
    (void)argument;
    WANT(dlsym(RTLD_DEFAULT, "cuInit") == NULL, 1);
    const char *error = dlerror();
    WANT(error && strstr(error, "cuInit") != NULL, 1);
    WANT(dlerror() == NULL, 1);
    WANT(dlsym(program, "cuMemAlloc_v2") == NULL && dlerror() != NULL, 1);
    WANT(dlsym(RTLD_DEFAULT, "nvmlInit_v2") == NULL && dlerror() != NULL, 1);
    WANT(dlvsym(RTLD_DEFAULT, "cuInit", "X") == NULL && dlerror() != NULL, 1);
    WANT(dlsym(RTLD_DEFAULT, "cuserid") == dlsym(RTLD_NEXT, "cuserid"), 1);
    WANT(dlsym(RTLD_DEFAULT, "dlsym") != NULL, 1);
    WANT(open_("libcuda.so.1") == NULL && dlerror() != NULL, 1);
    return 0;
}

static int no_driver_call(const char *argument) { /* `weak`: linked without the driver */
    extern int cuInit(void) __attribute__((weak));
    extern int cuMemAlloc_v2(void) __attribute__((weak));
    extern int nvmlInit_v2(void) __attribute__((weak));
    (void)argument;
    if (!cuInit || !cuMemAlloc_v2 || !nvmlInit_v2) return printf("weak references unbound; "), 1;
    for (int i = 0; i < 2; i++) {
        WANT(cuInit(), SHIM + 100);
        WANT(cuMemAlloc_v2(), SHIM + 3);
        WANT(nvmlInit_v2(), SHIM + 12);
    }
    return 0;
}

static int old_driver(const char *library) {
    void *handle = open_(library);
    extern int cuLaunchKernelEx(void) __attribute__((weak));
    WANT(dlsym(handle, "cuLaunchKernelEx") == NULL && dlerror() != NULL, 1);
    WANT(dlsym(handle, "cuGetProcAddress_v2") == NULL && dlerror() != NULL, 1);
    WANT(dlsym(RTLD_DEFAULT, "cuLaunchKernelEx") == NULL && dlerror() != NULL, 1);
    WANT(call_named(RTLD_DEFAULT, "cuMemAlloc_v2"), HOOKED(cuMemAlloc_v2));
    if (cuLaunchKernelEx) WANT(cuLaunchKernelEx(), SHIM + 801);
    return 0;
}

static int next_and_local(const char *directory) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/liblocal.so", directory);
    void *local = open_(path);
    WANT(local != NULL, 1);
    void *(*neighbour)(void) = (void *(*)(void))dlsym(local, "open_neighbour");
    void *(*find)(const char *) = (void *(*)(const char *))dlsym(local, "find_local");
    void *(*next)(const char *) = (void *(*)(const char *))dlsym(local, "find_next");
    WANT(call_named(neighbour(), "who"), 7);   /* RUNPATH of the caller */
    WANT(open_("libneighbour.so") != NULL, 1); /* loaded by now: found by name */
    WANT(call(find("only_second")), 22);       /* RTLD_DEFAULT: the caller's own scope */
    WANT(dlsym(RTLD_DEFAULT, "only_second") == NULL, 1);
    for (int i = 0; i < 3; i++) WANT(call(next("who")), 2); /* RTLD_NEXT: after the caller */
    WANT(call(find("who")), 1);
    WANT(dlsym(RTLD_NEXT, "who") == NULL, 1);
    return 0;
}

static void *ask_next(void *argument) {
    for (int i = 0; i < 3; i++)
        if (!dlsym(RTLD_NEXT, "malloc") || !dlsym(RTLD_NEXT, "read")) return argument;
    return NULL;
}

static int next_on_threads(const char *argument) {
    (void)argument;
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        void *failed;
        pthread_create(&thread, NULL, ask_next, (void *)"failed");
        pthread_join(thread, &failed);
        WANT(failed == NULL, 1);
    }
    return 0;
}

static int nothing_noticed(const char *argument) {
    struct sigaction action;
    mode_t mask = umask(022);
    (void)argument;
    WANT(mask, 027);
    for (int i = 1; i < 32; i++) {
        if (i == SIGKILL || i == SIGSTOP) continue;
        sigaction(i, NULL, &action);
        if (action.sa_handler != SIG_DFL) return printf("signal %d is not default; ", i), 1;
    }
    by_dlsym("libcuda.so.1");
    WANT(umask(027), 022);
    int descriptor = dup(1); /* the lowest free one: nothing was left open */
    WANT(descriptor, 3);
    close(descriptor);
    errno = 77;
    void *found = dlsym(open_("libcuda.so.1"), "cuMemAlloc_v2");
    WANT(found && errno == 77, 1);
    return 0;
}

/* --- cuGetProcAddress ---------------------------------------------------------------------------
 */

static int expect_v1(ask_v1 ask, const char *name, int version, uint64_t flags, int wanted) {
    void *function = NULL;
    int result = ask(name, &function, version, flags);
    if (want_(name, result, 0) || want_(name, call(function), wanted)) return 1;
    return 0;
}

static int address_v1(const char *library) {
    ask_v1 ask = (ask_v1)dlsym(open_(library), "cuGetProcAddress"), again = NULL;
    WANT(ask != NULL, 1);
    WANT(expect_v1(ask, "cuMemAlloc", 11030, 0, HOOKED(cuMemAlloc_v2)), 0);
    WANT(expect_v1(ask, "cuMemAlloc", 2000, 0, HOOKED(cuMemAlloc)), 0);
    WANT(expect_v1(ask, "cuLaunchKernel", 11030, 0, HOOKED(cuLaunchKernel)), 0);
    WANT(expect_v1(ask, "cuLaunchKernel", 11030, 2, HOOKED(cuLaunchKernel_ptsz)), 0);
    WANT(expect_v1(ask, "cuMemAlloc", 11030, 2, HOOKED(cuMemAlloc_v2)), 0);
    WANT(expect_v1(ask, "cuDriverGetVersion", 11030, 0, 18000), 0);
    void *untouched = (void *)ask;
    WANT(ask("cuNoSuchName", &untouched, 11030, 0), 500);
    WANT(untouched == (void *)ask, 1);
    WANT(ask("cuMemAlloc", NULL, 11030, 0), 1);
    WANT(ask("cuGetProcAddress", (void **)&again, 11030, 0), 0);
    WANT(again == ask, 1);
    return 0;
}

static int expect_v2(ask_v2 ask, const char *name, int version, uint64_t flags, int wanted) {
    void *function = NULL;
    int status = 55;
    int result = ask(name, &function, version, flags, &status);
    if (want_(name, result, 0) || want_(name, status, 0) || want_(name, call(function), wanted))
        return 1;
    return 0;
}

static int address_v2(const char *library) {
    void *handle = open_(library), *function = NULL;
    ask_v2 ask = (ask_v2)dlsym(handle, "cuGetProcAddress_v2");
    int status = 55;
    WANT(ask != NULL, 1);
    WANT(expect_v2(ask, "cuMemAlloc", 13000, 0, HOOKED(cuMemAlloc_v2)), 0);
    WANT(expect_v2(ask, "cuMemAlloc", 2000, 1, HOOKED(cuMemAlloc)), 0);
    WANT(expect_v2(ask, "cuCtxCreate", 12000, 0, HOOKED(cuCtxCreate_v3)), 0);
    WANT(expect_v2(ask, "cuCtxCreate", 12050, 0, HOOKED(cuCtxCreate_v4)), 0);
    WANT(expect_v2(ask, "cuLaunchKernelEx", 13000, 0, HOOKED(cuLaunchKernelEx)), 0);
    WANT(expect_v2(ask, "cuLaunchKernelEx", 13000, 2, HOOKED(cuLaunchKernelEx_ptsz)), 0);
    WANT(expect_v2(ask, "cuLaunchKernelEx", 13000, 3, HOOKED(cuLaunchKernelEx_ptsz)), 0);
    WANT(expect_v2(ask, "cuMemFreeAsync", 11020, 2, HOOKED(cuMemFreeAsync_ptsz)), 0);
    WANT(expect_v2(ask, "cuDriverGetVersion", 13000, 0, 18000), 0);
    WANT(expect_v2(ask, "cuUnsupported", 13000, 0, REAL_(cuLaunchGrid)), 0);
    WANT(expect_v2(ask, "cuLaunchGrid", 13000, 0, HOOKED(cuLaunchGrid)), 0);
    WANT(ask("cuMemAlloc", &function, 13000, 0, NULL), 0); /* no status wanted */
    WANT(call(function), HOOKED(cuMemAlloc_v2));
    WANT(ask("cuNoSuchName", &function, 13000, 0, &status), 0);
    WANT(function == NULL && status == 1, 1);
    WANT(ask("cuMemAllocAsync", &function, 10000, 0, &status), 0);
    WANT(function == NULL && status == 2, 1);
    WANT(ask("cuMemAlloc", &function, 13000, 4, &status), 1);
    WANT(ask("cuMemAlloc", NULL, 13000, 0, &status), 1);
    WANT(ask("cuGetProcAddress", &function, 12000, 0, &status), 0);
    WANT(function == (void *)ask, 1);
    WANT(ask("cuGetProcAddress", &function, 11030, 0, &status), 0);
    WANT(function == dlsym(handle, "cuGetProcAddress") && function != (void *)ask, 1);
    return 0;
}

static int unknown_names(const char *library) {
    void *handle = open_(library);
    ask_v2 ask = (ask_v2)dlsym(handle, "cuGetProcAddress_v2");
    WANT(call_named(handle, "cuDriverGetVersion"), 18000);
    WANT(getenv("ROUTE_EVENT") == NULL, 1);
    WANT(expect_v2(ask, "cuMemAllocFuture", 13000, 0, 18001), 0);
    WANT(strcmp(getenv("ROUTE_EVENT"), "1 1 cuMemAllocFuture"), 0);
    WANT(call_named(handle, "cuMemAllocFuture"), 18001);
    WANT(strcmp(getenv("ROUTE_EVENT"), "1 1 cuMemAllocFuture"), 0);
    WANT(expect_v2(ask, "cuCtxCreate", 99000, 0, 18002), 0);
    WANT(strcmp(getenv("ROUTE_EVENT"), "2 3 cuCtxCreate"), 0);
    WANT(expect_v2(ask, "cuMemAlloc", 13000, 0, HOOKED(cuMemAlloc_v2)), 0);
    WANT(strcmp(getenv("ROUTE_EVENT"), "2 3 cuCtxCreate"), 0);
    return 0;
}

/* The machine's own driver: each hook it has must come out of dlsym and of cuGetProcAddress, asked
 * with the version and flavour of hooks.def, as the shim's. Nothing is called but these. */
static int real_driver(const char *library) {
    static const struct {
        const char *symbol, *base;
        int version;
        const char *flavour;
    } hooks[] = {
#define HOOK(symbol, base, version, flavour, need) {#symbol, #base, version, #flavour},
#define NVML_HOOK(symbol, need)
#include "../../shim/hooks.def"
#undef HOOK
#undef NVML_HOOK
    };
    enum { COUNT = (int)(sizeof hooks / sizeof *hooks) };
    double from = now_us();
    void *handle = open_(library);
    double opened = now_us();
    if (!handle) return printf("# skipped: no driver here\n"), 0;
    ask_v2 ask = (ask_v2)dlsym(handle, "cuGetProcAddress_v2");
    double found = now_us();
    ask_v1 old = (ask_v1)dlsym(handle, "cuGetProcAddress");
    int lacking = 0, failed = 0, asked = 0;
    for (int i = 0; i < COUNT; i++) {
        void *by_name = dlsym(handle, hooks[i].symbol), *function = NULL;
        Dl_info info;
        if (!by_name) {
            printf("# the driver has no %s\n", hooks[i].symbol);
            lacking++;
            continue;
        }
        if (!dladdr(by_name, &info) || !strstr(info.dli_fname, "shim")) {
            printf("dlsym %s is not the shim's; ", hooks[i].symbol);
            failed = 1;
        }
        uint64_t flags = strcmp(hooks[i].flavour, "plain") ? 2 : 0;
        if (ask &&
            (ask(hooks[i].base, &function, hooks[i].version, flags, NULL) || function != by_name)) {
            dladdr(function, &info);
            printf("v2 %s %d gives %s of %s; ", hooks[i].symbol, hooks[i].version, info.dli_sname,
                   info.dli_fname);
            failed = 1;
        }
        function = NULL;
        if (old(hooks[i].base, &function, hooks[i].version, flags) || function != by_name) {
            printf("v1 %s %d; ", hooks[i].symbol, hooks[i].version);
            failed = 1;
        }
        asked++;
    }
    printf("# real driver: opened in %.0f us, found in %.1f us; %d hooks by name, v1 and v2 in "
           "%.1f us,"
           " %d not in it\n",
           opened - from, found - opened, asked, now_us() - found, lacking);
    return failed;
}

/* --- Processes and threads -----------------------------------------------------------------------
 */

static int wait_for(pid_t child) {
    int status = 1;
    waitpid(child, &status, 0);
    return status;
}

static int after_fork(const char *library) {
    for (int i = 0; i < 2; i++) { /* a child before and after the first call */
        pid_t child = fork();
        if (child == 0) {
            int failed = by_dlsym(library);
            fflush(stdout);
            _exit(failed);
        }
        WANT(wait_for(child), 0);
        WANT(by_dlsym(library), 0);
    }
    return 0;
}

static int after_vfork(const char *library) {
    pid_t child = vfork();
    if (child == 0) {
        execl("/proc/self/exe", "client", "dlsym", library, (char *)NULL);
        _exit(1);
    }
    WANT(wait_for(child), 0);
    return 0;
}

static int through_shell(const char *library) {
    char command[600];
    ssize_t length = readlink("/proc/self/exe", command, 500);
    (void)snprintf(command + length, sizeof command - (size_t)length, " dlsym %s", library);
    WANT(system(command), 0);
    return 0;
}

static pthread_barrier_t start;
static void *ask_everything(void *argument) {
    pthread_barrier_wait(&start);
    void *handle = open_(argument);
    if (by_dlsym(argument) || address_v2(argument)) return handle ? handle : &start;
    if (call_named(RTLD_DEFAULT, "cuMemFree_v2") != HOOKED(cuMemFree_v2)) return handle;
    return NULL;
}

static int threads(const char *library) {
    enum { COUNT = 8 };
    pthread_t thread[COUNT];
    pthread_barrier_init(&start, NULL, COUNT);
    for (int i = 0; i < COUNT; i++)
        pthread_create(&thread[i], NULL, ask_everything, (void *)(uintptr_t)library);
    for (int i = 0; i < COUNT; i++) {
        void *failed;
        pthread_join(thread[i], &failed);
        WANT(failed == NULL, 1);
    }
    return 0;
}

/* --- Cost: printed, not judged
 * ------------------------------------------------------------------------------------------ */

static int first_call_cost(const char *library) {
    void *handle = open_(library);
    double from = now_us();
    ask_v2 ask = (ask_v2)dlsym(handle, "cuGetProcAddress_v2");
    double found = now_us();
    void *function;
    for (int i = 0; i < 440; i++)
        ask(i % 8 ? "cuDriverGetVersion" : "cuMemAlloc", &function, 13000, 0, NULL);
    double asked = now_us();
    fprintf(stderr, "# driver found and all hooks resolved in %.1f us, 440 asks in %.1f us\n",
            found - from, asked - found);
    return 0;
}

static double spawn_us(const char *preload) {
    char variable[600];
    char *words[] = {(char *)(uintptr_t) "true", NULL}, *environment[] = {variable, NULL};
    pid_t child;
    (void)snprintf(variable, sizeof variable, "%s%s",
                   preload ? "LD_PRELOAD=" : "NONE=", preload ? preload : "");
    double from = now_us();
    if (posix_spawn(&child, "/bin/true", NULL, NULL, words, environment)) return 1e9;
    return wait_for(child) ? 1e9 : now_us() - from;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What a process that knows nothing of CUDA pays; this program itself runs without the shim. */
static int spawn_cost(const char *shim) {
    enum { COUNT = 600 };
    static double without[COUNT], with[COUNT];
    for (int i = 0; i < COUNT; i++) {
        without[i] = spawn_us(NULL);
        with[i] = spawn_us(shim);
    }
    qsort(without, COUNT, sizeof *without, by_size);
    qsort(with, COUNT, sizeof *with, by_size);
    double added = with[COUNT / 2] - without[COUNT / 2];
    fprintf(stderr, "# true: %.0f us, with the shim %.0f us more (medians of %d)\n",
            without[COUNT / 2], added, COUNT);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(const char *);
} cases[] = {
#ifdef DIRECT
    {"direct", direct},
    {"direct_value", direct_value},
    {"open_count", open_count},
    {"constructor", constructor},
#endif
    {"dlsym", by_dlsym},
    {"all", all_by_dlsym},
    {"nvml", nvml_by_dlsym},
    {"dlvsym", by_dlvsym},
    {"libc", from_libc},
    {"dlmopen", by_dlmopen},
    {"dlmopen_other", dlmopen_other},
    {"deepbind", deepbind},
    {"deepbind_dlmopen", deepbind_dlmopen},
    {"second_copy", second_copy},
    {"kept", kept_after_dlclose},
    {"value", value},
    {"foreign", foreign},
    {"foreign_first", foreign_first},
    {"no_driver", no_driver},
    {"no_driver_call", no_driver_call},
    {"old_driver", old_driver},
    {"next", next_and_local},
    {"next_on_threads", next_on_threads},
    {"nothing_noticed", nothing_noticed},
    {"address_v1", address_v1},
    {"address_v2", address_v2},
    {"unknown", unknown_names},
    {"fork", after_fork},
    {"vfork", after_vfork},
    {"shell", through_shell},
    {"threads", threads},
    {"cost", first_call_cost},
    {"spawn_cost", spawn_cost},
    {"real_driver", real_driver},
};

int main(int count, char **words) {
    if (count < 2) return 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(cases[i].name, words[1])) return cases[i].run(count > 2 ? words[2] : "");
    printf("no case %s; ", words[1]);
    return 2;
}
