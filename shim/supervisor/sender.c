/* Loaded into the supervisor (src/signals.ts), never into a target: tells whether a signal came
 * from the kernel, which sends a terminal's Ctrl-C to the whole foreground group, or from a
 * process, which may have meant the supervisor alone. Bun's handlers do not get to see that. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>

#define SIGNALS 65
#define EXPORT __attribute__((visibility("default")))

static struct sigaction before[SIGNALS];
static uint32_t sent[SIGNALS]; /* by processes, not yet taken */

static void note(int number, siginfo_t *info, void *context) {
    if (info->si_code <= 0) __atomic_fetch_add(&sent[number], 1U, __ATOMIC_RELAXED);
    const struct sigaction *own = &before[number];
    if (own->sa_flags & SA_SIGINFO) own->sa_sigaction(number, info, context);
    else if (own->sa_handler != SIG_DFL && own->sa_handler != SIG_IGN) own->sa_handler(number);
}

/* Goes before the handler that is there. Returns 0, or -1 where there is none to go before. */
EXPORT int vgpu_sender_watch(int number) {
    if (number < 1 || number >= SIGNALS || sigaction(number, NULL, &before[number]) != 0) return -1;
    struct sigaction action = before[number];
    if (!(action.sa_flags & SA_SIGINFO) &&
        (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN))
        return -1;
    action.sa_flags |= SA_SIGINFO;
    action.sa_sigaction = note;
    return sigaction(number, &action, NULL);
}

/* How many of this signal processes have sent since the last call. */
EXPORT int vgpu_sender_take(int number) {
    if (number < 1 || number >= SIGNALS) return 0;
    return (int)__atomic_exchange_n(&sent[number], 0U, __ATOMIC_RELAXED);
}
