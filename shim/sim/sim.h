/* The simulated machine: what both simulated libraries share, in one process and between all
 * processes.
 *
 * Glossary
 *   machine  the mapped file: the cards, the processes that use them, the exported allocations.
 *   card     one simulated GPU. Its model is fixed, its state (memory taken, timeline) is shared.
 *   proc     the slot of one process; owner = pid + start time. Freed by whoever notices that the
 *            owner is dead.
 *   queue    work of one process for some of a card's SMs: ns of GPU time submitted and done. One
 *            for all of the process's ordinary contexts on the card, one for each green context.
 *            Its work runs in the order of submission, one piece at a time, so a piece is complete
 *            when `done` has reached its `target`, the sum submitted up to and including it.
 *            Streams and events are private to the process and hold only targets.
 *   rate     how fast a queue runs: 1 alone on its SMs; two that want the same SMs get half each.
 *   segment  a stretch of wall time in which a queue ran: from it the owner finds when a target
 *            was reached.
 *   turn     the card runs one process at a time, or all clients of one MPS server: round robin,
 *            2 ms each, and 150 us lost at every change.
 *
 * Nothing runs in the background: whoever looks at a card moves its timeline to now (sim_time.c).
 * All times are CLOCK_MONOTONIC ns, all sizes bytes.
 */
#ifndef VGPU_SIM_H
#define VGPU_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_MAX_CARDS 16
#define SIM_MAX_PROCS 128
#define SIM_MAX_SHARES 256
#define SIM_MAX_QUEUES 1024
#define SIM_SEGMENTS 512
#define SIM_SM_WORDS 3 /* of 64 SMs */
#define SIM_FULL_RATE UINT64_C(65536)
#define SIM_WINDOWS 16 /* busy time is kept for the last second, in windows of 1/16 s */
#define SIM_WINDOW_NS UINT64_C(62500000)
#define SIM_SLICE_NS UINT64_C(2000000)
#define SIM_SWITCH_NS UINT64_C(150000)
#define SIM_MPS_SWITCH_NS UINT64_C(15000)
#define SIM_ENDLESS (UINT64_C(1) << 60) /* the length of a kernel that never ends */
#define SIM_MIB (UINT64_C(1) << 20)
#define SIM_DRIVER_VERSION 13000
#define SIM_DRIVER_NAME "580.sim"
#define SIM_INTERNAL __attribute__((visibility("hidden")))
#define SIM_EXPORT __attribute__((visibility("default")))

struct sim_model {
    const char *key, *name;
    unsigned int sm_step, sm_groups; /* SMs in a group, groups that the chip can be split into */
    unsigned int sms, major, minor, clock_khz, memory_khz, bus_bits, pci_device;
    unsigned int threads_per_sm, blocks_per_sm, shared_per_sm, shared_optin, l2_bytes, cores_per_sm;
    uint64_t total;          /* what programs see: cuDeviceTotalMem */
    uint64_t reserved;       /* NVML shows total + reserved */
    uint64_t context_listed; /* what NVML lists for a context ... */
    uint64_t context_hidden; /* ... and what it takes off the free memory beyond that */
    uint64_t init_hidden;    /* cuInit alone, for each process */
};

struct sim_busy {
    uint64_t last;            /* number of the newest window */
    uint32_t ns[SIM_WINDOWS]; /* ns of GPU time in each */
    uint64_t total;
};

struct sim_sms {
    uint64_t word[SIM_SM_WORDS]; /* bit = SM */
};

struct sim_segment {
    uint64_t start, end; /* wall time */
    uint64_t from, to;   /* `done` went so far in it, */
    uint64_t rate;       /* this fast */
};

struct sim_queue {
    int32_t proc, card; /* proc -1 = free */
    struct sim_sms sms;
    uint32_t spinning; /* kernels that wait for others: they hold the card, and slow nobody down */
    uint64_t submitted, done;
    uint64_t rate, fraction; /* of the stretch that runs now; of a ns, in 1/SIM_FULL_RATE */
    uint64_t written;        /* segments ever written; the newest SIM_SEGMENTS are kept */
    struct sim_segment segments[SIM_SEGMENTS];
};

struct sim_proc {
    int32_t pid; /* 0 = free */
    uint32_t generation;
    int32_t server;   /* pid of the MPS control daemon, 0 = none */
    uint32_t fault;   /* the code that every further call gives, 0 = none */
    uint64_t started; /* start time as in /proc/PID/stat */
    uint64_t listed[SIM_MAX_CARDS], hidden[SIM_MAX_CARDS];
    uint32_t contexts[SIM_MAX_CARDS];
    struct sim_busy busy[SIM_MAX_CARDS];
};

struct sim_card {
    uint64_t now;   /* the timeline is simulated up to here */
    int32_t holder; /* the process whose context is on the card, -1 = none */
    uint32_t reserved;
    int32_t client; /* of an MPS server: who ran last, -1 = none */
    bool drained;   /* nobody had work since */
    struct sim_sms client_sms;
    uint64_t switch_end, slice_end, next_reap;
    uint64_t taken; /* sum of listed + hidden over all processes */
    struct sim_busy busy;
};

/* An allocation that was exported with cuIpcGetMemHandle. The bytes are charged to `payer`: the
 * exporter until it frees, then an importer. The contents are in the file sim_share_path(id). */
struct sim_share {
    uint64_t id, bytes; /* id 0 = free */
    int32_t card, payer;
    int32_t exporter; /* -1 = has freed it or died */
    uint16_t imports[SIM_MAX_PROCS];
};

