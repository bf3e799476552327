/* Spinners: kernels that wait on the card for a word in memory to change, as NCCL's and hand-made
 * barriers do. They see it only while their process has the card. */
#include "cuda_sim.h"

static void start(struct spinner *spinner) {
    const struct work *work = &spinner->work;
    spinner->started = true;
    spinner->goal = work->spin.value;
    if (work->kind == WORK_SPIN) return;
    uint32_t before = __atomic_fetch_add((uint32_t *)work->spin.word, 1, __ATOMIC_ACQ_REL);
    spinner->goal = (before / work->spin.value + 1) * work->spin.value;
}

/* The word counts up: whoever looks late must not miss it. */
static bool satisfied(const struct spinner *spinner) {
    uint32_t word = __atomic_load_n((const uint32_t *)spinner->work.spin.word, __ATOMIC_ACQUIRE);
    return (int32_t)(word - spinner->goal) >= 0;
}

bool spin_step(struct lane *lane, struct spinner *spinner) {
    bool on_card = lane_spin(lane, spinner->begun ? 0 : 1);
    spinner->begun = true;
    if (!on_card && !process_fault()) return false;
    if (!spinner->started) start(spinner);
    if (!satisfied(spinner) && !process_fault()) return false;
    spin_drop(lane, spinner);
    return true;
}

void spin_drop(struct lane *lane, struct spinner *spinner) {
    if (spinner->begun) lane_spin(lane, -1);
    spinner->begun = false;
}
