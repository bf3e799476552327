/* What the driver takes for things whose size it keeps to itself, without vgpu: bytes by NVML for a
 * number of equal arrays, mipmaps, modules, streams, graphs; beside it what a deferred twin says.
 * These are the measurements behind shim/arrays.c, modules.c and overhead.c. cc -std=gnu11 -O2
 * memory_sizes.c -o memory_sizes -l:libcuda.so.1 -ldl && ./memory_sizes */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../shim/cuda_abi.h"
#include "../../shim/nvml_abi.h"

static nvmlDevice_t card;
static typeof(&nvmlDeviceGetComputeRunningProcesses_v3) list_processes;

static long long listed(void) {
    nvmlProcessInfo_t list[64];
    unsigned count = 64;
    if (list_processes(card, &count, list)) return -1;
    for (unsigned i = 0; i < count; i++)
        if (list[i].pid == (unsigned)getpid()) return (long long)list[i].usedGpuMemory;
    return 0;
}

static void arrays(size_t width, size_t height, size_t depth, CUarray_format format,
                   unsigned channels, unsigned levels, int count) {
    CUDA_ARRAY3D_DESCRIPTOR shape = {width, height, depth, format, channels, 0}, twin = shape;
    CUDA_ARRAY_MEMORY_REQUIREMENTS needs = {0};
    void **made = calloc((size_t)count, sizeof *made), *deferred = NULL;
    CUresult asked = 0, rc = 0;
    twin.Flags = CUDA_ARRAY3D_DEFERRED_MAPPING;
    if (levels) {
        asked = cuMipmappedArrayCreate((CUmipmappedArray *)&deferred, &twin, levels);
        if (!asked) asked = cuMipmappedArrayGetMemoryRequirements(&needs, deferred, 0);
        if (deferred) cuMipmappedArrayDestroy(deferred);
    } else {
        asked = cuArray3DCreate_v2((CUarray *)&deferred, &twin);
        if (!asked) asked = cuArrayGetMemoryRequirements(&needs, deferred, 0);
        if (deferred) cuArrayDestroy(deferred);
    }
    long long before = listed();
    int n = 0;
    for (; n < count && !rc; n++)
        rc = levels ? cuMipmappedArrayCreate((CUmipmappedArray *)&made[n], &shape, levels)
                    : cuArray3DCreate_v2((CUarray *)&made[n], &shape);
    long long full = listed();
    while (n--) {
        if (!made[n]) continue;
        if (levels) cuMipmappedArrayDestroy(made[n]);
        else cuArrayDestroy(made[n]);
    }
    printf("array %zux%zux%zu format %d x%u levels %u: %d take %lld KiB, one %lld B; twin: code "
           "%d, %zu B aligned %zu; "
           "left %lld\n",
           width, height, depth, format, channels, levels, count, (full - before) >> 10,
           (full - before) / count, asked, needs.size, needs.alignment, listed() - before);
    free(made);
}

static void modules(unsigned long bytes, int count, int library) {
    char image[256];
    void *made[512] = {0};
    long long before = listed();
    CUresult rc = 0;
    snprintf(
        image, sizeof image,
        ".version 6.0\n.target sm_50\n.address_size 64\n.visible .global .align 4 .b8 x[%lu];\n",
        bytes);
    for (int i = 0; i < count && !rc; i++)
        rc = library ? cuLibraryLoadData((CUlibrary *)&made[i], image, 0, 0, 0, 0, 0, 0)
                     : cuModuleLoadData((CUmodule *)&made[i], image);
    long long loaded = listed();
    for (int i = 0; i < count && library && !rc; i++) {
        CUdeviceptr at;
        size_t size;
        rc = cuLibraryGetGlobal(&at, &size, (CUlibrary)made[i], "x");
    }
    long long used = listed();
    for (int i = 0; i < count; i++) {
        if (!made[i]) continue;
        if (library) cuLibraryUnload((CUlibrary)made[i]);
        else cuModuleUnload((CUmodule)made[i]);
    }
    printf("%s with %lu bytes of globals: code %d, %d take %lld KiB at load, %lld KiB when used; "
           "left %lld KiB\n",
           library ? "library" : "module", bytes, (int)rc, count, (loaded - before) >> 10,
           (used - before) >> 10, (listed() - before) >> 10);
}

