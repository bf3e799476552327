/* The simulated driver, private to one process. Everything here is guarded by sim_process.lock,
 * which every entry point takes (SIM_ENTER); the machine's lock is only taken inside it, for short,
 * without calls.
 *
 * Glossary
 *   device   a card as this process numbers it (CUDA_VISIBLE_DEVICES).
 *   lane     this process's view of one of its queues: how far it is, what must happen when it gets
 *            there.
 *   work     one piece of device time with its effect on memory (cuda_work.c). An effect is carried
 *            out when somebody notices that its target was reached, always in the order of
 *            submission.
 *   spinner  a kernel that waits for a word in memory, which other streams, cards or processes
 *            write: it holds the card, but not the streams beside it (cuda_spin.c).
 *   op       work that cannot be submitted yet, because its stream waits for a host function, a
 *            memory word, another lane, a spinner, or another stream that waits (cuda_op.c). Rare;
 *            most streams never have one.
 *   object   whatever has a handle. Never given back to malloc, so that a stale handle can be told
 *            by its kind.
 */
#ifndef VGPU_CUDA_SIM_H
#define VGPU_CUDA_SIM_H

#include <pthread.h>

#include "../cuda_abi.h"
#include "sim.h"

#define API SIM_EXPORT
#define LOCAL SIM_INTERNAL

enum sim_kind {
    SIM_DEAD = 0x51a00000,
    SIM_CONTEXT,
    SIM_STREAM,
    SIM_EVENT,
    SIM_MODULE,
    SIM_LIBRARY,
    SIM_FUNCTION,
    SIM_POOL,
    SIM_HANDLE,
    SIM_ARRAY,
    SIM_MIPMAP,
    SIM_GRAPH,
    SIM_NODE,
    SIM_EXEC,
    SIM_GREEN,
    SIM_DESC,
    SIM_KIND_END
};

struct object {
    enum sim_kind kind;
    struct object *next_free, *made_before;
};

/* --- memory ranges (cuda_range.c) --- */
enum range_kind {
    RANGE_LARGE,
    RANGE_BLOCK,
    RANGE_HOST,
    RANGE_REGISTERED,
    RANGE_MANAGED,
    RANGE_POOL,
    RANGE_RESERVED,
    RANGE_GRAPH,
    RANGE_IMPORT
};
struct range {
    uintptr_t start;
    size_t size;  /* mapped or registered bytes */
    size_t asked; /* as requested */
    enum range_kind kind;
    struct context *context; /* NULL: belongs to the device or the process */
    int device;
    uint64_t charged;
    unsigned int
        flags;   /* of the host memory; of device memory: the share it was exported as, 0 = none */
    uint64_t id; /* CU_POINTER_ATTRIBUTE_BUFFER_ID */
    union {
        struct block *block; /* pieces of up to 1 MiB */
        struct pool *pool;
        struct mapping *mappings;
    };
    struct range *next; /* of the same context */
};
/* What a device pointer points into: a range, or a piece of a block or pool. */
struct piece {
    struct range *range;
    uintptr_t start;
    size_t asked;
};

/* --- work (cuda_work.c) --- */
enum work_kind {
    WORK_NOTHING,
    WORK_FILL,
    WORK_ADD,
    WORK_CHECKSUM,
    WORK_SMIDS,
    WORK_SPIN,
    WORK_MEET,
    WORK_FAULT,
    WORK_COPY,
    WORK_SET,
    WORK_STAGED,
    WORK_POOL_FREE,
    WORK_GRAPH_FREE
};
struct work {
    enum work_kind kind;
    bool to_host; /* a program may look for the result without calling us */
    uint64_t ns;
    union {
        struct {
            uintptr_t out, a, b;
            uint32_t value, count;
        } kernel;
        struct {
            uintptr_t out;
            uint32_t words;
            struct sim_sms sms;
        } smids;
        struct {
            uintptr_t word;
            uint32_t value; /* of the word; the number of those that meet */
        } spin;
        int card; /* of the fault */
        struct {
            uintptr_t dst, src;
            size_t dst_pitch, src_pitch, dst_slice, src_slice, width, height, depth;
        } copy;
        struct {
            uintptr_t dst;
            size_t pitch, width, height;
            uint32_t value, element;
        } set;
        struct {
            uintptr_t dst;
            void *bytes;
            size_t size;
        } staged; /* bytes are freed afterwards */
        struct {
            uintptr_t pointer;
        } freed;
    };
};

