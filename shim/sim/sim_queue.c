/* Queues: one sequence of work each, and how fast those that run at the same time do. */
#include <stddef.h>
#include <string.h>

#include "sim.h"

int sim_queue_take(struct sim_machine *machine, int slot, int card, struct sim_sms sms,
                   uint64_t from) {
    for (int i = 0; i < SIM_MAX_QUEUES; i++) {
        struct sim_queue *queue = &machine->queue[i];
        if (i < machine->queue_end && queue->proc >= 0) continue;
        memset(queue, 0, offsetof(struct sim_queue, segments));
        queue->card = card;
        queue->sms = sms;
        queue->submitted = queue->done = from;
        queue->proc = slot;
        if (machine->queue_end <= i) machine->queue_end = i + 1;
        return i;
    }
    return -1;
}

void sim_queue_give(struct sim_machine *machine, int queue) { machine->queue[queue].proc = -1; }

/* Blocks go where there is room: an SM that several queues want gives each the same part of
 * itself, and a queue is as fast as its SMs are on average. */
void sim_queues_rate(struct sim_queue *const *queues, int count) {
    unsigned int sum = 0;
    struct sim_sms all = {0};
    for (int i = 0; i < count; i++) {
        if (queues[i]->submitted == queues[i]->done) continue;
        sum += sim_sms_count(queues[i]->sms);
        all = sim_sms_join(all, queues[i]->sms);
        queues[i]->rate = SIM_FULL_RATE;
    }
    if (sim_sms_count(all) == sum) return;
    unsigned int wanted[64 * SIM_SM_WORDS] = {0};
    for (int i = 0; i < count; i++)
        for (unsigned int sm = 0; queues[i]->submitted > queues[i]->done && sm < 64 * SIM_SM_WORDS;
             sm++)
            wanted[sm] += (unsigned int)(queues[i]->sms.word[sm / 64] >> sm % 64) & 1;
    for (int i = 0; i < count; i++) {
        if (queues[i]->submitted == queues[i]->done) continue;
        uint64_t rate = 0;
        for (unsigned int sm = 0; sm < 64 * SIM_SM_WORDS; sm++)
            if (queues[i]->sms.word[sm / 64] >> sm % 64 & 1) rate += SIM_FULL_RATE / wanted[sm];
        queues[i]->rate = rate / sim_sms_count(queues[i]->sms);
    }
}

uint64_t sim_queue_left(const struct sim_queue *queue) {
    uint64_t left = queue->submitted - queue->done;
    if (!left) return UINT64_MAX; /* it only spins */
    if (queue->rate == SIM_FULL_RATE || left >= SIM_ENDLESS / SIM_FULL_RATE) return left;
    return (left * SIM_FULL_RATE - queue->fraction + queue->rate - 1) / queue->rate;
}

void sim_queue_run(struct sim_queue *queue, uint64_t start, uint64_t end) {
    if (queue->submitted == queue->done) return;
    uint64_t ran = (end - start) * queue->rate + queue->fraction;
    queue->fraction = ran % SIM_FULL_RATE;
    ran /= SIM_FULL_RATE;
    if (ran >= queue->submitted - queue->done) {
        ran = queue->submitted - queue->done;
        queue->fraction = 0;
    }
    struct sim_segment *last = &queue->segments[(queue->written - 1) % SIM_SEGMENTS];
    if (queue->written && last->to == queue->done && last->end == start &&
        last->rate == queue->rate) {
        last->to += ran;
        last->end = end;
    } else {
        queue->segments[queue->written++ % SIM_SEGMENTS] =
            (struct sim_segment){start, end, queue->done, queue->done + ran, queue->rate};
    }
    queue->done += ran;
}

uint64_t sim_segment_when(const struct sim_segment *segment, uint64_t target) {
    uint64_t into = target > segment->from ? target - segment->from : 0;
    if (segment->rate != SIM_FULL_RATE)
        into = (into * SIM_FULL_RATE + segment->rate - 1) / segment->rate;
    uint64_t when = segment->start + into;
    return when < segment->end ? when : segment->end;
}
