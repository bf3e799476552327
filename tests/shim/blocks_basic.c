/* The table of pointers against a plain model, alone and from many threads; what a free costs.
 * Sources: shim/blocks.c. */
#include "memory_check.h"

#include <pthread.h>

#include "../../shim/blocks.h"

#define BLOCK VGPU_BLOCK_BYTES

static struct vgpu_block piece(uint64_t address, uint32_t owner) {
    return (struct vgpu_block){address, BLOCK, owner, 0, 1};
}

static struct vgpu_block large(uint64_t address, uint64_t charge, uint32_t owner) {
    return (struct vgpu_block){address, charge, owner, 0, 0};
}

static void pieces(void) {
    struct vgpu_block a = piece(10 * BLOCK, 1), b = piece(10 * BLOCK + 512, 1), out;
    equal(vgpu_blocks_put(&a), 0, "first piece pays for the block");
    equal(vgpu_blocks_put(&b), BLOCK, "second piece gives its 2 MiB back");
    check(vgpu_blocks_take(a.address, &out), "taken", 0, 0);
    equal(out.charge, 0, "the block stays while a piece lives");
    check(!vgpu_blocks_take(a.address, &out), "a second free of it is unknown", 0, 0);
    check(vgpu_blocks_take(b.address, &out), "taken", 0, 0);
    equal(out.charge, BLOCK, "the last piece refunds the block");
    equal(vgpu_blocks_return(&out), 0, "a failed free charges it again");
    check(vgpu_blocks_take(b.address, &out), "still known", 0, 0);
    equal(out.charge, BLOCK, "and refunds as before");

    vgpu_blocks_put(&a);
    vgpu_blocks_put(&b);
    vgpu_blocks_take(a.address, &out); /* 0: b is left */
    struct vgpu_block rest;
    vgpu_blocks_take(b.address, &rest); /* 2 MiB, refunded */
    equal((uint64_t)(int64_t)vgpu_blocks_return(&out), (uint64_t) - (int64_t)BLOCK,
          "a piece that comes back to a vanished block charges it");
    vgpu_blocks_take(a.address, &out);
    equal(vgpu_blocks_count(), 0, "empty");
}

static void owners(void) {
    uint64_t bytes[16] = {0};
    struct vgpu_block out, other = large(90 * BLOCK, 4 * BLOCK, 8);
    for (uint64_t i = 0; i < 5000; i++) {
        struct vgpu_block one = i % 2 ? piece((1000 + i / 100) * BLOCK + i % 100 * 512, 7)
                                      : large((2000 + 8 * i) * BLOCK, 8 * BLOCK, 7);
        vgpu_blocks_put(&one);
    }
    other.device = 3;
    vgpu_blocks_put(&other);
    vgpu_blocks_drop_owner(7, bytes);
    equal(bytes[0], 2500 * 8 * BLOCK + 50 * BLOCK, "a context takes all it owns with it");
    equal(vgpu_blocks_count(), 1, "and nothing else");
    check(vgpu_blocks_take(other.address, &out) && out.device == 3, "device kept", 0, 0);

    struct vgpu_block old = piece(50 * BLOCK, 1), new = piece(50 * BLOCK, 2);
    vgpu_blocks_put(&old);
    equal(vgpu_blocks_put(&new), BLOCK, "an address reused by a new context replaces the old");
    vgpu_blocks_drop_owner(1, bytes);
    check(vgpu_blocks_take(new.address, &out) && out.charge == BLOCK, "and is its own block", 0, 0);
    vgpu_blocks_forget();
}

/* Random puts and takes of 4,096 addresses against an array. */
static void model(void) {
    enum { N = 4096 };
    static bool live[N];
    static uint32_t in_block[N];
    uint64_t charged = 0, wrong = 0, blocks = 0;
    for (int step = 0; step < 2000000; step++) {
        uint64_t i = random_below(N), address = 64 * BLOCK + i * 65536, block = address / BLOCK % N;
        struct vgpu_block one = piece(address, 1), out;
        if (!live[i]) {
            charged += BLOCK - vgpu_blocks_put(&one);
            live[i] = true;
            blocks += in_block[block]++ == 0;
        } else if (vgpu_blocks_take(address, &out)) {
            charged -= out.charge;
            live[i] = false;
            blocks -= --in_block[block] == 0;
        } else {
            wrong++;
        }
        wrong += charged != blocks * BLOCK;
    }
    equal(wrong, 0, "2,000,000 random steps agree with the model");
    vgpu_blocks_forget();
}

static uint64_t total;

static void *churn(void *number) {
    uint64_t base = (100 + 16 * (uint64_t)(uintptr_t)number) * BLOCK;
    int64_t charged = 0;
    for (int step = 0; step < 100000; step++) {
        /* Pieces of shared blocks: half of the addresses of a block belong to each of two threads.
         */
        uint64_t address = (base & ~(32 * BLOCK - 1)) + random_below(32) * BLOCK +
                           ((uint64_t)(uintptr_t)number * 16 + random_below(16)) * 512;
        struct vgpu_block one = piece(address, 1), out;
        if (vgpu_blocks_take(address, &out)) charged -= (int64_t)out.charge;
        else charged += (int64_t)(BLOCK - vgpu_blocks_put(&one));
    }
    __atomic_fetch_add(&total, (uint64_t)charged, __ATOMIC_SEQ_CST);
    return NULL;
}

static void threads(void) {
    pthread_t thread[8];
    uint64_t bytes[16] = {0};
    for (uintptr_t i = 0; i < 8; i++) pthread_create(&thread[i], NULL, churn, (void *)i);
    for (int i = 0; i < 8; i++) pthread_join(thread[i], NULL);
    vgpu_blocks_drop_owner(1, bytes);
    equal(bytes[0], total, "8 threads: what is left is what was charged");
}

static double free_cost(uint64_t live) {
    struct vgpu_block out;
    for (uint64_t i = 0; i < live; i++) {
        struct vgpu_block one = piece(1000 * BLOCK + i * 65536, 1);
        vgpu_blocks_put(&one);
    }
    const int rounds = 1000000;
    double best = 1e9;
    for (int repeat = 0; repeat < 5; repeat++) {
        double start = now_s();
        for (int i = 0; i < rounds; i++) {
            uint64_t address = 1000 * BLOCK + (uint64_t)i * 7919 % live * 65536;
            struct vgpu_block one = piece(address, 1);
            if (!vgpu_blocks_take(address, &out)) failures++;
            vgpu_blocks_put(&one);
        }
        double cost = (now_s() - start) / rounds * 1e9;
        if (cost < best) best = cost;
    }
    vgpu_blocks_forget();
    return best;
}

int main(void) {
    pieces();
    owners();
    model();
    threads();
    double few = free_cost(10), many = free_cost(100000);
    printf("# take+put among 10: %.0f ns, among 100,000: %.0f ns\n", few, many);
#ifndef __SANITIZE_THREAD__
    check(many < few + 150,
          "a free among 100,000 costs what one among 10 does (cache misses apart)", (uint64_t)many,
          (uint64_t)few);
#endif
    return failures != 0;
}
