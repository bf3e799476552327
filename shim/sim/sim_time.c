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

/* The holder if nobody else wants the card, else whoever comes next after it; -1 = no work. */
static int next_holder(const struct sim_machine *machine, int card) {
    int holder = machine->card[card].holder, end = machine->proc_end;
    int next = -1, nearest = end + 1, base = holder < 0 ? end - 1 : holder;
    for (int i = 0; i < machine->queue_end; i++) {
        const struct sim_queue *queue = &machine->queue[i];
        if (!sim_queue_ready(queue, card)) continue;
        bool same = sim_same_turn(machine, queue->proc, holder);
        int distance = same ? end : (queue->proc - base - 1 + end) % end;
        if (distance >= nearest) continue;
        nearest = distance;
        next = same ? holder : queue->proc;
    }
    return next;
}

/* The queues that run while the holder has the card. */
static int ready_queues(struct sim_machine *machine, int card,
                        struct sim_queue *ready[SIM_MAX_QUEUES]) {
    int count = 0;
    for (int i = 0; i < machine->queue_end; i++) {
        struct sim_queue *queue = &machine->queue[i];
        if (sim_queue_ready(queue, card) &&
            sim_same_turn(machine, queue->proc, machine->card[card].holder))
            ready[count++] = queue;
    }
    return count;
}

static void hand_over(const struct sim_machine *machine, struct sim_card *card, int next) {
    bool change = card->holder >= 0 && card->holder != next;
    card->holder = next;
    card->switch_end = card->now + (change ? machine->switch_ns : 0);
    card->slice_end = card->switch_end + machine->slice_ns;
    card->client = -1;
}

/* Clients of one MPS server hand the card's SMs over faster; not at all if the next one was there
 * before the last one ended, or uses other SMs. True: the hand-over starts now. */
static bool client_changes(const struct sim_machine *machine, struct sim_card *card,
                           struct sim_queue *const *ready, int count) {
    struct sim_sms sms = {0};
    bool stays = card->client < 0 || !card->drained;
    for (int i = 0; i < count; i++) {
        sms = sim_sms_join(sms, ready[i]->sms);
        stays |= ready[i]->proc == card->client;
    }
    bool changes = !stays && sim_sms_meet(sms, card->client_sms);
    card->drained = false;
    card->client = ready[0]->proc;
    card->client_sms = sms;
    if (changes) card->switch_end = card->now + machine->mps_switch_ns;
    return changes;
}

/* One stretch, at most up to `end`, in which the same queues run all the time. */
static void run(struct sim_machine *machine, int index, struct sim_queue *const *ready, int count,
                uint64_t end) {
    struct sim_card *card = &machine->card[index];
    sim_queues_rate(ready, count);
    uint64_t longest = end - card->now;
    for (int i = 0; i < count; i++) longest = least(longest, sim_queue_left(ready[i]));
    end = card->now + longest;
    for (int i = 0; i < count; i++) {
        sim_queue_run(ready[i], card->now, end);
        bool first = true;
        for (int j = 0; j < i; j++) first &= ready[j]->proc != ready[i]->proc;
        if (first) busy_add(&machine->proc[ready[i]->proc].busy[index], card->now, end - card->now);
    }
    busy_add(&card->busy, card->now, end - card->now);
    card->now = end;
}

void sim_advance(struct sim_machine *machine, int index, uint64_t now) {
    struct sim_card *card = &machine->card[index];
    struct sim_queue *ready[SIM_MAX_QUEUES];
    if (!card->now) card->now = now;
    while (card->now < now && sim_holds(machine)) {
        int next = next_holder(machine, index);
        if (next < 0) {
            card->drained = true;
            card->now = now;
            return;
        }
        int count = ready_queues(machine, index, ready);
        bool alone = next == card->holder;
        for (int i = 1; i < count; i++) alone &= ready[i]->proc == ready[0]->proc;
        if (!alone && card->now >= card->next_reap) {
            /* Someone competes, or has left work behind: dead processes must not keep the card. */
            card->next_reap = now + 5000000;
            sim_reap(machine);
            continue;
        }
        if (!count) {
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
            uint64_t slices = (card->now - card->slice_end) / machine->slice_ns + 1;
            card->slice_end += slices * machine->slice_ns;
        }
        if (client_changes(machine, card, ready, count)) continue;
        run(machine, index, ready, count, contended ? least(now, card->slice_end) : now);
    }
}

/* Whether its process has the card, as of the last look. */
bool sim_on_card(const struct sim_machine *machine, const struct sim_queue *queue) {
    const struct sim_card *card = &machine->card[queue->card];
    return sim_same_turn(machine, card->holder, queue->proc) && card->now >= card->switch_end;
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