struct pending {
    uint64_t target;
    struct work work;
};
struct stamp {
    uint64_t target;
    struct event *event;
    uint64_t version;
};

struct lane {
    struct lane *next; /* of the process; never taken out */
    bool open;
    int card, queue;
    struct sim_sms sms;
    uint64_t done;      /* as of the last look */
    uint64_t submitted; /* as of the last submission */
    uint64_t seen;      /* segments already used for stamps */
    struct pending *effects;
    size_t effect_first, effect_count, effect_room; /* a ring */
    struct stamp *stamps;                           /* a heap by target */
    size_t stamp_count, stamp_room;
    unsigned int spinners;
    unsigned int to_host; /* effects of that sort that are outstanding */
};

/* --- objects --- */
struct pool {
    struct object object;
    int device;
    bool host, gone;
    struct range *range;
    struct extent *extents; /* by address */
    struct extent *free;    /* unordered */
    unsigned int live;
    uint16_t *granule_users; /* live extents that touch each 32 MiB */
    uint8_t *granule_backed;
    size_t granules;
    uint64_t threshold, reserved, reserved_high, used, used_high, max_size;
    int reuse[4];
    CUmemAllocationHandleType handles;
};

struct device {
    int card;
    bool primary_active;
    unsigned int primary_refs, primary_flags;
    struct context *primary;
    struct pool *default_pool, *pool;
    struct pool *pools[64]; /* live explicit pools, for the release at a sync */
    uint64_t graph_used, graph_used_high, graph_reserved, graph_reserved_high;
    struct lane *lane; /* of the ordinary contexts; opened with the first */
};

struct context {
    struct object object;
    struct lane *lane;
    struct green *green;             /* NULL: an ordinary one */
    struct context *owner;           /* of memory, modules, events: the primary one or itself */
    struct context *greens, *beside; /* the primary's green ones; the next of them */
    int device;
    unsigned int flags;
    bool alive, primary;
    uint64_t id, charged;
    uint64_t stack_charged, local_by_kernels;
    uint64_t graph_nodes, graph_nodes_paid; /* of executable graphs: alive, and the most ever */
    size_t limit[8];
    struct stream *legacy, *streams; /* all, legacy and per-thread ones too */
    unsigned int live_streams, paid_streams, blocking_captures, captures;
    uint64_t blocking_tail;        /* of the legacy stream and those that synchronise with it */
    uint64_t graph_from, graph_to; /* what the graph launched last put into the lane */
    struct range *ranges;
    struct array *arrays;
    struct module *modules;
};

struct green {
    struct object object;
    struct context *context;
};

enum op_kind {
    OP_WORK,
    OP_SPIN,
    OP_EVENT,
    OP_HOST,
    OP_CALLBACK,
    OP_WAIT_VALUE,
    OP_WRITE_VALUE,
    OP_WAIT_TARGET,
    OP_WAIT_STREAM
};
struct op {
    struct op *next;
    enum op_kind kind;
    bool running;
    union {
        struct work work;
        struct spinner {
            struct work work;
            bool begun;    /* submitted: it wants the card */
            bool started;  /* has had it */
            uint32_t goal; /* what the word must come to */
        } spin;
        struct {
            struct event *event;
            uint64_t version;
        } record;
        struct {
            CUhostFn fn;
            CUstreamCallback callback;
            void *data;
        } host;
        struct {
            uintptr_t address;
            uint64_t value;
            unsigned int flags;
            bool wide;
        } word;
        struct {
            struct lane *lane;
            uint64_t target;
        } wait;
        struct {
            struct stream *stream;
            uint64_t count;
        } join;
    };
};

