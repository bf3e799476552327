/* Spatial mode on the simulated GPU, programs with a default stream for each thread: copies and
 * fills of one thread (_ptds) do what they should, while another thread's stream waits for ever.
 */
#include <pthread.h>
#include <unistd.h>

#include "partition_driver.h"

#define BYTES 64
static CUcontext context;
static CUdeviceptr memory, second;
static CUstream apart;
static uint32_t *gate, *pinned;
static uint8_t bytes[BYTES], seen[BYTES];

/* Work in the thread's own stream until the gate has this value. */
static void hold(uint32_t until) {
    MUST(cuStreamWaitValue32_v2_ptsz(NULL, (CUdeviceptr)(uintptr_t)gate, until, 0 /* or more */));
}
static bool is_held(void) { return cuStreamQuery_ptsz(NULL) == CUDA_ERROR_NOT_READY; }

static void *open_gate(void *until) {
    usleep(50000);
    vgpu_store_release(gate, (uint32_t)(uintptr_t)until);
    return NULL;
}

static void open_soon(uint32_t until) {
    pthread_t opener;
    if (pthread_create(&opener, NULL, open_gate, (void *)(uintptr_t)until)) abort();
    pthread_detach(opener);
}

/* --- each kind --- */

static void fresh(void) {
    for (int i = 0; i < BYTES; i++) bytes[i]++;
    memset(seen, 0, BYTES);
    MUST(cuMemcpyHtoD_v2_ptds(memory, bytes, BYTES));
    MUST(cuMemsetD8_v2_ptds(second, 0, BYTES));
}

static void arrived(const char *what) {
    MUST(cuMemcpyDtoH_v2_ptds(seen, second, BYTES));
    check(memcmp(seen, bytes, BYTES) == 0, what, seen[0], bytes[0]);
}

static void stretches(void) {
    fresh();
    MUST(cuMemcpy_ptds(second, memory, BYTES));
    arrived("cuMemcpy");
    fresh();
    MUST(cuMemcpy_ptds(second, (CUdeviceptr)(uintptr_t)bytes, BYTES));
    arrived("cuMemcpy from the host's memory");
    fresh();
    MUST(cuMemcpyDtoD_v2_ptds(second, memory, BYTES));
    arrived("cuMemcpyDtoD");
    fresh();
    MUST(cuMemcpyPeer_ptds(second, context, memory, context, BYTES));
    arrived("cuMemcpyPeer");
}

static void arrays(void) {
    const CUDA_ARRAY_DESCRIPTOR shape = {BYTES, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1};
    CUarray from, to;
    MUST(cuArrayCreate_v2(&from, &shape));
    MUST(cuArrayCreate_v2(&to, &shape));
    fresh();
    MUST(cuMemcpyHtoA_v2_ptds(from, 0, bytes, BYTES));
    MUST(cuMemcpyAtoA_v2_ptds(to, 8, from, 8, BYTES - 8));
    MUST(cuMemcpyDtoA_v2_ptds(to, 0, memory, 8));
    MUST(cuMemcpyAtoD_v2_ptds(second, to, 0, 16));
    MUST(cuMemcpyAtoD_v2_ptds(second + 16, to, 16, BYTES - 16));
    arrived("to, between and from arrays");
    memset(seen, 0, BYTES);
    MUST(cuMemcpyAtoH_v2_ptds(seen, to, 4, BYTES - 4));
    check(memcmp(seen, bytes + 4, BYTES - 4) == 0, "cuMemcpyAtoH", seen[0], bytes[4]);
    equal(cuMemcpyDtoA_v2_ptds(to, BYTES, memory, 8), cuMemcpyDtoA_v2(to, BYTES, memory, 8),
          "past an array's end: the driver's answer");
    /* Not destroyed: that waits for every stream. */
}

static void shapes(void) {
    CUDA_MEMCPY2D flat = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = memory,
                          .srcPitch = 16,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                          .dstDevice = second,
                          .dstPitch = 16,
                          .WidthInBytes = 16,
                          .Height = BYTES / 16};
    CUDA_MEMCPY3D deep = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = memory,
                          .srcPitch = 16,
                          .srcHeight = 2,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                          .dstDevice = second,
                          .dstPitch = 16,
                          .dstHeight = 2,
                          .WidthInBytes = 16,
                          .Height = 2,
                          .Depth = BYTES / 32};
    CUDA_MEMCPY3D_PEER peer;
    memcpy(&peer, &deep, sizeof peer);
    peer.srcContext = peer.dstContext = context;
    fresh();
    MUST(cuMemcpy2D_v2_ptds(&flat));
    arrived("cuMemcpy2D");
    fresh();
    MUST(cuMemcpy2DUnaligned_v2_ptds(&flat));
    arrived("cuMemcpy2DUnaligned");
    fresh();
    MUST(cuMemcpy3D_v2_ptds(&deep));
    arrived("cuMemcpy3D");
    fresh();
    MUST(cuMemcpy3DPeer_ptds(&peer));
    arrived("cuMemcpy3DPeer");
    flat.dstMemoryType = CU_MEMORYTYPE_HOST;
    flat.dstHost = seen;
    MUST(cuMemcpy2D_v2_ptds(&flat));
    check(memcmp(seen, bytes, BYTES) == 0, "and to the host", seen[0], bytes[0]);
    equal(cuMemcpy2D_v2_ptds(NULL), cuMemcpy2D_v2(NULL), "no shape: the driver's answer");
}

