/* Ops: what a stream cannot submit yet, and the thread that carries on when it can. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_sim.h"

static pthread_cond_t wake;
static bool started, polling;

/* --- one op --- */

static void write_word(const struct op *op) {
    if (op->word.wide)
        __atomic_store_n((uint64_t *)op->word.address, op->word.value, __ATOMIC_RELEASE);
    else __atomic_store_n((uint32_t *)op->word.address, (uint32_t)op->word.value, __ATOMIC_RELEASE);
}

/* cuStreamWaitValue: 0 = value reached (in the sense of a wrapping counter), 1 = equal, 2 = and, 3
 * = nor. */
static bool word_ready(const struct op *op) {
    uint64_t value = op->word.value;
    uint64_t word = op->word.wide
                        ? __atomic_load_n((const uint64_t *)op->word.address, __ATOMIC_ACQUIRE)
                        : __atomic_load_n((const uint32_t *)op->word.address, __ATOMIC_ACQUIRE);
    switch (op->word.flags & 3) {
    case 0:
        return op->word.wide ? (int64_t)(word - value) >= 0
                             : (int32_t)((uint32_t)word - (uint32_t)value) >= 0;
    case 1:
        return word == value;
    case 2:
        return word & value;
    default:
        return op->word.wide ? ~(word | value) : (uint32_t) ~(word | value);
    }
}

/* True if the op is over. *due: when to look again if it is not. */
static bool op_step(struct stream *stream, struct op *op, uint64_t *due) {
    struct lane *lane = context_lane(stream->context);
    bool drained = lane->done >= stream->tail;
    switch (op->kind) {
    case OP_WORK:
        stream->tail = lane_submit(lane, op->work.ns);
        if (op->work.kind) lane_effect(lane, stream->tail, &op->work);
        return true;
    case OP_SPIN:
        *due = drained ? sim_now() + 20000 : lane_due(lane, stream->tail);
        return drained && spin_step(lane, &op->spin);
    case OP_EVENT:
        if (op->record.event->version == op->record.version)
            event_settle(op->record.event, lane, stream->tail);
        return true;
    case OP_WAIT_STREAM: {
        const struct stream *other = op->join.stream;
        if (other->resolved < op->join.count) return false;
        if (context_lane(other->context) != lane) {
            op->kind = OP_WAIT_TARGET;
            op->wait.target = other->tail;
            op->wait.lane = context_lane(other->context);
            return op_step(stream, op, due);
        }
        if (other->tail > stream->tail) stream->tail = other->tail;
        return true;
    }
    case OP_WAIT_TARGET:
        lane_look(op->wait.lane);
        *due = lane_due(op->wait.lane, op->wait.target);
        return op->wait.lane->done >= op->wait.target;
    case OP_WAIT_VALUE:
        *due = drained ? sim_now() + 50000 : lane_due(lane, stream->tail);
        return drained && word_ready(op);
    case OP_WRITE_VALUE:
        *due = lane_due(lane, stream->tail);
        if (drained) write_word(op);
        return drained;
    case OP_HOST:
    case OP_CALLBACK:
        *due = lane_due(lane, stream->tail);
        if (!drained || op->running) return false;
        op->running = true;
        pthread_mutex_unlock(&sim_process.lock);
        if (op->kind == OP_HOST) op->host.fn(op->host.data);
        else op->host.callback((CUstream)stream, CUDA_SUCCESS, op->host.data);
        pthread_mutex_lock(&sim_process.lock);
        return true;
    }
    return true;
}

static void op_pop(struct stream *stream) {
    struct op *op = stream->first;
    stream->first = op->next;
    if (!stream->first) {
        stream->last = NULL;
        sim_process.waiting_streams--;
    }
    stream->resolved++;
    struct context *context = stream->context;
    if (!(stream->flags & CU_STREAM_NON_BLOCKING) && stream->tail > context->blocking_tail)
        context->blocking_tail = stream->tail;
    free(op);
    pthread_cond_broadcast(&sim_process.progress);
}

