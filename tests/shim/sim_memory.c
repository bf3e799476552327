/* Memory accounting of the simulated GPU, against what was measured on an H200 (facts/cuda.md
 * sections 1 to 3). */
#include "sim_check.h"

#define CONTEXT (518 * MIB)

static size_t before;
static long long cost(void) { return (long long)before - (long long)check_free(); }

static void sized_paths(void) {
    CUdeviceptr p = 77, q, r, small[40];
    size_t pitch;
    CHECK("alloc of 0 is 1", cuMemAlloc_v2(&p, 0) == 1 && p == 77);
    CHECK("free of 0 is 0", cuMemFree_v2(0) == 0);
    CHECK("free of a bogus pointer is 1", cuMemFree_v2(12345) == 1);
    before = check_free();
    MUST(cuMemAlloc_v2(&p, 3 * MIB + 1));
    CHECK("3 MiB + 1 takes 4 MiB", cost() == (long long)(4 * MIB));
    MUST(cuMemGetAddressRange_v2(&q, &pitch, p + 5));
    CHECK("the range is the size asked for", q == p && pitch == 3 * MIB + 1);
    MUST(cuMemFree_v2(p));
    CHECK("free gives it back", cost() == 0);
    CHECK("double free is 1", cuMemFree_v2(p) == 1);
    for (int i = 0; i < 40; i++) MUST(cuMemAlloc_v2(&small[i], 100000));
    CHECK("40 of 100000 bytes take two blocks", cost() == (long long)(4 * MIB));
    int together = 0;
    for (int i = 0; i < 40; i++) together += small[i] >> 21 == small[0] >> 21;
    CHECK("20 lie in the first 2 MiB", together == 20);
    for (int i = 0; i < 40; i++) MUST(cuMemFree_v2(small[i]));
    CHECK("empty blocks go back", cost() == 0);
    MUST(cuMemAllocPitch_v2(&p, &pitch, 1000, 20000, 4));
    CHECK("pitch 1000 x 20000 is 1024, 20 MiB", pitch == 1024 && cost() == (long long)(20 * MIB));
    MUST(cuMemFree_v2(p));
    MUST(cuMemAllocManaged(&p, 64 * MIB, CU_MEM_ATTACH_GLOBAL));
    CHECK("managed memory is free until touched", cost() == 0);
    MUST(cuMemFree_v2(p));
    void *host;
    MUST(cuMemHostAlloc(&host, 64 * MIB, 0));
    CHECK("pinned memory takes no device bytes", cost() == 0);
    MUST(cuMemFreeHost(host));
    q = 77;
    CHECK("too much is 2, output untouched", cuMemAlloc_v2(&q, (size_t)1 << 40) == 2 && q == 77);
    MUST(cuMemAlloc_v2(&p, 100ULL << 30));
    CHECK("100 GiB at once", cost() == 100LL << 30);
    CHECK("and 100 more do not fit", cuMemAlloc_v2(&r, 100ULL << 30) == 2);
    MUST(cuMemFree_v2(p));
    unsigned int v1 = 0;
    CUDA_ARRAY_DESCRIPTOR_v1 old = {64, 64, CU_AD_FORMAT_FLOAT, 1};
    CUarray array;
    CHECK("32-bit copies and arrays are 201",
          cuMemcpyHtoD(1, &v1, 4) == 201 && cuArrayCreate(&array, &old) == 201);
    CHECK("the 32-bit calls", cuMemAlloc((CUdeviceptr_v1 *)&v1, 10) == 201 &&
                                  !cuDeviceTotalMem(&v1, 0) && v1 == 0xffffffffu);
}

static void arrays(void) {
    CUarray a[200];
    CUDA_ARRAY_DESCRIPTOR shape = {1024, 1024, CU_AD_FORMAT_FLOAT, 4};
    before = check_free();
    MUST(cuArrayCreate_v2(&a[0], &shape));
    CHECK("1024 x 1024 float4 is 16 MiB", cost() == (long long)(16 * MIB));
    MUST(cuArrayDestroy(a[0]));
    shape = (CUDA_ARRAY_DESCRIPTOR){1000, 600, CU_AD_FORMAT_FLOAT, 1};
    MUST(cuArrayCreate_v2(&a[0], &shape));
    CHECK("1000 x 600 float is 4 MiB", cost() == (long long)(4 * MIB));
    MUST(cuArrayDestroy(a[0]));
    CUDA_ARRAY3D_DESCRIPTOR solid = {1000, 700, 30, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0};
    MUST(cuArray3DCreate_v2(&a[0], &solid));
    CHECK("1000 x 700 x 30 bytes are 22 MiB", cost() == (long long)(22 * MIB));
    MUST(cuArrayDestroy(a[0]));
    shape = (CUDA_ARRAY_DESCRIPTOR){100, 100, CU_AD_FORMAT_UNSIGNED_INT8, 1};
    for (int i = 0; i < 200; i++) MUST(cuArrayCreate_v2(&a[i], &shape));
    CHECK("200 of 100 x 100 bytes are 4 MiB", cost() == (long long)(4 * MIB));
    for (int i = 0; i < 200; i++) MUST(cuArrayDestroy(a[i]));
    CUmipmappedArray mipmap;
    solid = (CUDA_ARRAY3D_DESCRIPTOR){2048, 2048, 0, CU_AD_FORMAT_FLOAT, 4, 0};
    MUST(cuMipmappedArrayCreate(&mipmap, &solid, 12));
    CHECK("a 2048 x 2048 float4 mipmap is 86 MiB", cost() == (long long)(86 * MIB));
    MUST(cuMipmappedArrayDestroy(mipmap));
    solid.Flags = CUDA_ARRAY3D_DEFERRED_MAPPING;
    MUST(cuArray3DCreate_v2(&a[0], &solid));
    CUDA_ARRAY_MEMORY_REQUIREMENTS need;
    MUST(cuArrayGetMemoryRequirements(&need, a[0], 0));
    CHECK("a deferred twin costs nothing and tells the size", cost() == 0 && need.size == 64 * MIB);
    MUST(cuArrayDestroy(a[0]));
}