static void streams(int count) {
    static CUstream made[1024];
    long long before = listed();
    printf("streams:");
    for (int i = 0; i < count; i++) {
        cuStreamCreate(&made[i], CU_STREAM_NON_BLOCKING);
        if ((i & (i + 1)) == 0) printf(" %d: %lld KiB", i + 1, (listed() - before) >> 10);
    }
    long long full = listed();
    for (int i = 0; i < count; i++) cuStreamDestroy_v2(made[i]);
    long long gone = listed();
    for (int i = 0; i < count; i++) cuStreamCreate(&made[i], CU_STREAM_NON_BLOCKING);
    printf("; destroyed: %lld KiB; made again: %lld KiB\n", (gone - full) >> 10,
           (listed() - full) >> 10);
    for (int i = 0; i < count; i++) cuStreamDestroy_v2(made[i]);
}

static void graphs(size_t bytes, int count) {
    CUgraph graph;
    CUgraphNode node;
    CUgraphExec exec[64];
    CUDA_MEM_ALLOC_NODE_PARAMS params[64];
    cuuint64_t reserved, used;
    long long before = listed();
    for (int i = 0; i < count; i++) {
        params[i] = (CUDA_MEM_ALLOC_NODE_PARAMS){
            .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                          .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}},
            .bytesize = bytes};
        cuGraphCreate(&graph, 0);
        cuGraphAddMemAllocNode(&node, graph, NULL, 0, &params[i]);
        cuGraphInstantiateWithFlags(&exec[i], graph, 0);
        cuGraphDestroy(graph);
    }
    long long instantiated = listed();
    for (int i = 0; i < count; i++) cuGraphLaunch(exec[i], NULL);
    cuCtxSynchronize();
    long long launched = listed();
    cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved);
    cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used);
    printf("%d graphs of %zu bytes: %lld KiB instantiated, %lld KiB launched, reserved %llu KiB, "
           "used %llu KiB",
           count, bytes, (instantiated - before) >> 10, (launched - before) >> 10,
           (unsigned long long)reserved >> 10, (unsigned long long)used >> 10);
    for (int i = 0; i < count; i++) cuMemFree_v2(params[i].dptr), cuGraphExecDestroy(exec[i]);
    cuDeviceGraphMemTrim(0);
    printf("; after free and trim %lld KiB\n", (listed() - before) >> 10);
}

static void locals(void) {
    static const char image[] =
        ".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry k(.param .u64 p, .param "
        ".u64 q) {\n"
        ".local .align 16 .b8 room[8192];\n.reg .b64 %a, %b, %c;\n.reg .b32 %x;\n.reg .pred %q;\n"
        "ld.param.u64 %a, [p];\nmov.u64 %b, room;\nadd.u64 %b, %b, %a;\nst.local.u32 [%b], 1;\n"
        "ld.param.u64 %b, [q];\nmov.u64 %c, room;\nadd.u64 %b, %b, %c;\nld.local.u32 %x, "
        "[%b];\nsetp.eq.u32 %q, %x, 12345;\n@%q st.global.u32 [%a], %x;\nret;\n}\n";
    unsigned long long zero = 0;
    void *params[] = {&zero, &zero};
    CUlibrary library;
    CUkernel kernel;
    CUfunction function;
    int by_function = -1, by_kernel = -1, cast = -1;
    long long before = listed();
    if (cuLibraryLoadData(&library, image, 0, 0, 0, 0, 0, 0) ||
        cuLibraryGetKernel(&kernel, library, "k"))
        return;
    CUresult cast_rc =
        cuFuncGetAttribute(&cast, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, (CUfunction)kernel);
    CUresult kernel_rc =
        cuKernelGetAttribute(&by_kernel, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, kernel, 0);
    long long asked = listed();
    cuKernelGetFunction(&function, kernel);
    CUresult function_rc =
        cuFuncGetAttribute(&by_function, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, function);
    long long got = listed();
    CUresult rc = cuLaunchKernel((CUfunction)kernel, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL);
    cuCtxSynchronize();
    printf("kernel with 8192 B of locals: attribute %d (code %d), of a CUkernel as CUfunction %d "
           "(code %d), of the CUfunction %d "
           "(code %d); asking took %lld KiB, getting %lld KiB, launch (code %d) %lld KiB",
           by_kernel, (int)kernel_rc, cast, (int)cast_rc, by_function, (int)function_rc,
           (asked - before) >> 10, (got - before) >> 10, (int)rc, (listed() - before) >> 10);
    cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 4096);
    printf("; stack 4096: %lld KiB", (listed() - before) >> 10);
    cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 16384);
    printf("; stack 16384: %lld KiB", (listed() - before) >> 10);
    cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024);
    printf("; stack 1024: %lld KiB", (listed() - before) >> 10);
    cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 512);
    printf("; stack 512: %lld KiB\n", (listed() - before) >> 10);
}