#define SIM_QUEUE_DEPTH 1022 /* launches outstanding in a stream before the next one blocks */
struct stream {
    struct object object;
    struct context *context;
    struct stream *next;
    unsigned int flags;
    int priority;
    bool legacy, per_thread, gone;
    uint64_t id;
    uint64_t tail;                   /* target of the newest submitted work */
    uint64_t launches, launch[1024]; /* targets of the newest launches */
    struct op *first, *last;
    uint64_t queued, resolved; /* ops ever */
    struct capture *capture;
    bool capture_origin;
    struct node **deps;
    size_t dep_count;
};

struct event {
    struct object object;
    struct context *context;
    unsigned int flags;
    bool recorded, stamped;
    uint64_t version;
    struct lane *lane;
    uint64_t target, stamp;
    struct stream *stream; /* not yet submitted: waits for op number `op` of this stream */
    uint64_t op;
    uint64_t capture_id; /* not 0: last recorded in this capture */
    struct node **deps;
    size_t dep_count;
};

enum builtin {
    BUILTIN_NONE,
    BUILTIN_FILL,
    BUILTIN_ADD,
    BUILTIN_CHECKSUM,
    BUILTIN_SMIDS,
    BUILTIN_SPIN,
    BUILTIN_MEET,
    BUILTIN_FAULT,
    BUILTIN_END
};
struct function {
    struct object object;
    struct function *next;
    struct module *module;
    char *name;
    uint64_t ns;
    enum builtin builtin;
    int block[3], shared, dynamic_max;
    unsigned int local; /* bytes a thread */
    char params[256];   /* of cuParamSet* */
};
struct module {
    struct object object;
    struct context *context; /* NULL: a library */
    struct module *next;
    struct function *functions;
    uint64_t globals;                /* bytes of its __device__ variables */
    uint64_t charged[SIM_MAX_CARDS]; /* by device; a module's go with its context */
};

struct array {
    struct object object;
    struct array *next;
    struct context *context;
    CUDA_ARRAY3D_DESCRIPTOR shape;
    uintptr_t data;
    size_t row, slice, bytes;
    unsigned int levels;
    struct array *level[16];
};

/* --- process and locking (cuda_init.c) --- */
struct sim_process {
    pthread_mutex_t lock;
    pthread_cond_t progress; /* an op was resolved */
    int ready;               /* 0, 1, or -1 in a forked child; atomic */
    int slot, devices;
    struct device device[SIM_MAX_CARDS];
    uint64_t next_id;
    unsigned int waiting_streams; /* streams with ops */
    struct lane *lanes;
};
LOCAL extern struct sim_process sim_process;

LOCAL CUresult sim_enter(void);
LOCAL void sim_leave(CUresult *entered);
/* First line of an entry point: 3 unless initialised, then locked until the function returns. */
#define SIM_ENTER()                                                                                \
    __attribute__((cleanup(sim_leave))) CUresult entered_ = sim_enter();                           \
    if (entered_) return entered_

#define CHECK(call)                                                                                \
    do {                                                                                           \
        CUresult rc_ = (call);                                                                     \
        if (rc_) return rc_;                                                                       \
    } while (0)

LOCAL void *object_new(enum sim_kind kind, size_t size);
LOCAL void object_drop(void *object);
static inline bool object_is(const void *object, enum sim_kind kind) {
    return object && !((uintptr_t)object & 7) && ((const struct object *)object)->kind == kind;
}
LOCAL CUresult device_valid(CUdevice device);
/* What ended this process's use of the card: an own fault or, under MPS, another client's. */
static inline CUresult process_fault(void) {
    return (CUresult)__atomic_load_n(&sim_machine()->proc[sim_process.slot].fault,
                                     __ATOMIC_RELAXED);
}

/* --- contexts (cuda_context.c) --- */
/* 201 without, 709 if it is gone. The current one may be a green context: then the one that streams
 * are made in and work runs in is `context_active`, what owns all else is `context_current`. */
LOCAL CUresult context_active(struct context **context);
LOCAL CUresult context_current(struct context **context);
LOCAL CUresult context_find(CUcontext handle, struct context **context); /* NULL: the active one */
LOCAL CUresult context_retain(int device, struct context **primary);
LOCAL CUresult context_release(int device);
LOCAL void context_quiet(struct context *context);  /* its work and its streams end */
LOCAL void green_drop_all(struct context *primary); /* cuda_green.c */
static inline struct device *context_device(const struct context *context) {
    return &sim_process.device[context->device];
}
static inline struct lane *context_lane(const struct context *context) { return context->lane; }