static void virtual_memory(void) {
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle, again;
    CUdeviceptr p;
    size_t step;
    before = check_free();
    MUST(cuMemGetAllocationGranularity(&step, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CHECK("granularity is 2 MiB", step == 2 * MIB && cuMemCreate(&handle, 100, &prop, 0) == 1);
    MUST(cuMemCreate(&handle, 20 * MIB, &prop, 0));
    MUST(cuMemAddressReserve(&p, 64ULL << 30, 0, 0, 0));
    CHECK("create charges, reserve does not", cost() == (long long)(20 * MIB));
    MUST(cuMemMap(p, 20 * MIB, 0, handle, 0));
    MUST(cuMemSetAccess(p, 20 * MIB, &access, 1));
    MUST(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)p));
    MUST(cuMemRelease(handle));
    MUST(cuMemRelease(again));
    CHECK("released but mapped: still there", cost() == (long long)(20 * MIB));
    unsigned int word = 42, back = 0;
    MUST(cuMemcpyHtoD_v2(p + 4096, &word, 4));
    MUST(cuMemcpyDtoH_v2(&back, p + 4096, 4));
    CHECK("mapped memory holds data", back == 42);
    CHECK("part of a mapping cannot be unmapped", cuMemUnmap(p, 2 * MIB) == 1);
    MUST(cuMemUnmap(p, 20 * MIB));
    CHECK("unmap gives it back", cost() == 0);
    CHECK("the address is dead", cuMemcpyHtoD_v2(p, &word, 4) == 1);
    MUST(cuMemAddressFree(p, 64ULL << 30));
}

static void contexts(CUcontext primary) {
    CUcontext second, current;
    CUdeviceptr p, q;
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    before = check_free();
    MUST(cuCtxCreate_v2(&second, 0, 0));
    CHECK("a context is 523.6 MiB", cost() / (long long)MIB == 523);
    MUST(cuMemAlloc_v2(&p, 10 * MIB));
    MUST(cuMemAllocAsync(&q, 10 * MIB, NULL));
    MUST(cuMemCreate(&handle, 10 * MIB, &prop, 0));
    MUST(cuCtxDestroy_v2(second));
    MUST(cuCtxGetCurrent(&current));
    CHECK("destroy pops it", current == primary);
    CHECK("pool and handle memory outlive the context", cost() == (long long)(42 * MIB));
    CHECK("its allocation is gone", cuMemFree_v2(p) == 1);
    MUST(cuMemRelease(handle));
    MUST(cuMemFree_v2(q));
    MUST(cuCtxSynchronize());
    CHECK("all back", cost() == 0);
    MUST(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 131072));
    CHECK("a stack limit of 128 KiB takes 33 GiB in all",
          (cost() + (long long)(264 * MIB)) >> 30 == 33);
    MUST(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024));
    CHECK("and goes back", cost() == 0);
    CUstream stream[64];
    for (int i = 0; i < 64; i++) MUST(cuStreamCreate(&stream[i], 1));
    for (int i = 0; i < 64; i++) MUST(cuStreamDestroy_v2(stream[i]));
    CHECK("64 streams took 34 MiB, whole blocks, and keep it", cost() == (long long)(34 * MIB));
    for (int i = 0; i < 64; i++) MUST(cuStreamCreate(&stream[i], 1));
    CHECK("new ones use it again", cost() == (long long)(34 * MIB));

    MUST(cuMemAlloc_v2(&p, 10 * MIB));
    MUST(cuDevicePrimaryCtxReset_v2(0));
    CHECK("a stale context is 709", cuMemAlloc_v2(&q, 10) == 709);
    MUST(cuDevicePrimaryCtxRetain(&second, 0));
    CHECK("retain gives the same handle", second == primary && cuMemFree_v2(p) == 1);
    MUST(cuDevicePrimaryCtxRetain(&second, 0));
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    CHECK("2 to 1 frees nothing", cuMemAlloc_v2(&p, 10 * MIB) == 0);
    MUST(cuCtxSetCurrent(NULL));
    CHECK("without a context alloc is 201, free works",
          cuMemAlloc_v2(&q, 10) == 201 && cuMemFree_v2(p) == 0);
    MUST(cuCtxSetCurrent(primary));
}

int main(void) {
    CUdeviceptr p;
    check_start();
    CHECK("before cuInit every call is 3", cuMemAlloc_v2(&p, 10) == 3);
    CUcontext primary = check_context();
    MUST(nvmlInit_v2());
    CHECK("NVML lists 518 MiB for a context", check_listed((unsigned int)getpid()) == CONTEXT);
    size_t total;
    MUST(cuDeviceTotalMem_v2(&total, 0));
    CHECK("an H200 has 143155 MiB", total / MIB == 143155);
    sized_paths();
    arrays();
    virtual_memory();
    contexts(primary);
    return check_failed;
}
