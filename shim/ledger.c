#include "ledger.h"

#include <sched.h>
#include <time.h>

#include "atomics.h"
#include "slot.h"
#include "soft.h"

/* Each round two contenders choose pauses at random, so ever more rounds of equal choices are ever
 * less likely: after 40 the request is refused rather than waited for. */
#define CONTENTION_ROUNDS 40

uint64_t vgpu_ledger_limit(const struct vgpu_region *region, uint32_t device) {
    const struct vgpu_device *entry = &region->devices[device];
    uint64_t limit = vgpu_load_relaxed(&entry->mem_limit);
    uint64_t total = vgpu_load_relaxed(&entry->total_bytes);
    if (limit == VGPU_NO_LIMIT || total == 0) return limit;
    return limit < total ? limit : total;
}

uint64_t vgpu_ledger_used(const struct vgpu_region *region, uint32_t device) {
    uint32_t slots = vgpu_load_seq_cst(&region->header.slots_used);
    if (slots > VGPU_MAX_SLOTS) slots = VGPU_MAX_SLOTS;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < slots; i++) {
        const struct vgpu_slot *slot = &region->slots[i];
        uint32_t state = vgpu_slot_state(vgpu_load_acquire(&slot->owner));
        if (state != VGPU_SLOT_LIVE && state != VGPU_SLOT_DYING) continue;
        const struct vgpu_use *use = &slot->use[device];
        /* Signed, so that neither a refund too many nor the drift can turn into 16 EiB. */
        int64_t held =
            (int64_t)vgpu_load_seq_cst(&use->charged_bytes) + vgpu_load_relaxed(&use->drift_bytes);
        if (held > 0) sum += (uint64_t)held;
    }
    return sum;
}

uint64_t vgpu_ledger_left(const struct vgpu_region *region, uint32_t device) {
    uint64_t limit = vgpu_ledger_limit(region, device);
    if (limit == VGPU_NO_LIMIT) return limit;
    uint64_t used = vgpu_ledger_used(region, device);
    return used < limit ? limit - used : 0;
}

uint64_t vgpu_account_limit(const struct vgpu_account *account) {
    uint64_t least = VGPU_NO_LIMIT;
    for (; account; account = account->outer) {
        uint64_t limit = vgpu_ledger_limit(account->region, account->device);
        if (limit < least) least = limit;
    }
    return least;
}

uint64_t vgpu_account_left(const struct vgpu_account *account) {
    uint64_t least = VGPU_NO_LIMIT;
    for (; account; account = account->outer) {
        uint64_t left = vgpu_ledger_left(account->region, account->device);
        if (left < least) least = left;
    }
    return least;
}

bool vgpu_account_fits(const struct vgpu_account *account) {
    for (; account; account = account->outer)
        if (vgpu_ledger_used(account->region, account->device) >
            vgpu_ledger_limit(account->region, account->device))
            return false;
    return true;
}

struct vgpu_refusal vgpu_account_tightest(const struct vgpu_account *account) {
    const struct vgpu_account *where = account;
    uint64_t least = VGPU_NO_LIMIT;
    for (; account; account = account->outer) {
        uint64_t left = vgpu_ledger_left(account->region, account->device);
        if (left >= least) continue;
        least = left;
        where = account;
    }
    return (struct vgpu_refusal){where, vgpu_ledger_used(where->region, where->device)};
}

/* A pause of random length, longer each round: the contenders must fall out of step. */
static void back_off(unsigned round) {
    static __thread uint64_t random;
    if (!random) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        random = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15U ^ (uint64_t)(uintptr_t)&random;
        random |= 1;
    }
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    uint64_t spins = random % (UINT64_C(16) << (round < 8 ? round : 8));
    for (uint64_t i = 0; i < spins; i++) __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (round > 4) sched_yield();
}

static void note_peak(const struct vgpu_account *account, uint64_t used) {
    struct vgpu_use *use = &account->slot->use[account->device];
    int64_t own = (int64_t)vgpu_load_relaxed(&use->charged_bytes);
    vgpu_max_relaxed(&account->region->devices[account->device].peak_bytes, used);
    vgpu_soft_note(&account->region->devices[account->device], used);
    if (own > 0) vgpu_max_relaxed(&use->peak_bytes, (uint64_t)own);
}

static __thread struct vgpu_refusal refusal;

struct vgpu_refusal vgpu_ledger_refusal(void) {
    return refusal;
}

/* In one session. *met: its use with these bytes. */
static bool reserve_here(const struct vgpu_account *account, uint64_t bytes, uint64_t *met) {
    struct vgpu_region *region = account->region;
    uint64_t *mine = &account->slot->use[account->device].charged_bytes;
    uint64_t used = 0;
    for (unsigned round = 0; round < CONTENTION_ROUNDS; round++) {
        uint64_t limit = vgpu_ledger_limit(region, account->device);
        /* Look before adding: a hopeless request must not make a neighbour's fitting one fail. In
         * later rounds this is the look at the sum without ours: refuse only if it is full still.
         */
        if (limit != VGPU_NO_LIMIT &&
            ((used = vgpu_ledger_used(region, account->device)) > limit || bytes > limit - used))
            break;
        vgpu_add_seq_cst(mine, bytes);
        used = vgpu_ledger_used(region, account->device);
        *met = used;
        if (used <= limit) return true;
        vgpu_sub_seq_cst(mine, bytes);
        used -= bytes;
        back_off(round);
    }
    refusal = (struct vgpu_refusal){account, used};
    return false;
}

/* From the inside out: only what a session allows itself is asked of the one around it. */
bool vgpu_ledger_reserve(const struct vgpu_account *account, uint64_t bytes) {
    uint64_t used;
    /* What does not fit outside must not show inside for a moment either. */
    if (__builtin_expect(account->outer != NULL, 0) && bytes > vgpu_account_left(account->outer)) {
        refusal = vgpu_account_tightest(account->outer);
        return false;
    }
    if (!reserve_here(account, bytes, &used)) return false;
    if (__builtin_expect(account->outer != NULL, 0) &&
        !vgpu_ledger_reserve(account->outer, bytes)) {
        vgpu_sub_seq_cst(&account->slot->use[account->device].charged_bytes, bytes);
        return false;
    }
    note_peak(account, used);
    return true;
}

void vgpu_ledger_adjust(const struct vgpu_account *account, int64_t bytes) {
    /* No peak from here: a sum taken now may hold a neighbour's attempt that is about to be undone.
     */
    for (; account; account = account->outer)
        vgpu_add_seq_cst(&account->slot->use[account->device].charged_bytes, (uint64_t)bytes);
}

void vgpu_ledger_managed(const struct vgpu_account *account, uint64_t bytes) {
    for (; account; account = account->outer)
        vgpu_add_relaxed(&account->slot->use[account->device].managed_bytes, bytes);
}

void vgpu_ledger_allocated(const struct vgpu_account *account) {
    for (; account; account = account->outer)
        vgpu_add_relaxed(&account->slot->use[account->device].allocations, UINT64_C(1));
}

void vgpu_ledger_denied(const struct vgpu_account *account) {
    vgpu_add_relaxed(&account->slot->use[account->device].denials, UINT64_C(1));
    vgpu_add_relaxed(&account->region->devices[account->device].denials, UINT64_C(1));
}
