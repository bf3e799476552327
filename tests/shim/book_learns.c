/* The book: predictions fall at once, rise slowly. Source: shim/book.c. */
#include <stdio.h>
#include <stdlib.h>

#include "../../shim/book.h"

static int failures;

static void check(bool good, const char *name, unsigned long got) {
    printf("%s %s (%lu)\n", good ? "ok" : "not ok", name, got);
    failures += !good;
}

int main(void) {
    struct vgpu_book *book = calloc(1, sizeof *book);
    struct vgpu_book_entry *entry = vgpu_book_find(book, vgpu_book_key((void *)0x1000, 132, 256));
    check(vgpu_book_predict(entry) == VGPU_BOOK_DEFAULT_NS, "unknown: the default",
          vgpu_book_predict(entry));
    check(vgpu_book_wants_trial(entry), "unknown: wants a trial", 1);
    entry->in_flight = 1;
    check(!vgpu_book_wants_trial(entry), "a trial is out: wants no second", 0);
    entry->in_flight = 0;
    vgpu_book_learn(entry, 5000000); /* the first launch loads code */
    vgpu_book_learn(entry, 50000);
    check(vgpu_book_predict(entry) == 50000, "falls at once", vgpu_book_predict(entry));
    vgpu_book_learn(entry, 90000);
    check(vgpu_book_predict(entry) == 60000, "rises by a quarter", vgpu_book_predict(entry));
    check(!vgpu_book_wants_trial(entry), "three results are enough", entry->timed);

    struct vgpu_book_entry *other = vgpu_book_find(book, vgpu_book_key((void *)0x1000, 264, 256));
    check(other != entry, "another grid is another kernel", 1);
    vgpu_book_learn(other, 100000);
    struct vgpu_book_member group[] = {{entry, 60000}, {other, 100000}, {entry, 60000}};
    vgpu_book_learn_group(group, 3, 110000);
    check(vgpu_book_predict(entry) == 30000 && vgpu_book_predict(other) == 50000,
          "a group moves its members by one ratio, once each", vgpu_book_predict(entry));
    vgpu_book_learn_group(group, 3, 110000);
    check(vgpu_book_predict(entry) == 30000, "a second one that was out meanwhile says the same",
          vgpu_book_predict(entry));
    vgpu_book_learn(entry, UINT64_C(10000000000));
    vgpu_book_learn(other, 0);
    check(vgpu_book_predict(other) == 1, "zero is not learnt", vgpu_book_predict(other));

    struct vgpu_book_entry *reduce = vgpu_book_find(book, vgpu_book_key((void *)0x2000, 8, 256));
    reduce->named = reduce->talks = true;
    for (int i = 0; i < 3; i++) vgpu_book_learn(reduce, 250000000); /* a peer came late */
    check(vgpu_book_predict(reduce) == 250000000, "communication: as it was",
          vgpu_book_predict(reduce));
    check(!vgpu_book_settled(book, reduce->key), "communication is never settled", 0);
    int launches = 1;
    for (; !vgpu_book_wants_trial(reduce) && launches < 100; launches++)
        vgpu_book_note_launch(reduce, false);
    check(launches == VGPU_BOOK_TALK_ONE_IN, "one in so many is timed for ever",
          (unsigned long)launches);
    vgpu_book_note_launch(reduce, true);
    check(!vgpu_book_wants_trial(reduce) && reduce->in_flight == 1, "one at a time",
          reduce->in_flight);
    reduce->in_flight = 0;
    vgpu_book_learn(reduce, 60000);
    check(vgpu_book_predict(reduce) == 60000, "it falls at once", vgpu_book_predict(reduce));
    vgpu_book_learn(reduce, 250000000);
    check(vgpu_book_predict(reduce) == 75000, "it rises by a quarter of itself",
          vgpu_book_predict(reduce));
    struct vgpu_book_member step[] = {{other, 50000}, {reduce, 75000}};
    uint64_t before = vgpu_book_predict(other);
    vgpu_book_learn_group(step, 2, 1000);
    check(vgpu_book_predict(other) == before, "a group that waited for a peer tells nothing",
          vgpu_book_predict(other));

    unsigned long found = 0;
    for (uintptr_t i = 1; i <= 20000; i++) {
        struct vgpu_book_entry *one = vgpu_book_find(book, vgpu_book_key((void *)(i * 64), i, 32));
        found += one != NULL && one->key == vgpu_book_key((void *)(i * 64), i, 32);
    }
    check(found == 20000, "more kernels than entries: each still gets one", found);
    free(book);
    return failures != 0;
}
