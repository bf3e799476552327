/* cuGetProcAddress and the exports, against the rules in facts/cuda.md section 7. */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "sim_check.h"

static void *library;
static int status;

/* Symbol name that an answer stands for, by address; "" = NULL. */
static const char *ask(const char *name, int version, unsigned long long flags) {
    void *pointer = (void *)1;
    Dl_info info;
    CUdriverProcAddressQueryResult result = (CUdriverProcAddressQueryResult)9;
    int rc = (int)cuGetProcAddress_v2(name, &pointer, version, flags, &result);
    status = (int)result;
    if (rc) return "error";
    if (!pointer) return "";
    return dladdr(pointer, &info) && dlsym(library, info.dli_sname) == pointer ? info.dli_sname
                                                                               : "?";
}
#define GIVES(name, version, flags, expected)                                                      \
    CHECK(#name " " #version " " #flags " is " #expected,                                          \
          !strcmp(ask(#name, version, flags), #expected))

int main(void) {
    check_start();
    library = dlopen("libcuda.so.1", RTLD_NOW);
    GIVES(cuMemAlloc, 2000, 0, cuMemAlloc);
    GIVES(cuMemAlloc, 3019, 0, cuMemAlloc);
    GIVES(cuMemAlloc, 3020, 0, cuMemAlloc_v2);
    GIVES(cuMemAlloc, 13000, 2, cuMemAlloc_v2);
    GIVES(cuLaunchKernel, 13000, 0, cuLaunchKernel);
    GIVES(cuLaunchKernel, 13000, 1, cuLaunchKernel);
    GIVES(cuLaunchKernel, 13000, 2, cuLaunchKernel_ptsz);
    GIVES(cuLaunchKernel, 13000, 3, cuLaunchKernel_ptsz);
    GIVES(cuMemcpyHtoD, 12000, 2, cuMemcpyHtoD_v2_ptds);
    GIVES(cuGraphInstantiate, 13000, 0, cuGraphInstantiate_v2);
    GIVES(cuGetProcAddress, 11030, 0, cuGetProcAddress);
    GIVES(cuGetProcAddress, 11999, 0, cuGetProcAddress);
    GIVES(cuGetProcAddress, 12000, 0, cuGetProcAddress_v2);
    GIVES(cuCtxCreate, 12049, 0, cuCtxCreate_v3);
    CHECK("a suffixed name is not found", !*ask("cuMemAlloc_v2", 13000, 0) && status == 1);
    CHECK("export-only names neither", !*ask("cuMemGetAttribute", 13000, 0) && status == 1);
    CHECK("too old is status 2", !*ask("cuLaunchKernel", 3000, 0) && status == 2);
    CHECK("per-thread below 7000 is status 2", !*ask("cuLaunchKernel", 6050, 2) && status == 2);
    void *pointer = (void *)1;
    CHECK("a version above the driver's is 1",
          cuGetProcAddress_v2("cuInit", &pointer, 13010, 0, NULL) == 1 && pointer == (void *)1);
    CHECK("flag 4 is 1", cuGetProcAddress_v2("cuInit", &pointer, 13000, 4, NULL) == 1);
    CHECK("v2 without a status still gives 0",
          cuGetProcAddress_v2("cuNo", &pointer, 13000, 0, NULL) == 0 && !pointer);
    pointer = (void *)1;
    CHECK("v1 gives 500 and writes nothing",
          cuGetProcAddress("cuNo", &pointer, 13000, 0) == 500 && pointer == (void *)1);
    CUresult (*missing)(void) = (CUresult(*)(void))dlsym(library, "cuGLInit");
    CHECK("what is not simulated is 801", missing && missing() == CUDA_ERROR_NOT_SUPPORTED);
    CUuuid id = {.bytes = {0x11}};
    const void *table;
    CHECK("no private tables", cuGetExportTable(&table, &id) == 801);
    const char *text;
    CHECK("error names", !cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text) &&
                             !strcmp(text, "CUDA_ERROR_OUT_OF_MEMORY") &&
                             cuGetErrorName((CUresult)12345, &text) == 1);
    return check_failed;
}
