/* Another preload: counts open() and adds 1000000 to cuMemAlloc_v2, each through the next
 * definition. BY_HANDLE  finds the driver's function by dlopen and dlsym instead, as some profilers
 * do Its constructor asks dlsym before anything else has run. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>

int opened_count;
static int (*next_open)(const char *, int, ...);

__attribute__((constructor)) static void find_next(void) {
    next_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (!next_open || dlsym(RTLD_NEXT, "opened_count") || !dlerror()) abort();
}

int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t mode = va_arg(list, mode_t);
    va_end(list);
    opened_count++;
    return next_open(path, flags, mode);
}

int cuMemAlloc_v2(void);
int cuMemAlloc_v2(void) {
#ifdef BY_HANDLE
    void *next = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemAlloc_v2");
#else
    void *next = dlsym(RTLD_NEXT, "cuMemAlloc_v2");
#endif
    return 1000000 + (next ? ((int (*)(void))next)() : 5000000);
}