struct sim_machine {
    uint64_t magic;
    uint64_t next_id;
    uint64_t switch_ns, mps_switch_ns, slice_ns;
    int32_t proc_end, queue_end; /* slots from here on were never used */
    uint64_t lock;               /* pid and thread of the owner, 0 = free (sim_lock.c) */
    struct sim_card card[SIM_MAX_CARDS];
    struct sim_share share[SIM_MAX_SHARES];
    struct sim_proc proc[SIM_MAX_PROCS];
    struct sim_queue queue[SIM_MAX_QUEUES];
};

/* --- cuda_names.c: names.def as a table; it ends with base NULL --- */
struct sim_name {
    const char *base;
    void *address;
    int plain, per_thread; /* first CUDA version, 0 = never */
};
SIM_INTERNAL extern const struct sim_name sim_names[];

/* --- sim_card.c: which cards there are --- */
SIM_INTERNAL const struct sim_model *sim_model(void); /* by VGPU_SIM_CARD */
SIM_INTERNAL int sim_card_count(void);                /* by VGPU_SIM_GPUS */
SIM_INTERNAL void sim_card_uuid(int card, unsigned char bytes[16]);
SIM_INTERNAL void sim_card_uuid_text(int card, char text[48]); /* GPU-5130... */
SIM_INTERNAL unsigned int sim_card_bus(int card); /* PCI bus number; domain and device are 0 */
SIM_INTERNAL int
sim_card_visible(int card_of[SIM_MAX_CARDS]); /* CUDA_VISIBLE_DEVICES applied; number of devices */

/* --- sim_lock.c: the machine's lock --- */
SIM_INTERNAL void sim_lock(struct sim_machine *machine);
SIM_INTERNAL void sim_unlock(struct sim_machine *machine);
SIM_INTERNAL bool sim_holds(const struct sim_machine *machine); /* false: it was taken from us */
/* State (R, S, T, Z, ...) and start time of a thread or, with tid 0, a process; false if it is
 * gone. */
SIM_INTERNAL bool sim_thread_stat(int pid, int tid, char *state, uint64_t *started);

/* --- sim_state.c: the mapped file --- */
SIM_INTERNAL void
sim_recover(struct sim_machine *machine);           /* after the lock was taken over; lock held */
SIM_INTERNAL struct sim_machine *sim_machine(void); /* maps it; NULL if that failed */
SIM_INTERNAL int
sim_proc_join(struct sim_machine *machine);              /* slot of this process, -1 = table full */
SIM_INTERNAL void sim_reap(struct sim_machine *machine); /* frees the dead; lock held */
SIM_INTERNAL bool sim_take(int slot, int card, uint64_t listed, uint64_t hidden);
SIM_INTERNAL void sim_give(int slot, int card, uint64_t listed, uint64_t hidden);
SIM_INTERNAL uint64_t sim_taken(int card);
SIM_INTERNAL void sim_share_path(uint64_t id, char *path, size_t size);
SIM_INTERNAL void sim_share_settle(struct sim_machine *machine,
                                   struct sim_share *share); /* after a change; lock held */

/* --- sim_sms.c: sets of SMs --- */
SIM_INTERNAL struct sim_sms sim_sms_range(unsigned int first, unsigned int count);
SIM_INTERNAL struct sim_sms sim_sms_join(struct sim_sms a, struct sim_sms b);
SIM_INTERNAL unsigned int sim_sms_count(struct sim_sms sms);
SIM_INTERNAL bool sim_sms_meet(struct sim_sms a, struct sim_sms b); /* have one in common */

/* --- sim_queue.c: one sequence of work; the lock is held --- */
SIM_INTERNAL int sim_queue_take(struct sim_machine *machine, int slot, int card, struct sim_sms sms,
                                uint64_t from); /* its first target; -1 = table full */
SIM_INTERNAL void sim_queue_give(struct sim_machine *machine, int queue);
static inline bool sim_queue_ready(const struct sim_queue *queue, int card) {
    return queue->proc >= 0 && queue->card == card &&
           (queue->submitted > queue->done || queue->spinning);
}
SIM_INTERNAL void sim_queues_rate(struct sim_queue *const *queues, int count);
SIM_INTERNAL uint64_t sim_queue_left(const struct sim_queue *queue); /* wall ns at its rate */
SIM_INTERNAL void sim_queue_run(struct sim_queue *queue, uint64_t start, uint64_t end);
/* Wall time at which `target`, inside the segment, was reached. */
SIM_INTERNAL uint64_t sim_segment_when(const struct sim_segment *segment, uint64_t target);

/* --- sim_mps.c: processes that share a card at the same time --- */
SIM_INTERNAL bool sim_mps_path(const char *name, char *path,
                               size_t size); /* in the pipe directory */
SIM_INTERNAL int32_t sim_mps_server(void);   /* the daemon that this process would join, 0 = none */
static inline bool sim_same_turn(const struct sim_machine *machine, int a, int b) {
    return a == b || (a >= 0 && b >= 0 && machine->proc[a].server &&
                      machine->proc[a].server == machine->proc[b].server);
}
SIM_INTERNAL bool sim_mps_faulted(struct sim_machine *machine, int32_t server);
/* The slot ends with a code; under MPS all who share the card end with 810. The lock is held. */
SIM_INTERNAL void sim_fault(struct sim_machine *machine, int slot, int card, uint32_t code);

/* --- sim_time.c: the timeline --- */
SIM_INTERNAL uint64_t sim_now(void);
SIM_INTERNAL void sim_advance(struct sim_machine *machine, int card, uint64_t now); /* lock held */
SIM_INTERNAL bool sim_on_card(const struct sim_machine *machine, const struct sim_queue *queue);
SIM_INTERNAL unsigned int sim_busy_percent(const struct sim_busy *busy, uint64_t now);
SIM_INTERNAL void sim_sleep_until(uint64_t when);

#endif
