/* A library that calls itself libcuda.so.1 and wraps the real one, opened by the path in FAKE_REAL:
 * adds 5000 to cuMemAlloc_v2. It must not be sent back to itself. */
#include <dlfcn.h>
#include <stdlib.h>

int cuMemAlloc_v2(void);
int cuMemAlloc_v2(void) {
    void *real = dlsym(dlopen(getenv("FAKE_REAL"), RTLD_NOW), "cuMemAlloc_v2");
    return 5000 + (real ? ((int (*)(void))real)() : 50000);
}
