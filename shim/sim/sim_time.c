/* The timeline of a card: whose turn it is and how far each process's work has come. Moved forward
 * by whoever looks. */
#include <sys/prctl.h>
#include <time.h>

#include "sim.h"

uint64_t sim_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void sim_relax(void) {
#if defined __x86_64__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void busy_add(struct sim_busy *busy, uint64_t start, uint64_t ns) {
    busy->total += ns;
    while (ns) {
        uint64_t window = start / SIM_WINDOW_NS;
        uint64_t part = least(ns, (window + 1) * SIM_WINDOW_NS - start);
        if (window - busy->last >= SIM_WINDOWS)
            for (int i = 0; i < SIM_WINDOWS; i++) busy->ns[i] = 0;
        else
            while (busy->last < window) busy->ns[++busy->last % SIM_WINDOWS] = 0;
        busy->last = window;
        busy->ns[window % SIM_WINDOWS] += (uint32_t)part;
        start += part;
        ns -= part;
    }
}

/* Percent of the last second, without the window that is still running. */
unsigned int sim_busy_percent(const struct sim_busy *busy, uint64_t now) {
    uint64_t window = now / SIM_WINDOW_NS, sum = 0;
    for (uint64_t i = 1; i < SIM_WINDOWS; i++)
        if (window - i <= busy->last && busy->last - (window - i) < SIM_WINDOWS)
            sum += busy->ns[(window - i) % SIM_WINDOWS];
    uint64_t percent = (sum * 100 + SIM_WINDOW_NS) / (SIM_WINDOW_NS * (SIM_WINDOWS - 1));
    return (unsigned int)least(percent, 100);
}

static bool runnable(const struct sim_machine *machine, int slot, int card) {
    const struct sim_proc *proc = &machine->proc[slot];
    return proc->pid && proc->queue[card].submitted > proc->queue[card].done;
}

/* The next process after `slot` that has work, `slot` itself last; -1 = none. */
static int next_runnable(const struct sim_machine *machine, int slot, int card) {
    for (int i = 1; i <= machine->proc_end; i++) {
        int next = (slot + i) % machine->proc_end;
        if (runnable(machine, next, card)) return next;
    }
    return -1;
}

static void hand_over(const struct sim_machine *machine, struct sim_card *card, int next) {
    bool change = card->holder >= 0 && card->holder != next;
    card->holder = next;
    card->switch_end = card->now + (change ? machine->switch_ns : 0);
    card->slice_end = card->switch_end + SIM_SLICE_NS;
}

static void queue_run(struct sim_queue *queue, uint64_t start, uint64_t ns) {
    struct sim_segment *last = &queue->segments[(queue->written - 1) % SIM_SEGMENTS];
    if (queue->written && last->to == queue->done && last->start + (last->to - last->from) == start)
        last->to += ns;
    else
        queue->segments[queue->written++ % SIM_SEGMENTS] =
            (struct sim_segment){start, queue->done, queue->done + ns};
    queue->done += ns;
    busy_add(&queue->busy, start, ns);
}

void sim_advance(struct sim_machine *machine, int index, uint64_t now) {
    struct sim_card *card = &machine->card[index];
    if (!card->now) card->now = now;
    while (card->now < now && sim_holds(machine)) {
        int next =
            next_runnable(machine, card->holder < 0 ? machine->proc_end - 1 : card->holder, index);
        if (next < 0) {
            card->now = now;
            return;
        }
        if (next != card->holder && card->now >= card->next_reap) {
            /* Someone competes, or has left work behind: dead processes must not keep the card. */
            card->next_reap = now + 5000000;
            sim_reap(machine);
            continue;
        }
        if (card->holder < 0 || !runnable(machine, card->holder, index)) {
            hand_over(machine, card, next);
            continue;
        }
        if (card->now < card->switch_end) {
            card->now = least(card->switch_end, now);
            continue;
        }
        bool contended = next != card->holder;
        if (card->now >= card->slice_end) {
            if (contended) {
                hand_over(machine, card, next);
                continue;
            }
            card->slice_end += ((card->now - card->slice_end) / SIM_SLICE_NS + 1) * SIM_SLICE_NS;
        }
        struct sim_queue *queue = &machine->proc[card->holder].queue[index];
        uint64_t end = least(now, card->now + (queue->submitted - queue->done));
        if (contended) end = least(end, card->slice_end);
        uint64_t ran = end - card->now;
        queue_run(queue, card->now, ran);
        busy_add(&card->busy, card->now, ran);
        card->now = end;
    }
}

/* Sleeps to shortly before `when`, then spins: a wait that ends late would leave holes in the
 * simulated card's work. 30 us covers the wake-up of an idle machine. */
void sim_sleep_until(uint64_t when) {
    const uint64_t spin = 30000;
    uint64_t now = sim_now();
    if (when > now + 2 * spin) {
        uint64_t wake = when - spin;
        struct timespec t = {.tv_sec = (time_t)(wake / 1000000000),
                             .tv_nsec = (long)(wake % 1000000000)};
        int slack = prctl(PR_GET_TIMERSLACK);
        prctl(PR_SET_TIMERSLACK, 1UL);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        if (slack > 0) prctl(PR_SET_TIMERSLACK, (unsigned long)slack);
    }
    while (sim_now() < when) sim_relax();
}
