/* THE layout of a session's shared file. Everything that maps it (the shim in every process, the
 * supervisor in TypeScript) derives its view from the field lists below: they expand to the C
 * structs and, through shim/layout.c, to src/layout.gen.ts. A test regenerates and compares.
 *
 * Glossary
 *   region   one mapped file per session: header, devices, slots, ring, in this order.
 *   device   one GPU of the session, keyed by UUID; claimed by whoever sees it first.
 *   slot     one attached process. A slot never moves; owner = pid + generation + state in one
 * word. charge   bytes of device memory that a process holds, as NVML lists them. The session's use
 * of a device is the SUM over live slots: a dead process's bytes vanish with its slot, so no kill
 * at any moment can lose a byte. gate     the compute share of one device: one word holds the whole
 * schedule (gate.h). ring     event records; writers claim, never wait, and count what they could
 * not write.
 *
 * All times are CLOCK_MONOTONIC ns, all sizes bytes, all shares parts per million of the GPU.
 */
#ifndef VGPU_REGION_H
#define VGPU_REGION_H

#include <stddef.h>
#include <stdint.h>

#include "include/vgpu.h" /* VGPU_CLASS_* */

#define VGPU_MAGIC UINT64_C(0x6e6f697567707631) /* "1vpguion" on disk */
#define VGPU_LAYOUT_VERSION 5U
#define VGPU_MAX_DEVICES 16
#define VGPU_MAX_SLOTS 512
#define VGPU_MAX_DEPTH 4 /* sessions inside each other */
#define VGPU_RING_RECORDS 2048
#define VGPU_NO_LIMIT UINT64_MAX
#define VGPU_WHOLE_GPU 1000000U /* share_ppm of an unlimited device */
#define VGPU_NO_DEVICE UINT32_MAX

/* X(type, name) is a scalar, A(type, name, count) an array. Order is layout order; keep 8-byte
 * alignment by hand, the static assertions below check it. */
#define VGPU_HEADER_FIELDS(X, A)                                                                   \
    X(u64, magic)                                                                                  \
    X(u32, layout_version)                                                                         \
    X(u32, region_bytes)                                                                           \
    X(u64, start_mono_ns) /* the session's time zero: gate ticks count from here */                \
    X(u64, start_wall_ns) /* CLOCK_REALTIME at the same moment */                                  \
    A(char, session, 16)  /* NUL-terminated id */                                                  \
    X(u32, supervisor_pid)                                                                         \
    X(u32, limits_version) /* raised after every change of a limit, and those of outer ones too */ \
    X(u64, supervisor_start)  /* /proc/PID/stat field 22, names the process with its pid */        \
    X(u64, default_mem_limit) /* for a device that no one named; VGPU_NO_LIMIT = none */           \
    X(u32, default_share_ppm)                                                                      \
    X(u32, audit)                 /* 1: the supervisor reconciles with NVML (0 in some tests) */   \
    X(u64, default_context_bytes) /* what a context costs on a card the table does not know */     \
    X(u32, bell_wanted)           /* 1: the supervisor sleeps; ring the fifo after publishing */   \
    X(u32, slots_used)            /* high-water mark: slots at and above it were never claimed */  \
    X(u32, audit_wanted)          /* raised by a shim that wants drift_bytes to be fresh */        \
    X(u32, audit_done) /* the audit_wanted that the last audit had seen before it looked */        \
    X(u64, default_soft_bytes) /* for a device that no one named; 0 = none */                      \
    X(u32, throttle)           /* VGPU_THROTTLE_*: when turns are taken with other sessions */     \
    X(u32, weight_ppm) /* in the order of turns; 1,000,000 = normal priority; 0 counts as that */  \
    X(u32, quantum_us) /* length of a turn while others wait; 0 = 20 ms, 4 ms under MPS */         \
    X(u32, dampening_ppm)       /* part of the measured GPU time that is charged; 0 = all of it */ \
    A(u32, class_weight_ppm, 4) /* by VGPU_CLASS_*: the same for that class of streams; 0 = all */ \
    A(u64, copy_bytes_per_s, 3) /* by VGPU_COPY_*: the copy buckets' rates; 0 = no limit */        \
    X(u32, default_burst_ppm)   /* for a device that no one named; 0 = no burst */                 \
    X(u32, gang)                /* VGPU_GANG_*: whether the session's GPUs share one schedule */   \
    A(char, board_dir, 160)     /* where the boards lie; NUL-terminated; empty = no board */       \
    X(u32, mps)                 /* 1: its processes use the MPS daemon that vgpu started */        \
    X(u32, header_spare)                                                                           \
    A(char, outer, 128)  /* region of the session around this one; NUL-terminated; empty = none */ \
    X(u64, audit_ns)     /* CLOCK_MONOTONIC before the last audit asked NVML; 0 = never */         \
    X(u64, gang_members) /* a bit a device: see gang.h */                                          \
    A(u64, header_pad, 3)                                                                          \
    X(u64, ring_head) /* records claimed so far; own cache line with ring_lost */                  \
    X(u64, ring_lost)                                                                              \
    X(u64, unknown_calls) /* allocation entry points the hook table does not know */               \
    A(u64, ring_pad, 5)

