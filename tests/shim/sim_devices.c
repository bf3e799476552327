/* Which cards there are, and which of them a process sees. */
#include <sys/wait.h>

#include "sim_check.h"

/* cuInit in a fresh process with CUDA_VISIBLE_DEVICES; the bus ids seen, as text; or the code of
 * cuInit. */
static const char *seen(const char *list) {
    static char text[300];
    int ends[2];
    if (pipe(ends)) exit(1);
    pid_t pid = fork();
    if (!pid) {
        if (list) setenv("CUDA_VISIBLE_DEVICES", list, 1);
        int count = 0, rc = (int)cuInit(0);
        dprintf(ends[1], rc ? "%d" : "", rc);
        if (!rc) MUST(cuDeviceGetCount(&count));
        for (int i = 0; i < count; i++) {
            char id[20];
            MUST(cuDeviceGetPCIBusId(id, sizeof id, i));
            dprintf(ends[1], "%.2s ", id + 5);
        }
        _exit(0);
    }
    close(ends[1]);
    ssize_t length = read(ends[0], text, sizeof text - 1);
    text[length < 0 ? 0 : length] = 0;
    for (ssize_t more;
         length > 0 && (more = read(ends[0], text + length, sizeof text - 1 - (size_t)length)) > 0;)
        text[length += more] = 0;
    close(ends[0]);
    waitpid(pid, NULL, 0);
    return text;
}
#define SEES(list, expected)                                                                       \
    do {                                                                                           \
        const char *s = seen(list);                                                                \
        if (strcmp(s, expected)) printf("FAIL %s: %s\n", #list, s), check_failed = 1;              \
        else printf("ok CUDA_VISIBLE_DEVICES=%s\n", #list);                                        \
        fflush(stdout);                                                                            \
    } while (0)

int main(void) {
    check_start();
    setenv("VGPU_SIM_GPUS", "3", 1);
    setenv("VGPU_SIM_CARD", "rtx3080", 1);
    setenv("VGPU_SIM_KERNELS", "long=30000,forever=inf", 1);
    nvmlDevice_t device;
    char uuid[80], list[200], name[96];
    MUST(nvmlInit_v2());
    MUST(nvmlDeviceGetHandleByIndex_v2(2, &device));
    MUST(nvmlDeviceGetUUID(device, uuid, sizeof uuid));
    MUST(nvmlDeviceGetName(device, name, sizeof name));
    CHECK("an RTX 3080", strstr(name, "3080 (simulated)") && !strncmp(uuid, "GPU-5130", 8));
    SEES(NULL, "18 21 2A ");
    SEES("2,0", "2A 18 ");
    SEES("", "100");
    SEES("-1", "100");
    SEES("7", "100");
    SEES("1,7,0", "21 ");
    SEES("1,1", "21 ");
    snprintf(list, sizeof list, "%s,0", uuid);
    CHECK("a UUID", !strcmp(seen(list), "2A 18 "));
    uuid[10] = 0;
    CHECK("a prefix", !strcmp(seen(uuid), "2A "));
    CHECK("a prefix of several", !strcmp(seen("GPU-5130"), "100"));
    nvmlMemory_v2_t memory = {.version = NVML_MEMORY_V2};
    nvmlMemory_t old;
    MUST(nvmlDeviceGetMemoryInfo_v2(device, &memory));
    MUST(nvmlDeviceGetMemoryInfo(device, &old));
    CHECK("10 GiB, and v1 counts the reserve as used",
          memory.total == 10240 * (unsigned long long)MIB &&
              old.used == memory.used + memory.reserved);
    CUcontext context = check_context();
    int sms, major;
    CUuuid id;
    MUST(cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    MUST(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    MUST(cuDeviceGetUuid_v2(&id, 2));
    CHECK("68 SMs, 8.6, the same UUID in both libraries",
          context && sms == 68 && major == 8 && (unsigned char)id.bytes[2] == 2);
    /* an event of one card is waited for on another */
    CUcontext other;
    CUstream here, there;
    CUevent event;
    MUST(cuStreamCreate(&here, 1));
    MUST(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    MUST(check_launch(check_kernel("long"), here, NULL));
    MUST(cuEventRecord(event, here));
    MUST(cuDevicePrimaryCtxRetain(&other, 1));
    MUST(cuCtxSetCurrent(other));
    CUfunction quick = check_kernel("quick");
    MUST(cuStreamCreate(&there, 1));
    MUST(cuStreamWaitEvent(there, event, 0));
    MUST(check_launch(quick, there, NULL));
    CHECK("another card's stream waits", cuStreamQuery(there) == 600);
    MUST(cuStreamSynchronize(there));
    CHECK("until the event", cuEventQuery(event) == 0);
    /* also of one whose stream has yet to come to the record */
    unsigned int *gate;
    MUST(cuMemHostAlloc((void **)&gate, 4, 0));
    *gate = 0;
    MUST(cuStreamWaitValue32_v2(here, (CUdeviceptr)(uintptr_t)gate, 1, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(check_launch(check_kernel("long"), here, NULL));
    MUST(cuEventRecord(event, here));
    MUST(cuCtxSetCurrent(other));
    MUST(cuStreamWaitEvent(there, event, 0));
    __atomic_store_n(gate, 1, __ATOMIC_RELEASE);
    MUST(cuStreamSynchronize(there));
    CHECK("for work that waited itself", cuEventQuery(event) == 0);
    /* an endless kernel ends with its context */
    MUST(check_launch(check_kernel("forever"), there, NULL));
    MUST(check_launch(quick, there, NULL));
    CHECK("an endless kernel", cuStreamQuery(there) == 600);
    MUST(cuDevicePrimaryCtxReset_v2(1));
    MUST(cuDevicePrimaryCtxRetain(&other, 1));
    MUST(check_launch(check_kernel("quick"), NULL, NULL));
    CHECK("ends with its context", cuCtxSynchronize() == 0);
    MUST(cuCtxSetCurrent(context));
    unsigned int count = 0;
    nvmlProcessInfo_t process[8];
    MUST(nvmlDeviceGetHandleByIndex_v2(0, &device));
    CHECK("room for none: 7, and how many",
          nvmlDeviceGetComputeRunningProcesses_v3(device, &count, NULL) ==
                  NVML_ERROR_INSUFFICIENT_SIZE &&
              count == 1);
    count = 8;
    MUST(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, process));
    CHECK("room for eight", count == 1 && process[0].pid == (unsigned int)getpid());
    return check_failed;
}
