#include "book.h"

#define NEIGHBOURHOOD 8U

struct vgpu_book_entry *vgpu_book_find(struct vgpu_book *book, uint64_t key) {
    uint64_t home = key & (VGPU_BOOK_ENTRIES - 1);
    for (uint64_t i = 0; i < NEIGHBOURHOOD; i++) {
        struct vgpu_book_entry *entry = &book->entries[(home + i) & (VGPU_BOOK_ENTRIES - 1)];
        if (entry->key == key) return entry;
        if (entry->key == 0) {
            entry->key = key;
            return entry;
        }
    }
    struct vgpu_book_entry *victim =
        &book->entries[(home + key / VGPU_BOOK_ENTRIES % NEIGHBOURHOOD) & (VGPU_BOOK_ENTRIES - 1)];
    *victim = (struct vgpu_book_entry){.key = key};
    return victim;
}

uint64_t vgpu_book_predict(const struct vgpu_book_entry *entry) {
    return entry->timed && !entry->spins ? entry->estimate_ns : VGPU_BOOK_DEFAULT_NS;
}

bool vgpu_book_wants_trial(const struct vgpu_book_entry *entry) {
    bool due = entry->timed < VGPU_BOOK_TRIALS || entry->varies ||
               (entry->talks && entry->untimed + 1U >= VGPU_BOOK_TALK_ONE_IN);
    return due && entry->in_flight == 0;
}

void vgpu_book_note_launch(struct vgpu_book_entry *entry, bool trial) {
    if (!entry->timed || trial) entry->in_flight++;
    if (trial && entry->varies) entry->varies--;
    if (trial) entry->untimed = 0;
    else if (entry->untimed < UINT16_MAX) entry->untimed++;
}

static uint32_t saturate(uint64_t ns) { return ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX; }

void vgpu_book_learn(struct vgpu_book_entry *entry, uint64_t measured_ns) {
    uint32_t measured = saturate(measured_ns ? measured_ns : 1), before = entry->estimate_ns;
    uint32_t more = measured > before ? (measured - before) / 4 : 0;
    bool far = measured > before + before / 2 && measured - before > VGPU_BOOK_VARIES_NS;
    if (far && entry->timed >= VGPU_BOOK_TRIALS && !entry->talks) entry->varies = VGPU_BOOK_VARIES;
    if (entry->talks && more > before / 4) more = before / 4;
    entry->estimate_ns = entry->timed == 0 || measured < before ? measured : before + more;
    if (entry->timed < UINT16_MAX) entry->timed++;
}

void vgpu_book_learn_group(const struct vgpu_book_member *members, unsigned count,
                           uint64_t measured_ns) {
    uint64_t predicted = 0;
    for (unsigned i = 0; i < count; i++) {
        predicted += members[i].predicted_ns;
        if (members[i].entry->spins || members[i].entry->talks) return;
    }
    if (predicted == 0) return;
    double ratio = (double)measured_ns / (double)predicted;
    /* Members repeat; move each distinct entry once, by the first time it is met. */
    for (unsigned i = 0; i < count; i++) {
        struct vgpu_book_entry *entry = members[i].entry;
        bool met = false;
        for (unsigned j = 0; j < i && !met; j++) met = members[j].entry == entry;
        if (met || entry->timed == 0) continue;
        vgpu_book_learn(entry, (uint64_t)((double)members[i].predicted_ns * ratio));
    }
}

void vgpu_book_doubt(const struct vgpu_book_member *members, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        const struct vgpu_book_entry *entry = members[i].entry;
        if (entry->suspect || entry->spins || entry->talks) return;
    }
    for (unsigned i = 0; i < count; i++)
        if (members[i].entry->timed >= VGPU_BOOK_TRIALS)
            members[i].entry->timed = VGPU_BOOK_TRIALS - 1;
}