int main(void) {
    CUcontext context;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!library) return 2;
    typeof(&nvmlInit_v2) init = (typeof(&nvmlInit_v2))dlsym(library, "nvmlInit_v2");
    typeof(&nvmlDeviceGetHandleByIndex_v2) by_index =
        (typeof(&nvmlDeviceGetHandleByIndex_v2))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    list_processes = (typeof(&nvmlDeviceGetComputeRunningProcesses_v3))dlsym(
        library, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (init() || by_index(0, &card) || cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) ||
        cuCtxSetCurrent(context))
        return 3;
    printf("context: %lld KiB\n", listed() >> 10);
    arrays(100, 100, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0, 4000);
    arrays(16, 0, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0, 8000);
    arrays(16, 16, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0, 8000);
    arrays(64, 64, 0, CU_AD_FORMAT_FLOAT, 1, 0, 2000);
    arrays(100, 120, 30, CU_AD_FORMAT_FLOAT, 1, 0, 50);
    arrays(200, 200, 0, CU_AD_FORMAT_FLOAT, 1, 0, 400);
    arrays(300, 300, 0, CU_AD_FORMAT_FLOAT, 1, 0, 200);
    arrays(400, 400, 0, CU_AD_FORMAT_FLOAT, 1, 0, 100);
    arrays(500, 500, 0, CU_AD_FORMAT_FLOAT, 1, 0, 50);
    arrays(500, 520, 0, CU_AD_FORMAT_FLOAT, 1, 0, 50);
    arrays(520, 520, 0, CU_AD_FORMAT_FLOAT, 1, 0, 50);
    arrays(500, 700, 0, CU_AD_FORMAT_FLOAT, 1, 0, 50);
    arrays(1000, 600, 0, CU_AD_FORMAT_FLOAT, 1, 0, 20);
    arrays(1000, 700, 30, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0, 10);
    arrays(1000, 700, 33, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0, 10);
    arrays(1025, 1025, 0, CU_AD_FORMAT_FLOAT, 4, 0, 10);
    arrays(3000, 3000, 0, CU_AD_FORMAT_HALF, 2, 0, 10);
    arrays(100000, 0, 0, CU_AD_FORMAT_FLOAT, 4, 0, 10);
    arrays(33, 33, 33, CU_AD_FORMAT_FLOAT, 4, 0, 50);
    arrays(256, 256, 0, CU_AD_FORMAT_FLOAT, 4, 8, 50);
    arrays(128, 128, 0, CU_AD_FORMAT_UNSIGNED_INT8, 4, 8, 200);
    arrays(2048, 2048, 0, CU_AD_FORMAT_FLOAT, 4, 12, 4);
    modules(16, 64, 0);
    modules(65536, 64, 0);
    modules(1048576, 16, 0);
    modules(1500000, 16, 0);
    modules(2097152, 16, 0);
    modules(3000000, 16, 0);
    modules(2097152, 16, 1);
    streams(256);
    graphs(2097152, 16);
    graphs(1048576, 16);
    graphs(100 << 20, 2);
    locals();
    return 0;
}
