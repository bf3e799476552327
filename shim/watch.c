#define _GNU_SOURCE
#include "watch.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "atomics.h"
#include "seat.h"
#include "slice.h"
#include "times.h"
#include "wait.h"

#define ASLEEP_NS UINT64_C(10000000000) /* deadline of a sleep with nothing to do */
#define LOOK_AROUND_NS UINT64_C(1000000000)

/* Frees the seats of sessions that have gone. Returns when to look again: soon while others are
 * seated, else when the bell has not rung for long. */
static uint64_t look_around(struct vgpu_pace *pace, uint64_t *looked_ns) {
    uint64_t now = vgpu_now_ns();
    pthread_mutex_lock(&pace->lock);
    const struct vgpu_place_on_board place = pace->rota.place;
    pthread_mutex_unlock(&pace->lock);
    if (!vgpu_seat_has_company(&place)) return now + ASLEEP_NS;
    if (now < *looked_ns + LOOK_AROUND_NS) return *looked_ns + LOOK_AROUND_NS;
    *looked_ns = now;
    vgpu_seat_reap(&place);
    return now + LOOK_AROUND_NS;
}

static void *watch(void *argument) {
    struct vgpu_pace *pace = argument;
    uint32_t *bell = vgpu_pace_bell(pace);
    uint64_t looked_ns = 0;
    prctl(PR_SET_TIMERSLACK, 1UL); /* once for all: this thread is ours */
    for (;;) {
        uint32_t heard = vgpu_load_acquire(bell);
        uint64_t listens_until, again = vgpu_pace_tend(pace, &listens_until);
        if (again) {
            vgpu_wait_until(again);
            continue;
        }
        uint64_t until = look_around(pace, &looked_ns);
        if (listens_until) until = earlier(until, listens_until);
        vgpu_wait_word(bell, heard, until, vgpu_pace_ear(pace));
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
