/* Spatial mode on two simulated GPUs: a copy between contexts (cuMemcpyPeer, cuMemcpy3DPeer) waits
 * for what both have been given, and what both are given later waits for it. */
#include <pthread.h>
#include <unistd.h>

#include "partition_driver.h"

static CUcontext here, there, room;
static CUdeviceptr mine, theirs;
static uint32_t *gate, turn;

static void *open_gate(void *unused) {
    usleep(30000);
    vgpu_store_release(gate, turn);
    return unused;
}

static void hold(CUstream stream) {
    MUST(cuStreamWaitValue32_v2(stream, (CUdeviceptr)(uintptr_t)gate, ++turn, 0 /* or more */));
}

static void in(CUcontext context) { MUST(cuCtxSetCurrent(context)); }

static uint32_t arrived(void) {
    uint32_t word;
    pthread_t opener;
    if (pthread_create(&opener, NULL, open_gate, NULL)) abort();
    pthread_join(opener, NULL);
    MUST(cuCtxSynchronize());
    MUST(cuMemcpyDtoH_v2(&word, mine, 4));
    return word;
}

enum way { PEER, PEER_3D, PEER_OWN, PEER_3D_OWN };
static const char *const names[] = {"cuMemcpyPeer", "cuMemcpy3DPeer", "cuMemcpyPeer_ptds",
                                    "cuMemcpy3DPeer_ptds"};

static CUresult copy(enum way way, CUcontext peer) {
    CUDA_MEMCPY3D_PEER shape = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                                .srcDevice = theirs,
                                .srcContext = peer,
                                .srcPitch = 4,
                                .srcHeight = 1,
                                .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                                .dstDevice = mine,
                                .dstContext = here,
                                .dstPitch = 4,
                                .dstHeight = 1,
                                .WidthInBytes = 4,
                                .Height = 1,
                                .Depth = 1};
    switch (way) {
    case PEER:
        return cuMemcpyPeer(mine, here, theirs, peer, 4);
    case PEER_3D:
        return cuMemcpy3DPeer(&shape);
    case PEER_OWN:
        return cuMemcpyPeer_ptds(mine, here, theirs, peer, 4);
    default:
        return cuMemcpy3DPeer_ptds(&shape);
    }
}

/* Work in the peer's stream, before the copy and after it. */
static void keeps_its_place(enum way way, CUcontext peer, CUstream stream, const char *what) {
    static uint32_t value;
    printf("# %s, %s\n", names[way], what);
    in(peer);
    hold(stream);
    MUST(cuMemsetD32Async(theirs, value += 2, 1, stream));
    in(here);
    MUST(copy(way, peer));
    equal(arrived(), value, "it waits for the peer's work");
    hold(way < PEER_OWN ? NULL : CU_STREAM_PER_THREAD);
    MUST(copy(way, peer));
    in(peer);
    MUST(cuMemsetD32Async(theirs, value + 1, 1, stream));
    in(here);
    equal(arrived(), value, "and the peer's next for it");
}

static void captures(void) {
    CUgraph graph = NULL;
    in(there);
    MUST(cuStreamBeginCapture_v2_ptsz(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL));
    in(here);
    MUST(copy(PEER, there));
    MUST(copy(PEER_OWN, there));
    in(there);
    MUST(cuStreamEndCapture_ptsz(NULL, &graph));
    size_t nodes = 9;
    MUST(cuGraphGetNodes(graph, NULL, &nodes));
    equal(nodes, 0, "a capture in the peer stays as it is");
    MUST(cuGraphDestroy(graph));
}

int main(void) {
    CUstream blocking;
    setenv("VGPU_SIM_GPUS", "2", 1);
    region = session_region();
    give_partition_on(1);
    give_partition();
    MUST(cuDevicePrimaryCtxRetain(&there, 1));
    in(there);
    MUST(cuMemAlloc_v2(&theirs, 4));
    MUST(cuDevicePrimaryCtxRetain(&here, 0));
    MUST(cuCtxCreate_v2(&room, 0, 0));
    in(here);
    MUST(cuMemAlloc_v2(&mine, 4));
    MUST(cuMemHostAlloc((void **)&gate, 4, 0));
    *gate = 0;
    for (enum way way = PEER; way <= PEER_3D; way++) {
        keeps_its_place(way, there, NULL, "another card's legacy stream");
        keeps_its_place(way, room, NULL, "a created context's");
    }
    for (enum way way = PEER_OWN; way <= PEER_3D_OWN; way++)
        keeps_its_place(way, there, CU_STREAM_PER_THREAD, "another card's per-thread stream");
    in(there);
    MUST(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    keeps_its_place(PEER, there, blocking, "another card's blocking stream");
    keeps_its_place(PEER_3D, there, blocking, "another card's blocking stream");
    captures();
    in(here);
    equal(cuMemcpyPeer(1, here, theirs, there, 4), CUDA_ERROR_INVALID_VALUE, "the driver's answer");
    MUST(cuCtxSynchronize());
    MUST(cuCtxSetCurrent(NULL));
    MUST(cuCtxDestroy_v2(room));
    MUST(cuDevicePrimaryCtxReset_v2(1));
    MUST(cuDevicePrimaryCtxReset_v2(0));
    equal(charged(region), 0, "nothing stays charged");
    return failures != 0;
}
