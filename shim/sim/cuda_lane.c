/* A lane: this process's queue on one card. Submitting, looking how far it is, and waiting. */
#include <stdlib.h>

#include "cuda_sim.h"

static struct sim_queue *lane_queue(const struct lane *lane) {
    return &sim_machine()->queue[lane->queue];
}

/* A closed one is used again: its targets go on from where they were, since events keep them. */
struct lane *lane_open(int card, struct sim_sms sms) {
    struct sim_machine *machine = sim_machine();
    struct lane *lane = sim_process.lanes;
    while (lane && (lane->open || lane->card != card)) lane = lane->next;
    if (!lane) {
        lane = calloc(1, sizeof *lane);
        if (!lane) return NULL;
        lane->card = card;
        lane->next = sim_process.lanes;
        sim_process.lanes = lane;
    }
    sim_lock(machine);
    lane->queue = sim_queue_take(machine, sim_process.slot, card, sms, lane->submitted);
    sim_unlock(machine);
    if (lane->queue < 0) return NULL;
    lane->sms = sms;
    lane->seen = 0;
    lane->open = true;
    return lane;
}

void lane_close(struct lane *lane) {
    struct sim_machine *machine = sim_machine();
    lane->open = false;
    sim_lock(machine);
    sim_queue_give(machine, lane->queue);
    sim_unlock(machine);
}

/* --- stamps: events that want to know when their target was reached; a heap, the least target on
 * top --- */

static void heap_up(struct lane *lane, size_t i) {
    struct stamp item = lane->stamps[i];
    for (; i && item.target < lane->stamps[(i - 1) / 2].target; i = (i - 1) / 2)
        lane->stamps[i] = lane->stamps[(i - 1) / 2];
    lane->stamps[i] = item;
}

static struct stamp heap_pop(struct lane *lane) {
    struct stamp top = lane->stamps[0], item = lane->stamps[--lane->stamp_count];
    size_t i = 0, n = lane->stamp_count;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && lane->stamps[child + 1].target < lane->stamps[child].target) child++;
        if (item.target <= lane->stamps[child].target) break;
        lane->stamps[i] = lane->stamps[child];
    }
    if (n) lane->stamps[i] = item;
    return top;
}

static void stamps_settle(struct lane *lane, const struct sim_queue *queue) {
    uint64_t from = lane->seen;
    if (queue->written > from + SIM_SEGMENTS)
        from = queue->written - SIM_SEGMENTS; /* the rest is forgotten */
    for (; from < queue->written && lane->stamp_count; from++) {
        const struct sim_segment *segment = &queue->segments[from % SIM_SEGMENTS];
        while (lane->stamp_count && lane->stamps[0].target <= segment->to) {
            struct stamp stamp = heap_pop(lane);
            if (stamp.event->version != stamp.version) continue; /* recorded again, or destroyed */
            stamp.event->stamp = sim_segment_when(segment, stamp.target);
            stamp.event->stamped = true;
        }
    }
    lane->seen = queue->written ? queue->written - 1 : 0; /* the newest segment may still grow */
}

/* Moves the card's time to now and notes how far the lane is; both locks are held. */
static void look_locked(struct lane *lane) {
    struct sim_queue *queue = lane_queue(lane);
    sim_advance(sim_machine(), lane->card, sim_now());
    lane->done = queue->done;
    if (lane->stamp_count) stamps_settle(lane, queue);
    else lane->seen = queue->written ? queue->written - 1 : 0;
}

void lane_look(struct lane *lane) {
    struct sim_machine *machine = sim_machine();
    if (!lane->open) return;
    sim_lock(machine);
    look_locked(lane);
    sim_unlock(machine);
    lane_effects(lane);
}

uint64_t lane_submit(struct lane *lane, uint64_t ns) {
    struct sim_machine *machine = sim_machine();
    struct sim_queue *queue = lane_queue(lane);
    sim_lock(machine);
    look_locked(lane); /* work that arrives now cannot have run before */
    if (queue->submitted - queue->done < SIM_ENDLESS * 4) queue->submitted += ns;
    lane->submitted = queue->submitted;
    sim_unlock(machine);
    return lane->submitted;
}

