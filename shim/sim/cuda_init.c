/* cuInit, the lock, handles, and what a fork leaves behind. */
#include <stdlib.h>
#include <unistd.h>

#include "cuda_sim.h"

struct sim_process sim_process = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                  .progress = PTHREAD_COND_INITIALIZER};

static struct object
    *made; /* all objects ever: a program's leaked handles are not its leaked memory */
static struct object *dead[SIM_KIND_END - SIM_DEAD];
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* The real driver refuses every call in a child of an initialised parent. */
static void in_child(void) {
    if (sim_process.ready) __atomic_store_n(&sim_process.ready, -1, __ATOMIC_RELAXED);
}

static void watch_fork(void) { pthread_atfork(NULL, NULL, in_child); }

CUresult sim_enter(void) {
    if (__atomic_load_n(&sim_process.ready, __ATOMIC_ACQUIRE) != 1)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&sim_process.lock);
    return CUDA_SUCCESS;
}

void sim_leave(CUresult *entered) {
    if (!*entered) pthread_mutex_unlock(&sim_process.lock);
}

static CUresult start(void) {
    struct sim_machine *machine = sim_machine();
    if (!machine) return CUDA_ERROR_UNKNOWN;
    int card_of[SIM_MAX_CARDS];
    int devices = sim_card_visible(card_of);
    if (!devices) return CUDA_ERROR_NO_DEVICE;
    int32_t server = sim_mps_server();
    if (server && sim_mps_faulted(machine, server)) return CUDA_ERROR_MPS_SERVER_NOT_READY;
    int slot = sim_proc_join(machine);
    if (slot < 0) return CUDA_ERROR_UNKNOWN;
    sim_process.slot = slot;
    machine->proc[slot].server = server;
    for (int i = 0; i < devices; i++) {
        sim_process.device[i].card = card_of[i];
        if (!sim_take(slot, card_of[i], 0, sim_model()->init_hidden))
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    sim_process.devices = devices;
    return CUDA_SUCCESS;
}

API CUresult cuInit(unsigned int flags) {
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (__atomic_load_n(&sim_process.ready, __ATOMIC_ACQUIRE) < 0)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_once(&fork_once, watch_fork);
    pthread_mutex_lock(&sim_process.lock);
    CUresult rc = sim_process.ready ? CUDA_SUCCESS : start();
    if (!rc) __atomic_store_n(&sim_process.ready, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&sim_process.lock);
    return rc;
}

API CUresult cuDriverGetVersion(int *version) {
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    *version = SIM_DRIVER_VERSION;
    return CUDA_SUCCESS;
}

CUresult device_valid(CUdevice device) {
    return device >= 0 && device < sim_process.devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

/* Zeroed. Handles of one kind are reused newest first, as the real driver's are. */
void *object_new(enum sim_kind kind, size_t size) {
    struct object *object = dead[kind - SIM_DEAD];
    if (object) {
        struct object *before = object->made_before;
        dead[kind - SIM_DEAD] = object->next_free;
        __builtin_memset(object, 0, size);
        object->made_before = before;
    } else {
        object = calloc(1, size);
        if (!object) return NULL;
        object->made_before = made;
        made = object;
    }
    object->kind = kind;
    return object;
}

void object_drop(void *pointer) {
    struct object *object = pointer;
    enum sim_kind kind = object->kind;
    object->kind = SIM_DEAD;
    object->next_free = dead[kind - SIM_DEAD];
    dead[kind - SIM_DEAD] = object;
}

LOCAL int sim_legacy_code(void);
int sim_legacy_code(void) {
    SIM_ENTER();
    return CUDA_ERROR_INVALID_CONTEXT;
}
