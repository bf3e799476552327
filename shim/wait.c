#include "wait.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "atomics.h"

uint64_t vgpu_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

__attribute__((hot)) uint64_t vgpu_ticks(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return 0;
#endif
}

static struct timespec to_timespec(uint64_t ns) {
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000U),
                             .tv_nsec = (long)(ns % 1000000000U)};
}

/* The default slack of 50 µs would add to every wake-up. Returns the slack to put back. */
static int lower_slack(void) {
    int slack = prctl(PR_GET_TIMERSLACK);
    if (slack > 1) prctl(PR_SET_TIMERSLACK, 1UL);
    return slack;
}

static void restore_slack(int slack) {
    if (slack > 1) prctl(PR_SET_TIMERSLACK, (unsigned long)slack);
}

void vgpu_wait_word(const uint32_t *word, uint32_t seen, uint64_t deadline_ns, uint32_t ears) {
    int saved = errno, slack = lower_slack();
    struct timespec deadline = to_timespec(deadline_ns);
    /* WAIT_BITSET takes an absolute CLOCK_MONOTONIC time; not private: the word may be shared. */
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, &deadline, NULL, ears);
    restore_slack(slack);
    errno = saved;
}

void vgpu_wake_word(uint32_t *word, uint32_t ears) {
    int saved = errno;
    vgpu_add_seq_cst(word, 1U);
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, ears);
    errno = saved;
}

void vgpu_wait_until(uint64_t deadline_ns) {
    int saved = errno, slack = lower_slack();
    struct timespec deadline = to_timespec(deadline_ns);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL);
    restore_slack(slack);
    errno = saved;
}
