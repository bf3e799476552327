#include "gate.h"

#include "atomics.h"
#include "times.h"

#define TICK_NS UINT64_C(100)
#define EPOCHS 32768U

static bool is_open(uint64_t word) { return word & 1; }
static uint32_t epoch_of(uint64_t word) { return (uint32_t)(word >> 1) & (EPOCHS - 1); }
static uint64_t ticks_of(uint64_t word) { return word >> 16; }

static uint64_t make_word(uint64_t ticks, uint32_t epoch, bool open) {
    return ticks << 16 | (uint64_t)(epoch & (EPOCHS - 1)) << 1 | (open ? 1U : 0U);
}

static uint32_t next_epoch(uint32_t epoch) { return epoch + 1 < EPOCHS ? epoch + 1 : 1; }

static uint64_t to_ticks(struct vgpu_gate gate, uint64_t ns) {
    return ns > gate.start_ns ? (ns - gate.start_ns) / TICK_NS : 0;
}

static uint64_t to_ns(struct vgpu_gate gate, uint64_t ticks) {
    return gate.start_ns + ticks * TICK_NS;
}

static uint32_t share_of(struct vgpu_gate gate) {
    uint32_t ppm = gate.share_ppm ? gate.share_ppm : vgpu_gate_share(gate.device);
    return ppm ? ppm : 1;
}

/* Length of a slice that starts on schedule. */
static uint64_t slice_ns(uint32_t share_ppm, uint64_t period_ns) {
    return later(period_ns * share_ppm / VGPU_WHOLE_GPU, VGPU_GATE_SLICE_MIN_NS);
}

/* A slice that started `lag` behind its schedule is not ahead of it before lag·s/(1−s) have run: it
 * need not drain until then. */
static uint64_t end_of(const struct vgpu_gate_slice *slice, uint32_t ppm, uint64_t length_ns) {
    uint64_t catch_up = VGPU_GATE_SLICE_MAX_NS;
    if (ppm < VGPU_WHOLE_GPU)
        catch_up = minus(slice->open_ns, slice->base_ns) * ppm / (VGPU_WHOLE_GPU - ppm);
    return slice->open_ns + later(length_ns, earlier(catch_up, VGPU_GATE_SLICE_MAX_NS));
}

/* With the whole GPU a session is never ahead of its schedule, but its processes take turns all the
 * same. */
static uint64_t shared_end_of(const struct vgpu_gate_slice *slice, uint32_t ppm,
                              uint64_t length_ns) {
    return ppm < VGPU_WHOLE_GPU ? end_of(slice, ppm, length_ns) : slice->open_ns + length_ns;
}

/* The ceiling, 0 = the share is one. */
static uint32_t burst_of(struct vgpu_gate gate) {
    uint32_t ppm = vgpu_load_relaxed(&gate.device->burst_ppm);
    if (ppm <= share_of(gate)) return 0;
    return ppm < VGPU_WHOLE_GPU ? ppm : VGPU_WHOLE_GPU;
}

/* Lengths of a slice: where the session is alone, and while another of its processes waits. */
struct lengths {
    uint64_t alone_ns, shared_ns;
};

static struct lengths lengths_of(struct vgpu_gate gate, uint32_t ppm) {
    if (gate.quantum_ns) return (struct lengths){gate.quantum_ns, gate.quantum_ns};
    uint64_t period = gate.period_ns ? gate.period_ns : VGPU_GATE_PERIOD_NS;
    return (struct lengths){slice_ns(ppm, period),
                            slice_ns(ppm, later(period, VGPU_GATE_PERIOD_SHARED_NS))};
}

static void describe(struct vgpu_gate gate, uint64_t word, struct vgpu_gate_slice *slice) {
    slice->epoch = epoch_of(word);
    slice->open_ns = to_ns(gate, ticks_of(word));
    uint64_t base = vgpu_load_relaxed(&gate.device->gate_base[slice->epoch & 1]);
    slice->base_ns = to_ns(gate, base);
    slice->bursting = vgpu_load_relaxed(&gate.device->gate_burst_epoch) == slice->epoch;
    uint32_t ppm = slice->bursting ? burst_of(gate) : share_of(gate);
    struct lengths lengths = lengths_of(gate, ppm);
    slice->end_ns = end_of(slice, ppm, lengths.alone_ns);
    slice->end_shared_ns = shared_end_of(slice, ppm, lengths.shared_ns);
}

/* Ticks; never, if there is no burst or it is not allowed now. */
static uint64_t burst_next(struct vgpu_gate gate) {
    if (!gate.may_burst || !burst_of(gate)) return UINT64_MAX >> 16;
    return vgpu_load_relaxed(&gate.device->gate_burst);
}

enum vgpu_gate_answer vgpu_gate_ask(struct vgpu_gate gate, uint64_t now_ns, uint64_t request_ns,
                                    struct vgpu_gate_slice *slice) {
    uint64_t word = vgpu_load_seq_cst(&gate.device->gate_word);
    uint64_t now = to_ticks(gate, now_ns);
    while (!is_open(word)) {
        uint64_t next = ticks_of(word);
        bool bursting = next > now && burst_next(gate) <= now;
        if (next > now && !bursting) {
            slice->until_ns = to_ns(gate, earlier(next, burst_next(gate)));
            return VGPU_GATE_WAIT;
        }
        uint32_t epoch = next_epoch(epoch_of(word));
        /* The credit counts from the request: time spent waiting for the turn is not lost. */
        uint64_t base = later(next, to_ticks(gate, minus(request_ns, VGPU_GATE_CREDIT_NS)));
        base = later(base, minus(now, VGPU_GATE_SLICE_MAX_NS / TICK_NS));
        if (bursting) base = next; /* the share's schedule stays as it is */
        vgpu_store_relaxed(&gate.device->gate_base[epoch & 1], base);
        vgpu_store_relaxed(&gate.device->gate_burst_epoch, (uint64_t)(bursting ? epoch : 0));
        if (vgpu_cas_seq_cst(&gate.device->gate_word, &word, make_word(now, epoch, true))) {
            describe(gate, make_word(now, epoch, true), slice);
            return VGPU_GATE_OPENED;
        }
    }
    describe(gate, word, slice);
    return VGPU_GATE_TAKEN;
}