LOCAL CUresult context_local(struct context *context,
                             unsigned int bytes); /* cuda_context_calls.c */

/* --- lanes (cuda_lane.c) --- */
LOCAL struct lane *lane_open(int card, struct sim_sms sms); /* NULL: no more */
LOCAL void lane_close(struct lane *lane);
LOCAL void lane_look(struct lane *lane); /* moves time to now; effects and stamps */
LOCAL uint64_t lane_submit(struct lane *lane, uint64_t ns); /* target */
LOCAL void lane_effect(struct lane *lane, uint64_t target, const struct work *work);
LOCAL void lane_stamp(struct lane *lane, struct event *event);
LOCAL void lane_wait(struct lane *lane, uint64_t target); /* unlocks while it sleeps */
LOCAL void lane_wait_all(struct lane *lane);
LOCAL void device_look(int device); /* all its lanes */
LOCAL void device_wait(int device);
LOCAL void lane_cancel(struct lane *lane);                   /* what is submitted counts as done */
LOCAL bool lane_spin(struct lane *lane, int change);         /* true: it is on the card */
LOCAL uint64_t lane_due(struct lane *lane, uint64_t target); /* earliest wall time */
LOCAL void lane_effects(struct lane *lane);
LOCAL void work_run(const struct work *work); /* cuda_work.c: the effect */

/* --- spinners (cuda_spin.c) --- */
static inline bool work_spins(const struct work *work) {
    return work->kind == WORK_SPIN || work->kind == WORK_MEET;
}
LOCAL bool spin_step(struct lane *lane, struct spinner *spinner); /* true: it has ended */
LOCAL void spin_drop(struct lane *lane, struct spinner *spinner);

/* --- streams (cuda_stream.c, cuda_op.c) --- */
LOCAL CUresult stream_find(CUstream handle, bool per_thread,
                           struct stream **stream); /* and 906 for the NULL stream */
LOCAL CUresult stream_find_quietly(CUstream handle, bool per_thread, struct stream **stream);
LOCAL CUresult stream_new(struct context *context, unsigned int flags, int priority,
                          struct stream **stream);
LOCAL void stream_forget(struct stream *stream);
LOCAL void stream_work(struct stream *stream, const struct work *work, bool launch);
LOCAL void stream_op(struct stream *stream, const struct op *op);
LOCAL void stream_join_legacy(struct stream *stream);
LOCAL void stream_wait(struct stream *stream);
LOCAL bool stream_idle(struct stream *stream);
LOCAL void context_wait(struct context *context); /* the primary: its green ones too */
LOCAL void stream_join(struct stream *stream, struct stream *other);
LOCAL CUresult stream_wait_event(struct stream *stream, CUevent event);
LOCAL void op_wake(void);
LOCAL void event_settle(struct event *event, struct lane *lane, uint64_t target);

/* --- capture (cuda_capture.c) --- */
struct capture {
    struct graph *graph;
    CUstreamCaptureMode mode;
    uint64_t thread, id;
    bool invalid, borrowed;
    struct stream *origin;
    struct capture *next;
};
LOCAL CUresult capture_unsafe(void); /* 900 where the thread's mode forbids the call */
LOCAL CUresult
capture_refuse(struct stream *stream); /* 900 for calls never legal on a capturing stream */
LOCAL CUresult capture_check_context(struct context *context); /* the same for a whole context */
LOCAL CUresult capture_node(struct stream *stream, CUgraphNodeType type, struct node **node);
LOCAL CUresult capture_record(struct stream *stream, struct event *event);
LOCAL CUresult capture_wait(struct stream *stream, struct event *event, bool *done);
LOCAL void capture_invalidate(struct capture *capture);
LOCAL struct capture *capture_of(const struct event *event); /* NULL if it has ended */
LOCAL void capture_forget_stream(struct stream *stream);
static inline bool stream_capturing(const struct stream *stream) { return stream->capture; }

