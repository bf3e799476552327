/* What the hooks add to a call: blocks of calls through the shim and through the driver's own
 * functions in turn, in one process. Prints ns a call; run on the simulated GPU or a real one. */
#include "memory_driver.h"

#define CALLS 1000
#define BLOCKS 41

static int by_size(const void *a, const void *b) {
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

static CUresult (*alloc[2])(CUdeviceptr *, size_t);
static CUresult (*release[2])(CUdeviceptr);
static CUresult (*alloc_async[2])(CUdeviceptr *, size_t, CUstream);
static CUresult (*free_async[2])(CUdeviceptr, CUstream);
static CUresult (*create[2])(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *,
                             unsigned long long);
static CUresult (*destroy[2])(CUmemGenericAllocationHandle);
static CUstream stream;
static CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                         .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};

static void plain(int way) {
    CUdeviceptr p;
    if (alloc[way](&p, 65536) || release[way](p)) failures++;
}
static void async(int way) {
    CUdeviceptr p;
    if (alloc_async[way](&p, 65536, stream) || free_async[way](p, stream)) failures++;
}
static void handle(int way) {
    CUmemGenericAllocationHandle h;
    if (create[way](&h, 2 * MiB, &properties, 0) || destroy[way](h)) failures++;
}

static void measure(const char *name, void (*pair)(int)) {
    double added[BLOCKS], native[BLOCKS];
    for (int block = 0; block < BLOCKS; block++) {
        double took[2];
        for (int way = 0; way < 2; way++) {
            double start = now_s();
            for (int i = 0; i < CALLS; i++) pair(way);
            took[way] = (now_s() - start) / CALLS * 1e9;
        }
        added[block] = took[0] - took[1];
        native[block] = took[1];
    }
    qsort(added, BLOCKS, sizeof *added, by_size);
    qsort(native, BLOCKS, sizeof *native, by_size);
    printf("%s: native %.0f ns, added %.0f ns (10 %%: %.0f, 90 %%: %.0f)\n", name,
           native[BLOCKS / 2], added[BLOCKS / 2], added[BLOCKS / 10], added[BLOCKS * 9 / 10]);
}

int main(void) {
    CUcontext context;
    CUdeviceptr keep, keep_async;
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context) ||
        cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) || cuMemAlloc_v2(&keep, 65536) ||
        cuMemAllocAsync(&keep_async, 65536, stream))
        return 1;
    alloc[0] = cuMemAlloc_v2, alloc[1] = REAL_FUNCTION(cuMemAlloc_v2);
    release[0] = cuMemFree_v2, release[1] = REAL_FUNCTION(cuMemFree_v2);
    alloc_async[0] = cuMemAllocAsync, alloc_async[1] = REAL_FUNCTION(cuMemAllocAsync);
    free_async[0] = cuMemFreeAsync, free_async[1] = REAL_FUNCTION(cuMemFreeAsync);
    create[0] = cuMemCreate, create[1] = REAL_FUNCTION(cuMemCreate);
    destroy[0] = cuMemRelease, destroy[1] = REAL_FUNCTION(cuMemRelease);
    measure("cuMemAlloc+Free 64 KiB in a live block", plain);
    measure("cuMemAllocAsync+FreeAsync 64 KiB", async);
    measure("cuMemCreate+Release 2 MiB", handle);
    return failures != 0;
}
