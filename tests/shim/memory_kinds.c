/* Arrays, modules, streams, stacks, local memory, graphs: charged as NVML lists them, refused with
 * 2, given back. Run by memory_run.sh with a limit of 4 GiB; "unwired": the launch hooks do not yet
 * ask. */
#include "memory_driver.h"

#include <stdlib.h>

#include "../../shim/overhead.h"

#define LIMIT (4 * GiB)

static struct vgpu_region *region;
static CUcontext primary;
static CUstream stream;
static uint64_t base;

static void works(CUresult rc, const char *name) { equal((uint64_t)rc, 0, name); }
static void refused(CUresult rc, const char *name) {
    equal((uint64_t)rc, CUDA_ERROR_OUT_OF_MEMORY, name);
}

/* Holds so many bytes more than at the start, and NVML agrees but for the spare of streams. */
static void holds(uint64_t bytes, const char *name) {
    equal(charged(region), base + bytes, name);
    uint64_t spare = charged(region) % (2 * MiB);
    if (listed() + spare != charged(region))
        equal(listed() + spare, charged(region), "NVML agrees");
}

/* Leaves room for so many bytes. */
static void room(uint64_t bytes) { region->devices[0].mem_limit = charged(region) + bytes; }
static void wide(void) { region->devices[0].mem_limit = LIMIT; }

static void arrays(void) {
    CUDA_ARRAY_DESCRIPTOR flat = {1000, 600, CU_AD_FORMAT_FLOAT, 1};
    CUDA_ARRAY3D_DESCRIPTOR deep = {1000, 700, 30, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0};
    CUarray array, untouched = (CUarray)77, many[200];
    CUmipmappedArray mipmap;
    works(cuArrayCreate_v2(&array, &flat), "1000 x 600 floats");
    holds(4 * MiB, "take 4 MiB");
    works(cuArrayDestroy(array), "destroy");
    holds(0, "gone");
    equal(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE, "twice: the driver's answer");
    holds(0, "and no refund");
    works(cuArray3DCreate_v2(&array, &deep), "1000 x 700 x 30 bytes");
    holds(22 * MiB, "take 22 MiB");
    works(cuArrayDestroy(array), "destroy");
    deep.Flags = CUDA_ARRAY3D_SPARSE;
    works(cuArray3DCreate_v2(&array, &deep), "a sparse one");
    holds(0, "takes nothing");
    works(cuArrayDestroy(array), "destroy");
    flat = (CUDA_ARRAY_DESCRIPTOR){100, 100, CU_AD_FORMAT_UNSIGNED_INT8, 1};
    for (int i = 0; i < 200; i++) cuArrayCreate_v2(&many[i], &flat);
    holds(4 * MiB, "200 small ones: 4 MiB in all");
    for (int i = 0; i < 200; i++) cuArrayDestroy(many[i]);
    holds(0, "all back");
    deep = (CUDA_ARRAY3D_DESCRIPTOR){2048, 2048, 0, CU_AD_FORMAT_FLOAT, 4, 0};
    works(cuMipmappedArrayCreate(&mipmap, &deep, 12), "a mipmap");
    holds(86 * MiB, "takes 86 MiB");
    works(cuMipmappedArrayDestroy(mipmap), "destroy");
    holds(0, "gone");
    room(84 * MiB);
    refused(cuMipmappedArrayCreate((CUmipmappedArray *)&untouched, &deep, 12), "one too large");
    refused(cuArray3DCreate_v2(&untouched, &(CUDA_ARRAY3D_DESCRIPTOR){1 << 20, 1 << 20, 0,
                                                                      CU_AD_FORMAT_FLOAT, 4, 0}),
            "16 TiB");
    check(untouched == (CUarray)77, "output not touched", 0, 0);
    holds(0, "and nothing charged");
    wide();
    CUDA_ARRAY_DESCRIPTOR_v1 old = {100, 100, CU_AD_FORMAT_UNSIGNED_INT8, 1};
    equal(cuArrayCreate(&array, &old), CUDA_ERROR_INVALID_CONTEXT, "v1: the driver's answer");
    holds(0, "without a trace");
}

static const char large[] = ".version 6.0\n.visible .global .align 4 .b8 x[67108864];\n";

