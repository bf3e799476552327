#define _GNU_SOURCE
#include "watch.h"

#include <pthread.h>
#include <signal.h>

#include "atomics.h"
#include "slice.h"
#include "wait.h"

#define ASLEEP_NS UINT64_C(10000000000) /* deadline of a sleep with nothing to do */

static void *watch(void *argument) {
    struct vgpu_pace *pace = argument;
    uint32_t *bell = vgpu_pace_bell(pace);
    for (;;) {
        uint32_t heard = vgpu_load_acquire(bell);
        uint64_t again = vgpu_pace_tend(pace);
        uint64_t around = again ? 0 : vgpu_rota_look_around(&pace->rota, vgpu_now_ns());
        if (again) vgpu_wait_until(again);
        else vgpu_wait_word(bell, heard, around ? around : vgpu_now_ns() + ASLEEP_NS);
    }
    return NULL;
}

bool vgpu_watch_start(struct vgpu_pace *pace) {
    /* The program's signals are the program's: none may be delivered here. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 128 * 1024);
    pthread_t thread;
    bool made = pthread_create(&thread, &attributes, watch, pace) == 0;
    if (made) pthread_setname_np(thread, "vgpu-watch");
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return made;
}
