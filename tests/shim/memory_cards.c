/* Two cards, each with its own account: what is freed or launched is laid to the card that it is
 * on, whatever context is current. Run by memory_run.sh with a limit of 4 GiB for each card. */
#include "memory_driver.h"

static struct vgpu_region *region;
static uint64_t base[2];

static void works(CUresult rc, const char *name) { equal((uint64_t)rc, 0, name); }

static void hold(uint64_t first, uint64_t second, const char *name) {
    const struct vgpu_use *use = region->slots[0].use;
    equal(use[0].charged_bytes - base[0], first, name);
    equal(use[1].charged_bytes - base[1], second, "and on the other card");
}

int main(void) {
    CUcontext context[2];
    CUstream stream[2];
    CUdeviceptr p;
    CUarray array;
    CUDA_LAUNCH_PARAMS parts[2];
    const CUDA_ARRAY_DESCRIPTOR flat = {1024, 1024, CU_AD_FORMAT_FLOAT, 4};
    setenv("VGPU_SIM_GPUS", "2", 1);
    region = session_region();
    works(cuInit(0), "init");
    for (int i = 0; i < 2; i++) {
        CUmodule module;
        works(cuDevicePrimaryCtxRetain(&context[i], i), "retain");
        works(cuCtxSetCurrent(context[i]), "set current");
        works(cuStreamCreate(&stream[i], CU_STREAM_NON_BLOCKING), "stream");
        works(cuModuleLoadData(&module, "any"), "module");
        parts[i] = (CUDA_LAUNCH_PARAMS){NULL, 1, 1, 1, 1, 1, 1, 0, stream[i], NULL};
        works(cuModuleGetFunction(&parts[i].function, module, "vgpu_sim_local_2048"), "function");
        base[i] = region->slots[0].use[i].charged_bytes;
    }
    /* HAMi-core 3.12: debited to the current context's card. Here that is the second. */
    works(cuMemAlloc_v2(&p, 64 * MiB), "64 MiB on the second");
    works(cuCtxSetCurrent(context[0]), "the first is current");
    hold(0, 64 * MiB, "charged to the second");
    works(cuMemFree_v2(p), "freed");
    hold(0, 0, "refunded there");
    works(cuMemAllocAsync(&p, 32 * MiB, stream[1]), "by the second's stream");
    hold(0, 32 * MiB, "charged to the second");
    works(cuMemFreeAsync(p, stream[1]), "freed");
    works(cuStreamSynchronize(stream[1]), "synchronise");
    hold(0, 0, "refunded there");
    works(cuArrayCreate_v2(&array, &flat), "an array on the first");
    works(cuCtxSetCurrent(context[1]), "the second is current");
    hold(16 * MiB, 0, "charged to the first");
    works(cuArrayDestroy(array), "destroyed");
    hold(0, 0, "refunded there");

    const uint64_t threads = 2048 * 132;
    works(cuLaunchCooperativeKernelMultiDevice(parts, 2, 0), "one kernel on both");
    hold(1024 * threads, 1024 * threads, "takes its local memory on each");
    return failures != 0;
}