/* --- all streams --- */

static struct context **contexts;
static size_t context_count;

static struct context *each_context(size_t *at) {
    return *at < context_count ? contexts[(*at)++] : NULL;
}

/* Does what can be done now; returns when there may be more, UINT64_MAX if nobody waits for time to
 * pass. */
static uint64_t step_all(void) {
    uint64_t next = UINT64_MAX;
    for (bool again = true; again;) {
        again = false;
        for (struct lane *lane = sim_process.lanes; lane; lane = lane->next) {
            if (!lane->open || !lane->submitted) continue;
            lane_look(lane);
            if (lane->to_host) {
                uint64_t due = lane_due(lane, lane->effects[lane->effect_first].target);
                if (due < next) next = due;
            }
        }
        struct context *context;
        for (size_t at = 0; (context = each_context(&at));)
            for (struct stream *stream = context->streams; stream; stream = stream->next)
                while (stream->first) {
                    uint64_t due = UINT64_MAX;
                    if (!op_step(stream, stream->first, &due)) {
                        if (due < next) next = due;
                        break;
                    }
                    op_pop(stream);
                    again = true;
                    next = UINT64_MAX;
                }
    }
    return next;
}

static void *carry_on(void *unused) {
    (void)unused;
    pthread_mutex_lock(&sim_process.lock);
    for (;;) {
        uint64_t next = sim_process.waiting_streams || polling ? step_all() : UINT64_MAX;
        polling = next != UINT64_MAX;
        if (next == UINT64_MAX) {
            pthread_cond_wait(&wake, &sim_process.lock);
            continue;
        }
        uint64_t soon = sim_now() + 20000;
        if (next < soon) next = soon;
        struct timespec t = {.tv_sec = (time_t)(next / 1000000000),
                             .tv_nsec = (long)(next % 1000000000)};
        pthread_cond_timedwait(&wake, &sim_process.lock, &t);
    }
    return NULL;
}

/* Something waits that no call may come to look after. The thread is made at the first such thing;
 * signals are not its. */
void op_wake(void) {
    if (!started) {
        pthread_condattr_t clock;
        pthread_condattr_init(&clock);
        pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
        pthread_cond_init(&wake, &clock);
        pthread_t thread;
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        started = !pthread_create(&thread, NULL, carry_on, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (started) pthread_detach(thread);
    }
    polling = true;
    pthread_cond_signal(&wake);
}

void stream_op(struct stream *stream, const struct op *op) {
    struct op *copy = malloc(sizeof *copy);
    if (!copy) abort();
    *copy = *op;
    copy->next = NULL;
    copy->running = false;
    if (stream->last) stream->last->next = copy;
    else {
        stream->first = copy;
        sim_process.waiting_streams++;
        bool known = false;
        for (size_t i = 0; i < context_count; i++) known |= contexts[i] == stream->context;
        if (!known) {
            struct context **grown =
                realloc(contexts, (context_count + 1) * sizeof(struct context *));
            if (!grown) abort();
            contexts = grown;
            contexts[context_count++] = stream->context;
        }
    }
    stream->last = copy;
    stream->queued++;
    op_wake();
}

/* The stream's context goes: what it still waited for will never happen. */
void stream_forget(struct stream *stream) {
    while (stream->first) {
        if (stream->first->running) { /* its function is being called right now */
            pthread_cond_wait(&sim_process.progress, &sim_process.lock);
            continue;
        }
        struct op *op = stream->first;
        if (op->kind == OP_WORK && op->work.kind == WORK_STAGED) free(op->work.staged.bytes);
        if (op->kind == OP_SPIN) spin_drop(context_lane(stream->context), &op->spin);
        if (op->kind == OP_EVENT && op->record.event->version == op->record.version)
            event_settle(op->record.event, context_lane(stream->context),
                         0); /* whoever waits for it must come back */
        op_pop(stream);
    }
    capture_forget_stream(stream);
    object_drop(stream);
}