void lane_stamp(struct lane *lane, struct event *event) {
    if (lane->stamp_count == lane->stamp_room) {
        size_t room = lane->stamp_room ? lane->stamp_room * 2 : 64;
        struct stamp *grown = realloc(lane->stamps, room * sizeof *grown);
        if (!grown) return;
        lane->stamps = grown;
        lane->stamp_room = room;
    }
    lane->stamps[lane->stamp_count] = (struct stamp){event->target, event, event->version};
    heap_up(lane, lane->stamp_count++);
}

/* --- effects: what work does to memory, carried out in order once its target was reached --- */

void lane_effect(struct lane *lane, uint64_t target, const struct work *work) {
    if (lane->effect_count == lane->effect_room) {
        size_t room = lane->effect_room ? lane->effect_room * 2 : 64;
        struct pending *grown = malloc(room * sizeof *grown);
        if (!grown) abort();
        for (size_t i = 0; i < lane->effect_count; i++)
            grown[i] = lane->effects[(lane->effect_first + i) % lane->effect_room];
        free(lane->effects);
        lane->effects = grown;
        lane->effect_first = 0;
        lane->effect_room = room;
    }
    lane->effects[(lane->effect_first + lane->effect_count++) % lane->effect_room] =
        (struct pending){target, *work};
    if (work->to_host) {
        lane->to_host++;
        op_wake();
    } else if (lane->effect_count > 4096) {
        lane_look(lane);
    }
}

void lane_effects(struct lane *lane) {
    while (lane->effect_count && lane->effects[lane->effect_first].target <= lane->done) {
        struct work work = lane->effects[lane->effect_first].work;
        lane->effect_first = (lane->effect_first + 1) % lane->effect_room;
        lane->effect_count--;
        if (work.to_host) lane->to_host--;
        work_run(&work);
    }
}

/* --- spinners --- */

bool lane_spin(struct lane *lane, int change) {
    struct sim_machine *machine = sim_machine();
    struct sim_queue *queue = lane_queue(lane);
    sim_lock(machine);
    look_locked(lane);
    if (change > 0 || queue->spinning) queue->spinning += (unsigned int)change;
    if (change > 0) sim_advance(machine, lane->card, sim_now());
    bool on_card = sim_on_card(machine, queue);
    sim_unlock(machine);
    lane->spinners += (unsigned int)change;
    lane_effects(lane);
    return on_card;
}

/* --- waiting --- */

/* Never late for a lane that has the card to itself; with competitors too early, then the caller
 * looks again. */
uint64_t lane_due(struct lane *lane, uint64_t target) {
    uint64_t left = target > lane->done ? target - lane->done : 0;
    return sim_now() + (left < 20000000 ? left : 20000000);
}

void lane_wait(struct lane *lane, uint64_t target) {
    lane_look(lane);
    while (lane->done < target) {
        uint64_t due = lane_due(lane, target);
        pthread_mutex_unlock(&sim_process.lock);
        sim_sleep_until(due);
        pthread_mutex_lock(&sim_process.lock);
        lane_look(lane);
    }
}

void lane_wait_all(struct lane *lane) {
    while (lane->spinners) pthread_cond_wait(&sim_process.progress, &sim_process.lock);
    lane_wait(lane, lane->submitted);
}

void device_look(int device) {
    for (struct lane *lane = sim_process.lanes; lane; lane = lane->next)
        if (lane->card == sim_process.device[device].card) lane_look(lane);
}

void device_wait(int device) {
    for (struct lane *lane = sim_process.lanes; lane; lane = lane->next)
        if (lane->card == sim_process.device[device].card) lane_wait_all(lane);
}

void lane_cancel(struct lane *lane) {
    struct sim_machine *machine = sim_machine();
    struct sim_queue *queue = lane_queue(lane);
    lane_look(lane);
    sim_lock(machine);
    look_locked(lane);
    lane->done = queue->done = queue->submitted;
    sim_unlock(machine);
    for (; lane->effect_count; lane->effect_count--) {
        struct work *work = &lane->effects[lane->effect_first].work;
        if (work->kind == WORK_STAGED) free(work->staged.bytes);
        lane->effect_first = (lane->effect_first + 1) % lane->effect_room;
    }
    lane->to_host = 0;
}