/* --- graphs (cuda_graph.c, cuda_exec.c) --- */
struct node {
    struct object object;
    struct graph *graph;
    struct node *next;
    struct node *twin,
        *origin; /* in a copied graph: the newest copy of this, what this is a copy of */
    CUgraphNodeType type;
    uint64_t index;
    struct node **deps;
    size_t dep_count;
    bool disabled;
    int mark;
    struct work work;
    CUDA_KERNEL_NODE_PARAMS kernel;
    CUDA_MEMCPY3D copy;
    CUDA_MEMSET_NODE_PARAMS set;
    CUDA_HOST_NODE_PARAMS host;
    CUDA_MEM_ALLOC_NODE_PARAMS alloc;
    CUevent event;
    struct graph *child;
    struct op word;
};
struct graph {
    struct object object;
    struct node *nodes, **end;
    size_t count;
    uint64_t id;
};
LOCAL struct graph *graph_new(void);
LOCAL struct node *graph_add(struct graph *graph, CUgraphNodeType type, struct node *const *deps,
                             size_t count);
LOCAL struct graph *graph_copy(struct graph *graph);
LOCAL void graph_drop(struct graph *graph);
LOCAL CUresult graph_alloc(int device, size_t bytes, struct node *node, CUdeviceptr *pointer);
LOCAL CUresult graph_reserve(int device, uint64_t bytes);
LOCAL CUresult graph_node_add(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
                              size_t count, CUgraphNodeType type, struct node **node);
LOCAL CUresult graph_node_params(struct node *node,
                                 CUgraphNodeParams *params); /* takes them over by type */
LOCAL CUresult graph_kernel_params(struct node *node, const CUDA_KERNEL_NODE_PARAMS *params);
LOCAL CUresult exec_launch(CUgraphExec exec, struct stream *stream);
LOCAL bool node_set_deps(struct node *node, struct node *const *deps, size_t count);

/* --- memory --- */
LOCAL void *pages_new(size_t size); /* 2 MiB aligned, zero, costs nothing until touched */
LOCAL void pages_drop(uintptr_t start, size_t size);
LOCAL struct range *range_add(uintptr_t start, size_t size, enum range_kind kind);
LOCAL struct range *range_of(uintptr_t address);
LOCAL void range_remove(struct range *range);                  /* off the tree; and freed */
LOCAL bool piece_find(uintptr_t address, struct piece *piece); /* what holds this byte */
LOCAL bool piece_valid(uintptr_t address, size_t size);        /* the whole stretch is ours */
LOCAL CUresult block_alloc(struct context *context, size_t bytes, CUdeviceptr *pointer);
LOCAL CUresult block_free(const struct piece *piece);
LOCAL bool block_piece(struct range *range, uintptr_t address, struct piece *piece);
LOCAL CUresult memory_alloc(struct context *context, size_t bytes, CUdeviceptr *pointer);
LOCAL CUresult memory_free(CUdeviceptr pointer);
LOCAL void share_close(const struct range *range); /* before an exported allocation is given back */
LOCAL void memory_drop_context(struct context *context);
LOCAL void array_drop_context(struct context *context);
LOCAL CUresult pool_alloc(struct pool *pool, size_t bytes, CUdeviceptr *pointer);
LOCAL CUresult pool_free(struct range *range, uintptr_t pointer);
LOCAL bool pool_piece(struct range *range, uintptr_t address, struct piece *piece);
LOCAL void pool_release_unused(int device); /* at every synchronisation */
LOCAL struct pool *pool_default(int device);
LOCAL bool vmm_piece(struct range *range, uintptr_t address, struct piece *piece);

/* --- kernels --- */
LOCAL CUresult function_valid(CUfunction handle, struct function **function);
LOCAL void function_work(const struct function *function, void **params, void **extra,
                         struct work *work);
LOCAL CUresult module_use(struct module *module); /* a library, in the current context */
LOCAL void module_drop_context(struct context *context);
LOCAL CUresult copy_prepare(const CUDA_MEMCPY3D *copy, struct work *work); /* cuda_copy.c */
LOCAL CUresult set_prepare(const CUDA_MEMSET_NODE_PARAMS *set, struct work *work);

#endif