static void modules(void) {
    CUmodule module = (CUmodule)77;
    CUlibrary library;
    CUdeviceptr address;
    size_t bytes;
    works(cuModuleLoadData(&module, large), "a module with 64 MiB of variables");
    holds(64 * MiB, "takes them at once");
    works(cuModuleUnload(module), "unload");
    holds(0, "gone");
    room(62 * MiB);
    module = (CUmodule)77;
    refused(cuModuleLoadData(&module, large), "refused where it does not fit");
    refused(cuModuleLoadDataEx(&module, large, 0, NULL, NULL), "by every name");
    refused(cuModuleLoadFatBinary(&module, large), "by every name");
    check(module == (CUmodule)77, "output not touched", 0, 0);
    works(cuLibraryLoadData(&library, large, NULL, NULL, 0, NULL, NULL, 0), "a library");
    holds(0, "takes nothing yet");
    refused(cuLibraryGetGlobal(&address, &bytes, library, "x"), "its use is refused");
    wide();
    works(cuLibraryGetGlobal(&address, &bytes, library, "x"), "used");
    holds(64 * MiB, "takes its variables");
    works(cuLibraryGetModule(&module, library), "used again");
    holds(64 * MiB, "once");
    works(cuLibraryUnload(library), "unload");
    holds(0, "gone");
}

static void stacks(void) {
    uint64_t threads = 2048 * 132;
    works(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 4096), "stacks of 4 KiB");
    holds(3072 * threads, "for every thread of the card");
    refused(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 131072), "of 128 KiB");
    holds(3072 * threads, "nothing moved");
    equal(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1 << 30), CUDA_ERROR_OUT_OF_MEMORY,
          "absurd ones do not fit");
    works(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024), "set back");
    holds(0, "returned");
    refused(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 8 * GiB), "a heap that can never fit");
    works(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 64 * MiB), "one that can");
    works(cuCtxSetLimit(CU_LIMIT_PRINTF_FIFO_SIZE, MiB), "other limits are the driver's");
}

static CUresult launch(unsigned bytes) {
    char name[64];
    CUmodule module;
    CUfunction function;
    snprintf(name, sizeof name, "vgpu_sim_local_%u", bytes);
    if (cuModuleLoadData(&module, "any") || cuModuleGetFunction(&function, module, name))
        return 999;
    return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
}

static CUresult launch_on_each(unsigned bytes) {
    char name[64];
    CUmodule module;
    CUDA_LAUNCH_PARAMS part = {NULL, 1, 1, 1, 1, 1, 1, 0, stream, NULL};
    snprintf(name, sizeof name, "vgpu_sim_local_%u", bytes);
    if (cuModuleLoadData(&module, "any") || cuModuleGetFunction(&part.function, module, name))
        return 999;
    return cuLaunchCooperativeKernelMultiDevice(&part, 1, 0);
}

static void locals(void) {
    uint64_t threads = 2048 * 132;
    works(launch(512), "a kernel with little local memory");
    holds(0, "takes nothing");
    works(launch(3072), "one with more than the default stack");
    holds(2048 * threads, "for every thread of the card");
    works(launch(2048), "one with less");
    holds(2048 * threads, "fits in");
    refused(launch(65536), "one that does not fit");
    refused(launch_on_each(65000), "nor on several devices");
    works(launch_on_each(3000), "one that does, on several devices");
    equal(cuLaunchCooperativeKernelMultiDevice(NULL, 1, 0), CUDA_ERROR_INVALID_VALUE,
          "no list: the driver's answer");
    holds(2048 * threads, "nothing moved");
    works(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 2048), "a stack limit below it");
    holds(2048 * threads, "changes nothing");
    works(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 4096), "above it");
    holds(3072 * threads, "grows");
    works(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024), "back");
    holds(2048 * threads, "to the greediest kernel");
    base = charged(region); /* it stays */
}