#define VGPU_DEVICE_FIELDS(X, A)                                                                   \
    X(u32, state) /* VGPU_DEVICE_* */                                                              \
    X(u32, share_ppm)                                                                              \
    A(u8, uuid, 16)                                                                                \
    X(u64, mem_limit)     /* as set; the limit in force is min(mem_limit, total_bytes) */          \
    X(u64, total_bytes)   /* of the real card; 0 until a process has asked the driver */           \
    X(u64, context_bytes) /* what NVML lists for a bare context here; 0 = not learnt */            \
    X(u64, peak_bytes)                                                                             \
    X(u64, denials)                                                                                \
    X(u64, charged_ns) /* GPU time booked for closed slices */                                     \
    X(u64, slices)                                                                                 \
    X(u64, soft_bytes)          /* told, not enforced; 0 = the header's, NO_LIMIT = none */        \
    X(u64, pressure_next_bytes) /* a use above this rings the bell; 0 = never */                   \
    X(u32, pressure)            /* percent level reached (0, 70, 85, 95) | VGPU_PRESSURE_SOFT */   \
    X(u32, pressure_changes)    /* raised after every change of pressure */                        \
    X(u64, velocity)            /* by the supervisor: growth in bytes/s, moving average */         \
    X(u32, pressure_crossed)    /* 1: a shim saw a use above pressure_next_bytes (soft.h) */       \
    X(u32, burst_ppm)           /* ceiling while nobody else wants the GPU; 0 = the share */       \
    X(u64, gang_turn) /* of the open slice: its epoch << 32 | the turn on this GPU's board */      \
    A(u64, copy_paid_ns, 3) /* by VGPU_COPY_*: see bucket.h; a line of their own */                \
    A(u64, copied_bytes, 3) /* of copies under a limit, for the summary */                         \
    X(u64, copy_waited_ns)                                                                         \
    X(u64, copy_waits)                                                                             \
    X(u32, mode)         /* VGPU_MODE_*, set before the target starts and never after */           \
    X(u32, sm_count)     /* SMs of the partition; 0 = none: time mode */                           \
    X(u32, sm_total)     /* SMs of the card */                                                     \
    X(u32, group_sms)    /* SMs of a group: what the card is to be split by (partition.h) */       \
    A(u64, sm_groups, 4) /* the partition: a bit for each group, in the order of the split */      \
    X(u32,                                                                                         \
      enclosed) /* 1: a session inside this one has a share here: the others take slices too */    \
    X(u32, spatial_pad32)                                                                          \
    A(u64, spatial_pad, 1)                                                                         \
    X(u64, gate_word) /* see gate.h */                                                             \
    A(u64, gate_base, 2)                                                                           \
    X(u32, gate_bell)        /* futex: bumped when a slice closes or a closer waits */             \
    X(u32, gate_closing)     /* epoch into which nothing more is submitted */                      \
    X(u32, gate_wanted)      /* epoch for whose end another process waits */                       \
    X(u32, board_seat)       /* the session's seat on this GPU's board, + 1; 0 = none yet */       \
    X(u64, gate_burst)       /* earliest start of the next slice above the share, in ticks */      \
    X(u64, gate_burst_epoch) /* the slice that is charged to the burst alone */                    \
    X(u64, gang_word)        /* who takes part in the open slice: see gang.h */

#define VGPU_SLOT_FIELDS(X, A)                                                                     \
    X(u64, owner)      /* pid << 32 | generation << 8 | VGPU_SLOT_*: claimed by CAS */             \
    X(u64, start_time) /* /proc/PID/stat field 22 */                                               \
    A(char, name, 16)  /* comm at attach */                                                        \
    X(u64, attach_mono_ns)                                                                         \
    A(u64, slot_pad, 3)

/* One line of 128 bytes for each (slot, device). */
#define VGPU_USE_FIELDS(X, A)                                                                      \
    X(u64, charged_bytes) /* by the shim: allocations, contexts, reservations in flight */         \
    X(i64, drift_bytes)   /* by the supervisor: NVML's figure minus charged_bytes */               \
    X(u64, peak_bytes)                                                                             \
    X(u64, allocations)                                                                            \
    X(u64, denials)                                                                                \
    X(u64, launches)     /* launches that passed a limited gate */                                 \
    X(u64, busy_ns)      /* this process's own GPU time by its marks */                            \
    X(u64, throttled_ns) /* time its threads were held at the gate */                              \
    X(u64, waits)                                                                                  \
    X(u64, gate_busy)       /* slice epoch in which it has work in flight, 0 = drained */          \
    X(u64, gate_drained_ns) /* when its work of its last slice had drained */                      \
    X(u64, gate_seen_ns)    /* last sign of life of its watcher while draining */                  \
    X(u64, gate_wants_ns)   /* since when it waits for a slice, 0 = it does not */                 \
    X(u64, velocity)        /* by the supervisor, as the device's */                               \
    X(u64, managed_bytes)   /* ever charged for managed memory, which NVML need not list */        \
    A(u64, use_pad, 1)

