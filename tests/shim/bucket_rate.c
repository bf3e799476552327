/* The bucket of bytes in virtual time. Sources: shim/bucket.c. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../../shim/atomics.h"
#include "../../shim/bucket.h"

#define S UINT64_C(1000000000)
#define MIB UINT64_C(1048576)
#define START (UINT64_C(77) * S)

static int failures;

static void check(bool good, const char *name, double got, double wanted) {
    printf("%s %s (got %.6g, wanted %.6g)\n", good ? "ok" : "not ok", name, got, wanted);
    failures += !good;
}

static bool near(double got, double wanted, double part) {
    return got >= wanted * (1 - part) && got <= wanted * (1 + part);
}

/* `copiers` that copy `bytes` again and again, each copy at `speed`; wakes come `late` ns late.
 * Bytes a second over `span`. */
static double saturate(uint64_t rate, uint64_t bytes, double speed, int copiers, uint64_t late,
                       uint64_t span) {
    uint64_t word = 0, free_at[8], asked_at[8], done = 0, until = 0;
    for (int i = 0; i < copiers; i++) free_at[i] = asked_at[i] = START;
    for (;;) {
        int next = 0;
        for (int i = 1; i < copiers; i++)
            if (free_at[i] < free_at[next]) next = i;
        uint64_t now = free_at[next];
        if (now >= START + span) break;
        if (vgpu_bucket_take(&word, rate, bytes, asked_at[next], now, &until)) {
            done += bytes;
            free_at[next] = asked_at[next] = now + (uint64_t)((double)bytes / speed * 1e9);
        } else {
            free_at[next] = until + late;
        }
    }
    return (double)done / ((double)span / 1e9);
}

static void rates(void) {
    const double fast = 25e9;
    for (int copiers = 1; copiers <= 4; copiers += 3)
        for (uint64_t late = 0; late <= 3000000; late += 1000000) {
            double got = saturate(1024 * MIB, 4 * MIB, fast, copiers, late, 2 * S);
            check(near(got, 1024.0 * MIB, 0.025), "1 GiB/s in copies of 4 MiB", got, 1024.0 * MIB);
        }
    for (uint64_t late = 10000000; late <= 40000000; late += 10000000) {
        double got = saturate(50 * MIB, MIB, fast, 2, late, 4 * S);
        check(near(got, 50.0 * MIB, 0.02), "late wakes lose nothing", got, 50.0 * MIB);
    }
    double small = saturate(64 * MIB, 4096, fast, 1, 0, S);
    check(near(small, 64.0 * MIB, 0.025), "64 MiB/s in copies of 4 KiB", small, 64.0 * MIB);
    double huge = saturate(64 * MIB, 128 * MIB, fast, 2, 0, 20 * S);
    check(near(huge, 64.0 * MIB, 0.11), "64 MiB/s in copies of 2 s each", huge, 64.0 * MIB);
    double slow = saturate(1024 * MIB, MIB, 100e6, 1, 0, S);
    check(near(slow, 100e6, 0.02), "what is slower than the limit is not slowed", slow, 100e6);
}

static void debts(void) {
    uint64_t word = 0, until = 0;
    check(vgpu_bucket_take(&word, MIB, 100 * MIB, START, START, &until), "a large copy goes", 1, 1);
    check(!vgpu_bucket_take(&word, MIB, 1, START + S, START + S, &until), "and delays the next", 0,
          0);
    double wait = (double)(until - START) / 1e9;
    check(near(wait, 100, 0.001), "for as long as its bytes take", wait, 100);
    check(!vgpu_bucket_take(&word, MIB, 1, until - 1, until - 1, &until), "not before", 0, 0);
    check(vgpu_bucket_take(&word, MIB, 1, until, until, &until), "and then it goes", 1, 1);

    /* Ten seconds of rest save up 20 ms. */
    uint64_t now = until + 10 * S, taken = 0;
    while (vgpu_bucket_take(&word, 1024 * MIB, MIB, now, now, &until)) taken++;
    check(taken == 21, "rest saves up the credit only", (double)taken, 21);

    word = 0;
    check(vgpu_bucket_take(&word, 1, UINT64_MAX, START, START, &until), "no size overflows", 1, 1);
    check(!vgpu_bucket_take(&word, 1, 1, START, START, &until) && until > START, "nor its debt", 1,
          1);
}

#define THREADS 4
#define TAKES 20000
static uint64_t shared_word, taken_by[THREADS];

static void *take_many(void *which) {
    uint64_t until;
    for (int i = 0; i < TAKES; i++)
        while (!vgpu_bucket_take(&shared_word, S, 1000, START, START, &until))
            vgpu_store_relaxed(&shared_word, UINT64_C(0)); /* the debt paid, for whoever is next */
    *(uint64_t *)which = TAKES;
    return NULL;
}

/* Every take is one compare-and-swap: racing for one word, each thread comes through, and bytes
 * taken without waiting are all in the word. */
static void races(void) {
    pthread_t thread[THREADS];
    for (int i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, take_many, &taken_by[i]);
    uint64_t sum = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        sum += taken_by[i];
    }
    check(sum == THREADS * TAKES, "threads that race all come through", (double)sum,
          THREADS * TAKES);
    uint64_t until, word = START - VGPU_BUCKET_CREDIT_NS;
    for (int i = 0; i < 1000; i++) vgpu_bucket_take(&word, S, 1000, START, START, &until);
    double paid = (double)(word - START + VGPU_BUCKET_CREDIT_NS);
    check(paid == 1e6, "what is taken is in the word", paid, 1e6);
}

int main(void) {
    rates();
    debts();
    races();
    return failures ? 1 : 0;
}