uint64_t vgpu_gate_next(struct vgpu_gate gate, uint64_t now_ns, bool *bursting) {
    uint64_t word = vgpu_load_seq_cst(&gate.device->gate_word);
    uint64_t next = ticks_of(word), burst = burst_next(gate);
    *bursting = !is_open(word) && next > to_ticks(gate, now_ns) && burst < next;
    return is_open(word) ? 0 : to_ns(gate, *bursting ? burst : next);
}

uint64_t vgpu_gate_after(struct vgpu_gate gate, const struct vgpu_gate_slice *slice,
                         uint64_t from_ns, uint64_t drained_ns) {
    if (slice->bursting || burst_of(gate)) return 0;
    return slice->base_ns + minus(drained_ns, from_ns) * VGPU_WHOLE_GPU / share_of(gate);
}

bool vgpu_gate_look(struct vgpu_gate gate, struct vgpu_gate_slice *slice) {
    uint64_t word = vgpu_load_seq_cst(&gate.device->gate_word);
    if (is_open(word)) describe(gate, word, slice);
    return is_open(word);
}

bool vgpu_gate_holds(struct vgpu_gate gate, uint32_t epoch) {
    uint64_t word = vgpu_load_seq_cst(&gate.device->gate_word);
    return is_open(word) && epoch_of(word) == epoch &&
           vgpu_load_seq_cst(&gate.device->gate_closing) != epoch;
}

void vgpu_gate_begin_close(struct vgpu_gate gate, uint32_t epoch) {
    vgpu_store_seq_cst(&gate.device->gate_closing, epoch);
}

static void book(struct vgpu_gate gate, uint64_t charge_ns) {
    vgpu_add_relaxed(&gate.device->charged_ns, charge_ns);
}

static void book_burst(struct vgpu_gate gate, uint64_t opened, uint64_t charge) {
    uint32_t ppm = burst_of(gate);
    uint64_t next = later(vgpu_load_relaxed(&gate.device->gate_burst),
                          minus(opened, VGPU_GATE_CREDIT_NS / TICK_NS));
    if (ppm) vgpu_store_relaxed(&gate.device->gate_burst, next + charge * VGPU_WHOLE_GPU / ppm);
}

bool vgpu_gate_close(struct vgpu_gate gate, uint32_t epoch, uint64_t drained_ns) {
    uint64_t word = vgpu_load_seq_cst(&gate.device->gate_word);
    if (!is_open(word) || epoch_of(word) != epoch) return false;
    uint64_t opened = ticks_of(word);
    /* Half a tick is added so that rounding does not favour the session. */
    uint64_t charge = minus(to_ticks(gate, drained_ns + TICK_NS / 2), opened);
    uint64_t base = vgpu_load_relaxed(&gate.device->gate_base[epoch & 1]);
    /* A stopped opener of long ago may have left an old base: it never buys more than this. */
    base = later(base, minus(opened, VGPU_GATE_SLICE_MAX_NS / TICK_NS));
    bool bursting = vgpu_load_relaxed(&gate.device->gate_burst_epoch) == epoch;
    uint64_t next = bursting ? base : base + charge * VGPU_WHOLE_GPU / share_of(gate);
    if (!vgpu_cas_seq_cst(&gate.device->gate_word, &word, make_word(next, epoch, false)))
        return false;
    book_burst(gate, opened, charge);
    book(gate, charge * TICK_NS);
    vgpu_add_relaxed(&gate.device->slices, UINT64_C(1));
    return true;
}

void vgpu_gate_follow(struct vgpu_gate gate, uint64_t now_ns, uint64_t request_ns,
                      struct vgpu_gate_slice *outer) {
    uint64_t word = vgpu_load_seq_cst(&gate.device->gate_word), base;
    do {
        base = later(ticks_of(word), to_ticks(gate, minus(request_ns, VGPU_GATE_CREDIT_NS)));
    } while (
        !vgpu_cas_seq_cst(&gate.device->gate_word, &word, make_word(base, epoch_of(word), false)));
    const struct vgpu_gate_slice slice = {.open_ns = now_ns, .base_ns = to_ns(gate, base)};
    uint32_t ppm = share_of(gate);
    struct lengths lengths = lengths_of(gate, ppm);
    outer->end_ns = earlier(outer->end_ns, end_of(&slice, ppm, lengths.alone_ns));
    uint64_t shared = shared_end_of(&slice, ppm, lengths.shared_ns);
    outer->end_shared_ns = earlier(outer->end_shared_ns, shared);
}

void vgpu_gate_charge(struct vgpu_gate gate, uint64_t charge_ns) {
    uint64_t ticks = charge_ns / TICK_NS * VGPU_WHOLE_GPU / share_of(gate);
    uint64_t word = vgpu_load_seq_cst(&gate.device->gate_word);
    for (;;) {
        if (is_open(word)) {
            /* An open slice's schedule is its base: moving that back is the same debt. */
            vgpu_add_relaxed(&gate.device->gate_base[epoch_of(word) & 1], ticks);
            break;
        }
        uint64_t later_word = make_word(ticks_of(word) + ticks, epoch_of(word), false);
        if (vgpu_cas_seq_cst(&gate.device->gate_word, &word, later_word)) break;
    }
    book(gate, charge_ns);
}
