/* Time from dlopen of the driver to the end of the first driver calls, in microseconds. */
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

#include "../../shim/cuda_abi.h"

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

int main(void) {
    double begin = now_us();
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return fprintf(stderr, "first_call: %s\n", dlerror()), 2;
    typeof(&cuInit) init = (typeof(&cuInit))dlsym(driver, "cuInit");
    double loaded = now_us();
    int result = init(0);
    double ready = now_us();
    printf("{\"load_us\": %.1f, \"init_us\": %.1f, \"result\": %d}\n", loaded - begin,
           ready - loaded, result);
    return result != 0;
}