/* 128 bytes, written as 16 words. What the five values mean depends on the kind: VGPU_EVENTS. */
#define VGPU_RECORD_FIELDS(X, A)                                                                   \
    X(u64, turn) /* 2·lap+1 while written, 2·lap+2 when published */                             \
    X(u64, mono_ns)                                                                                \
    X(u32, kind) /* VGPU_EVENT_* */                                                                \
    X(u32, pid)                                                                                    \
    X(u32, device)   /* index into devices, VGPU_NO_DEVICE = none */                               \
    X(u32, check)    /* of all the other words: see vgpu_ring_check */                             \
    A(char, api, 40) /* entry point, NUL-terminated */                                             \
    A(u64, value, 5)                                                                               \
    A(char, name, 16) /* process name */

enum { VGPU_MODE_TIME, VGPU_MODE_SPATIAL };
enum { VGPU_THROTTLE_ADAPTIVE, VGPU_THROTTLE_COOPERATIVE, VGPU_THROTTLE_STRICT };
enum { VGPU_COPY_H2D, VGPU_COPY_D2H, VGPU_COPY_D2D };
enum { VGPU_GANG_AUTO, VGPU_GANG_ON, VGPU_GANG_OFF };

#define VGPU_PRESSURE_SOFT 0x100U /* in device.pressure: use is above soft_bytes */

enum { VGPU_DEVICE_EMPTY, VGPU_DEVICE_CLAIMING, VGPU_DEVICE_READY };
enum { VGPU_SLOT_FREE, VGPU_SLOT_CLAIMING, VGPU_SLOT_LIVE, VGPU_SLOT_DYING };

/* name (as in the event stream), values in order; "" = unused. */
#define VGPU_EVENTS(E)                                                                             \
    E(PROCESS_ATTACH, "process.attach", "", "", "", "", "")                                        \
    E(PROCESS_EXIT, "process.exit", "", "", "", "", "")                                            \
    E(MEMORY_DENIED, "memory.denied", "asked_bytes", "used_bytes", "limit_bytes", "context_bytes", \
      "")                                                                                          \
    E(MEMORY_UNKNOWN, "memory.unknown", "", "", "", "", "")                                        \
    E(MEMORY_DRIFT, "memory.drift", "ledger_bytes", "nvml_bytes", "", "", "")                      \
    E(COMPUTE_STOLEN, "compute.stolen", "epoch", "overdue_ns", "victim_pid", "", "")               \
    E(LIMIT_CHANGED, "limit.changed", "limit_bytes", "share_ppm", "", "", "")

enum {
#define VGPU_EVENT_ENUM(id, name, a, b, c, d, e) VGPU_EVENT_##id,
    VGPU_EVENTS(VGPU_EVENT_ENUM)
#undef VGPU_EVENT_ENUM
        VGPU_EVENT_KINDS
};

typedef uint8_t vgpu_u8;
typedef uint32_t vgpu_u32;
typedef uint64_t vgpu_u64;
typedef int64_t vgpu_i64;
typedef char vgpu_char;

#define VGPU_SCALAR(type, name) vgpu_##type name;
#define VGPU_ARRAY(type, name, count) vgpu_##type name[count];
struct vgpu_header {
    VGPU_HEADER_FIELDS(VGPU_SCALAR, VGPU_ARRAY)
};
struct vgpu_device {
    VGPU_DEVICE_FIELDS(VGPU_SCALAR, VGPU_ARRAY)
};
struct vgpu_use {
    VGPU_USE_FIELDS(VGPU_SCALAR, VGPU_ARRAY)
};
struct vgpu_slot {
    VGPU_SLOT_FIELDS(VGPU_SCALAR, VGPU_ARRAY)
    struct vgpu_use use[VGPU_MAX_DEVICES];
};
struct vgpu_record {
    VGPU_RECORD_FIELDS(VGPU_SCALAR, VGPU_ARRAY)
};
struct vgpu_region {
    struct vgpu_header header;
    struct vgpu_device devices[VGPU_MAX_DEVICES];
    struct vgpu_slot slots[VGPU_MAX_SLOTS];
    struct vgpu_record ring[VGPU_RING_RECORDS];
};
#undef VGPU_SCALAR
#undef VGPU_ARRAY

_Static_assert(sizeof(struct vgpu_header) == 576, "header: whole cache lines");
_Static_assert(offsetof(struct vgpu_header, ring_head) % 64 == 0, "ring words on their own line");
_Static_assert(sizeof(struct vgpu_device) == 320, "device: whole cache lines");
_Static_assert(offsetof(struct vgpu_device, gate_word) % 64 == 0, "gate words on their own line");
_Static_assert(offsetof(struct vgpu_device, copy_paid_ns) % 64 == 0, "buckets on their own line");
_Static_assert(sizeof(struct vgpu_use) == 128, "use: whole cache lines");
_Static_assert(sizeof(struct vgpu_slot) == 64 + 128 * VGPU_MAX_DEVICES, "slot: whole cache lines");
_Static_assert(sizeof(struct vgpu_record) == 128, "record: whole cache lines");

#endif