static void graphs(void) {
    CUgraph graph;
    CUgraphNode node;
    CUgraphExec exec;
    CUdeviceptr captured;
    CUDA_MEM_ALLOC_NODE_PARAMS params = {
        .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}},
        .bytesize = 100 * MiB};
    works(cuGraphCreate(&graph, 0), "graph");
    works(cuGraphAddMemAllocNode(&node, graph, NULL, 0, &params), "allocation node");
    works(cuGraphInstantiateWithFlags(&exec, graph, 0), "instantiate");
    holds(0, "nothing yet");
    room(100 * MiB);
    refused(cuGraphUpload(exec, stream), "upload refused");
    refused(cuGraphLaunch(exec, stream), "launch refused");
    holds(0, "nothing yet");
    wide();
    works(cuGraphUpload(exec, stream), "upload");
    holds(128 * MiB, "takes whole steps of 32 MiB");
    works(cuGraphLaunch(exec, stream), "launch");
    holds(128 * MiB, "nothing more");
    works(cuMemFree_v2(params.dptr), "freed by hand");
    works(cuGraphExecDestroy(exec), "destroy");
    works(cuGraphDestroy(graph), "destroy");
    holds(128 * MiB, "the device keeps it");
    works(cuDeviceGraphMemTrim(0), "trim");
    holds(0, "given back");

    works(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), "capture");
    works(cuMemAllocAsync(&captured, 10 * MiB, stream), "an allocation");
    works(cuMemFreeAsync(captured, stream), "and its free");
    works(cuStreamEndCapture(stream, &graph), "end");
    works(cuGraphInstantiateWithFlags(&exec, graph, 0), "instantiate");
    works(cuGraphLaunch(exec, stream), "launch");
    works(cuStreamSynchronize(stream), "synchronise");
    holds(32 * MiB, "charged at the launch");
    works(cuGraphLaunch(exec, stream), "again");
    works(cuStreamSynchronize(stream), "synchronise");
    holds(32 * MiB, "no more");
    works(cuGraphExecDestroy(exec), "destroy");
    works(cuGraphDestroy(graph), "destroy");
    works(cuDeviceGraphMemTrim(0), "trim");
    holds(0, "given back");
}

static void large_graph(void) {
    CUgraph graph;
    CUgraphNode node;
    CUgraphExec exec;
    cuGraphCreate(&graph, 0);
    for (int i = 0; i < 20000; i++) cuGraphAddEmptyNode(&node, graph, NULL, 0);
    room(40 * MiB);
    refused(cuGraphInstantiateWithFlags(&exec, graph, 0), "20,000 nodes do not fit into 40 MiB");
    wide();
    works(cuGraphInstantiateWithFlags(&exec, graph, 0), "instantiate");
    holds(44 * MiB, "20,000 nodes: 44 MiB, in whole steps");
    for (int i = 0; i < 3; i++) {
        cuGraphExecDestroy(exec);
        works(cuGraphInstantiateWithFlags(&exec, graph, 0), "instantiate again");
    }
    holds(44 * MiB, "a destroyed graph's memory serves the next one");
    CUgraphExec second;
    works(cuGraphInstantiateWithFlags(&second, graph, 0), "a second one beside it");
    holds(88 * MiB, "two alive at once take twice as much");
    cuGraphExecDestroy(second);
    room(8 * MiB);
    works(cuGraphInstantiateWithFlags(&second, graph, 0), "no room, and none is needed");
    wide();
    cuGraphExecDestroy(second);
    cuGraphExecDestroy(exec);
    cuGraphDestroy(graph);
    base = charged(region); /* stays until the context ends */
}

/* What belongs to a context goes with it. */
static void contexts(void) {
    CUcontext extra;
    CUmodule module;
    CUarray array, small;
    CUstream own;
    works(cuCtxCreate_v2(&extra, 0, 0), "a second context");
    holds(518 * MiB, "charged");
    CUDA_ARRAY_DESCRIPTOR flat = {1000, 600, CU_AD_FORMAT_FLOAT, 1};
    works(cuArrayCreate_v2(&array, &flat), "array");
    flat.Width = 10;
    works(cuArrayCreate_v2(&small, &flat), "small array");
    works(cuModuleLoadData(&module, large), "module");
    works(cuStreamCreate(&own, 0), "stream");
    works(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 2048), "stack limit");
    holds(518 * MiB + 4 * MiB + 2 * MiB + 64 * MiB + VGPU_STREAM_SPARE + 1024 * 2048 * 132,
          "all charged");
    works(cuCtxDestroy_v2(extra), "destroy");
    holds(0, "all gone");
}

int main(int argc, char **argv) {
    bool wired = argc < 2 || strcmp(argv[1], "unwired") != 0;
    region = session_region();
    works(cuInit(0), "cuInit");
    works(cuDevicePrimaryCtxRetain(&primary, 0), "retain");
    works(cuCtxSetCurrent(primary), "set current");
    works(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "stream");
    base = 518 * MiB;
    holds(VGPU_STREAM_SPARE, "a first stream fits into the context");
    base = charged(region);
    arrays();
    modules();
    stacks();
    contexts();
    if (wired) graphs();
    if (wired) locals();
    large_graph();
    works(cuDevicePrimaryCtxReset_v2(0), "reset");
    equal(charged(region), 0, "nothing is left");
    equal(listed(), 0, "nor listed");
    return failures != 0;
}