static void fills(void) {
    memset(bytes, 7, BYTES);
    MUST(cuMemsetD8_v2_ptds(second, 7, 16));
    MUST(cuMemsetD16_v2_ptds(second + 16, 0x0707, 4));
    MUST(cuMemsetD32_v2_ptds(second + 24, 0x07070707, 2));
    MUST(cuMemsetD2D8_v2_ptds(second + 32, 8, 7, 8, 2));
    MUST(cuMemsetD2D16_v2_ptds(second + 48, 4, 0x0707, 2, 2));
    MUST(cuMemsetD2D32_v2_ptds(second + 56, 4, 0x07070707, 1, 2));
    arrived("all fills");
    equal(cuMemsetD32_v2_ptds(second + 1, 0, 1), cuMemsetD32_v2(second + 1, 0, 1),
          "a wrong address: the driver's answer");
    equal(cuMemcpyHtoD_v2_ptds(1, bytes, 4), CUDA_ERROR_INVALID_VALUE, "and a copy's");
}

static void *all_kinds(void *unused) {
    MUST(cuCtxSetCurrent(context));
    stretches();
    shapes();
    fills();
    arrays();
    return unused;
}

/* --- the thread's own --- */

static void host_waits(void) {
    CUdeviceptr managed;
    MUST(cuMemAllocManaged(&managed, BYTES, CU_MEM_ATTACH_GLOBAL));
    MUST(cuMemsetD32_v2_ptds(memory, 5, 1));
    hold(2);
    MUST(cuMemsetD8_v2_ptds(second, 1, BYTES));
    MUST(cuMemcpyDtoD_v2_ptds(second, memory, BYTES));
    check(is_held(), "a fill or a copy inside the device returns at once", 0, 1);
    open_soon(2);
    MUST(cuMemcpyDtoH_v2_ptds(pinned, second, 4));
    equal(*pinned, 5, "what the host gets is there on return");
    hold(3);
    open_soon(3);
    *pinned = 6;
    MUST(cuMemcpyHtoD_v2_ptds(memory, pinned, 4));
    *pinned = 0;
    MUST(cuMemcpyDtoH_v2_ptds(seen, memory, 4));
    equal(seen[0], 6, "what it gives has been taken");
    hold(4);
    open_soon(4);
    MUST(cuMemsetD8_v2_ptds(managed, 9, BYTES));
    equal(*(uint8_t *)(uintptr_t)managed, 9, "managed memory is filled on return");
    hold(5);
    MUST(cuMemsetD32_v2_ptds(memory, 8, 1));
    open_soon(5);
    MUST(cuMemcpyDtoH_v2(pinned, memory, 4));
    equal(*pinned, 8, "the legacy stream waits for a fill in the thread's own");
    MUST(cuStreamWaitValue32_v2(NULL, (CUdeviceptr)(uintptr_t)gate, 6, 0));
    MUST(cuMemsetD32_v2(memory, 9, 1));
    open_soon(6);
    MUST(cuMemcpyDtoH_v2_ptds(pinned, memory, 4));
    equal(*pinned, 9, "which waits for the legacy stream's");
}

static void captures(void) {
    CUgraph graph = NULL;
    MUST(cuStreamBeginCapture_v2_ptsz(NULL, CU_STREAM_CAPTURE_MODE_RELAXED));
    equal(cuMemcpyHtoD_v2_ptds(memory, bytes, 4), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
          "a copy in a thread whose stream captures is an error");
    equal(cuStreamEndCapture_ptsz(NULL, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
          "and the capture's end");
    MUST(cuStreamBeginCapture_v2(apart, CU_STREAM_CAPTURE_MODE_GLOBAL));
    MUST(cuMemcpyHtoD_v2_ptds(memory, bytes, 4));
    MUST(cuMemsetD8_v2_ptds(memory, 1, 4));
    MUST(cuStreamEndCapture(apart, &graph));
    check(graph != NULL, "beside another stream's capture it is none", 0, 1);
    MUST(cuGraphDestroy(graph));
}

int main(void) {
    pthread_t other;
    region = session_region();
    give_partition();
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuMemAlloc_v2(&memory, BYTES));
    MUST(cuMemAlloc_v2(&second, BYTES));
    MUST(cuMemHostAlloc((void **)&gate, 4, 0));
    MUST(cuMemHostAlloc((void **)&pinned, 4, 0));
    MUST(cuStreamCreate(&apart, CU_STREAM_NON_BLOCKING));
    *gate = 0;
    hold(1);
    if (pthread_create(&other, NULL, all_kinds, NULL)) abort();
    pthread_join(other, NULL);
    check(is_held(), "another thread's copies and fills do not wait for this thread's stream", 0,
          1);
    vgpu_store_release(gate, 1U);
    host_waits();
    captures();
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuDevicePrimaryCtxReset_v2(0));
    equal(charged(region), 0, "nothing stays charged");
    return failures != 0;
}
