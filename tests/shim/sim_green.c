/* Green contexts on the simulated GPU: how SMs are split, what a context has, how fast it is. */
#include "sim_check.h"

static CUdevResource all, group[64], rest;

/* Groups that a split into at least `least` SMs gives. */
static unsigned int groups_of(unsigned int least) {
    unsigned int count = 0;
    MUST(cuDevSmResourceSplitByCount(NULL, &count, &all, NULL, 0, least));
    return count;
}

static CUgreenCtx green_of(CUdevResource *resources, unsigned int count) {
    CUdevResourceDesc desc;
    CUgreenCtx green;
    MUST(cuDevResourceGenerateDesc(&desc, resources, count));
    MUST(cuGreenCtxCreate(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
    return green;
}

static CUcontext current(CUgreenCtx green) {
    CUcontext context;
    MUST(cuCtxFromGreenCtx(&context, green));
    MUST(cuCtxSetCurrent(context));
    return context;
}

/* The SMs that a kernel on the stream runs on. */
static int smids(CUfunction kernel, CUstream stream, unsigned int bits[8]) {
    CUdeviceptr out;
    unsigned int words = 8;
    int count = 0;
    MUST(cuMemAlloc_v2(&out, 32));
    MUST(check_launch(kernel, stream, (void *[]){&out, &words}));
    MUST(cuStreamSynchronize(stream));
    MUST(cuMemcpyDtoH_v2(bits, out, 32));
    MUST(cuMemFree_v2(out));
    for (int i = 0; i < 8; i++) count += __builtin_popcount(bits[i]);
    return count;
}

/* Device time of one kernel, between two events that are both pending. */
static float takes(CUfunction kernel, CUstream stream) {
    CUevent from, to;
    float ms;
    MUST(cuEventCreate(&from, 0));
    MUST(cuEventCreate(&to, 0));
    MUST(check_launch(kernel, stream, NULL));
    MUST(cuEventRecord(from, stream));
    MUST(check_launch(kernel, stream, NULL));
    MUST(cuEventRecord(to, stream));
    MUST(cuEventSynchronize(to));
    MUST(cuEventElapsedTime_v2(&ms, from, to));
    return ms;
}

static void splitting(void) {
    unsigned int count = 64;
    MUST(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
    CHECK("the device has 132 SMs in steps of 8",
          all.type == CU_DEV_RESOURCE_TYPE_SM && all.sm.smCount == 132 &&
              all.sm.minSmPartitionSize == 8 && all.sm.smCoscheduledAlignment == 8);
    CHECK("groups of 1, 8, 9, 56, 120, 128 SMs: 15, 15, 7, 2, 1, 0",
          groups_of(1) == 15 && groups_of(8) == 15 && groups_of(9) == 7 && groups_of(56) == 2 &&
              groups_of(120) == 1 && groups_of(128) == 0);
    MUST(cuDevSmResourceSplitByCount(group, &count, &all, &rest, 0, 8));
    CHECK("15 of 8 and 12 left over",
          count == 15 && group[0].sm.smCount == 8 && group[14].sm.smCount == 8 &&
              rest.type == CU_DEV_RESOURCE_TYPE_SM && rest.sm.smCount == 12);
    CHECK("more SMs than there are: 1",
          cuDevSmResourceSplitByCount(group, &count, &all, NULL, 0, 133) == 1);
    CHECK("a group cannot be split again: 915",
          cuDevSmResourceSplitByCount(NULL, &count, &group[0], NULL, 0, 8) == 915);
    CHECK("another type: 914",
          cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_INVALID) == 914);
    CUdevResourceDesc desc;
    CUgreenCtx green;
    CUdevResource other[1];
    unsigned int one = 1;
    MUST(cuDevSmResourceSplitByCount(other, &one, &all, NULL, 0, 16));
    CUdevResource mixed[2] = {group[14], other[0]};
    CHECK("groups of two splits do not mix: 915",
          cuDevResourceGenerateDesc(&desc, mixed, 2) == 915);
    MUST(cuDevResourceGenerateDesc(&desc, group, 1));
    CHECK("the default stream is required", cuGreenCtxCreate(&green, desc, 0, 0) == 1);
}

static void contexts(CUcontext primary, CUfunction smid) {
    unsigned int a_bits[8], b_bits[8], again[8], whole[8];
    size_t before = check_free();
    CUgreenCtx a = green_of(group, 2), b = green_of(group + 2, 1), found;
    CUcontext context = current(a), got;
    CUdevResource own;
    CUdevice device = 7;
    CUstream stream, plain;
    int sms;
    unsigned int flags;
    MUST(cuCtxGetDevice(&device));
    MUST(cuCtxGetCurrent(&got));
    MUST(cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    CHECK("current like any other", device == 0 && got == context && context != primary);
    CHECK("the device's SM count stays", sms == 132);
    MUST(cuCtxGetDevResource(context, &own, CU_DEV_RESOURCE_TYPE_SM));
    CHECK("the context's is its own", own.sm.smCount == 16);
    MUST(cuGreenCtxGetDevResource(b, &own, CU_DEV_RESOURCE_TYPE_SM));
    CHECK("and the other's", own.sm.smCount == 8);
    MUST(cuStreamCreate(&plain, CU_STREAM_NON_BLOCKING));
    MUST(cuGreenCtxStreamCreate(&stream, b, CU_STREAM_NON_BLOCKING, -3));
    MUST(cuStreamGetGreenCtx(plain, &found));
    CHECK("a stream belongs to the context it was made in", found == a);
    MUST(cuStreamGetCtx_v2(stream, &got, &found));
    CHECK("or for", found == b && got == primary);
    MUST(cuStreamGetFlags(stream, &flags));
    CHECK("blocking streams cannot be made so",
          flags == 1 && cuGreenCtxStreamCreate(&stream, b, 0, 0) == 1);
    CUstream asked;
    MUST(cuStreamCreate(&asked, CU_STREAM_DEFAULT));
    MUST(cuStreamGetFlags(asked, &flags));
    CHECK("nor otherwise: it is a non-blocking one", flags == 1);
    MUST(cuStreamDestroy_v2(asked));
    CHECK("its kernels run on its SMs", smids(smid, plain, a_bits) == 16 &&
                                            smids(smid, NULL, again) == 16 &&
                                            !memcmp(a_bits, again, 32));
    CHECK("and on no others", smids(smid, stream, b_bits) == 8);
    int shared = 0;
    for (int i = 0; i < 8; i++) shared += __builtin_popcount(a_bits[i] & b_bits[i]);
    CHECK("the sets are disjoint", shared == 0);
    CUgreenCtx twin = green_of(group, 2);
    current(twin);
    CHECK("the same groups are the same SMs",
          smids(smid, NULL, again) == 16 && !memcmp(a_bits, again, 32));
    MUST(cuGreenCtxDestroy(twin));
    CHECK("a destroyed one that is current: 709", cuMemAlloc_v2(&(CUdeviceptr){0}, 8) == 709);
    MUST(cuCtxSetCurrent(primary));
    CHECK("the primary one has all", smids(smid, NULL, whole) == 132);
    CUfunction kernel = check_kernel("ms");
    CHECK("a cooperative grid must fit on the partition: 720",
          cuLaunchCooperativeKernel(kernel, 17, 1, 1, 1024, 1, 1, 0, stream, NULL) == 720 &&
              cuLaunchCooperativeKernel(kernel, 16, 1, 1, 1024, 1, 1, 0, stream, NULL) == 0 &&
              cuLaunchCooperativeKernel(kernel, 264, 1, 1, 1024, 1, 1, 0, NULL, NULL) == 0);
    CHECK("cuCtxDestroy is not for it", cuCtxDestroy_v2(context) == 201);
    MUST(cuGreenCtxDestroy(a));
    MUST(cuGreenCtxDestroy(b));
    CHECK("its streams go with it", cuStreamQuery(plain) == 400);
    CHECK("and cost is given back", check_free() == before);
}

static void speed(CUcontext primary) {
    CUfunction ms = check_kernel("ms");
    CUgreenCtx a = green_of(group, 6), b = green_of(group + 6, 6), same = green_of(group, 6);
    CUstream in[3];
    CUevent mark;
    CUgreenCtx green[3] = {a, b, same};
    for (int i = 0; i < 3; i++)
        MUST(cuGreenCtxStreamCreate(&in[i], green[i], CU_STREAM_NON_BLOCKING, 0));
    float own = takes(ms, in[0]);
    CHECK("on 48 of 132 SMs 1 ms takes 2.75", own > 2.749f && own < 2.751f);
    for (int i = 0; i < 40; i++) MUST(check_launch(ms, in[1], NULL));
    float beside = takes(ms, in[0]);
    CHECK("beside a full neighbour on other SMs too",
          beside > 2.749f && beside < 2.751f && cuStreamQuery(in[1]) == 600);
    MUST(cuCtxSynchronize());
    CHECK("the primary's synchronise waits for all", cuStreamQuery(in[1]) == 0);
    for (int i = 0; i < 40; i++) MUST(check_launch(ms, in[2], NULL));
    float half = takes(ms, in[0]);
    CHECK("two on the same SMs get half each",
          half > 5.499f && half < 5.501f && cuStreamQuery(in[2]) == 600);
    MUST(cuCtxSynchronize());
    for (int i = 0; i < 40; i++) MUST(check_launch(ms, in[0], NULL));
    float most = takes(ms, NULL);
    CHECK("the whole card less half of 48 SMs", most > 1.22f && most < 1.23f);
    MUST(cuEventCreate(&mark, CU_EVENT_DISABLE_TIMING));
    MUST(cuGreenCtxRecordEvent(a, mark));
    MUST(cuGreenCtxWaitEvent(b, mark));
    MUST(check_launch(ms, in[1], NULL));
    CHECK("an event of one context", cuEventQuery(mark) == 600);
    MUST(cuStreamSynchronize(in[1]));
    CHECK("holds another back", cuStreamQuery(in[0]) == 0 && cuEventQuery(mark) == 0);
    CUdeviceptr p;
    current(a);
    MUST(cuMemAlloc_v2(&p, 100 * MIB));
    MUST(cuCtxSetCurrent(primary));
    for (int i = 0; i < 3; i++) MUST(cuGreenCtxDestroy(green[i]));
    CHECK("its events outlive it", cuEventQuery(mark) == 0);
    CHECK("and memory is the primary context's", cuMemFree_v2(p) == 0);
}

static void other_card(void) {
    CUdevResource resource;
    unsigned int count = 0;
    setenv("VGPU_SIM_CARD", "rtx3080", 1);
    MUST(cuInit(0));
    MUST(cuDeviceGetDevResource(0, &resource, CU_DEV_RESOURCE_TYPE_SM));
    MUST(cuDevSmResourceSplitByCount(NULL, &count, &resource, NULL, 0, 10));
    CHECK("another card: steps of 2",
          resource.sm.smCount == 68 && resource.sm.minSmPartitionSize == 2 && count == 6);
}

int main(int words, char **word) {
    check_start();
    if (words > 1) {
        other_card();
        return check_failed;
    }
    setenv("VGPU_SIM_KERNELS", "ms=1000,vgpu_sim_smids=5", 1);
    CUcontext primary = check_context();
    CUfunction smid = check_kernel("vgpu_sim_smids");
    splitting();
    contexts(primary, smid);
    speed(primary);
    char command[300];
    snprintf(command, sizeof command, "%s other", word[0]);
    CHECK("the other card's process", system(command) == 0);
    return check_failed;
}
