/* The table of pointers against a plain model, alone and from many threads; what a free looks at.
 */
#include "memory_check.h"

#include <pthread.h>

#include "../../shim/blocks.c" /* the tables themselves are looked at */

#define BLOCK VGPU_BLOCK_BYTES

static struct vgpu_block piece(uint64_t address, uint32_t owner) {
    return (struct vgpu_block){address, BLOCK, owner, 0, 1};
}

static struct vgpu_block large(uint64_t address, uint64_t charge, uint32_t owner) {
    return (struct vgpu_block){address, charge, owner, 0, 0};
}

static void pieces(void) {
    struct vgpu_block a = piece(10 * BLOCK, 1), b = piece(10 * BLOCK + 512, 1), out, other;
    equal(vgpu_blocks_put(&a), 0, "first piece pays for the block");
    equal(vgpu_blocks_put(&b), BLOCK, "second piece gives its 2 MiB back");
    check(vgpu_blocks_take(a.address, &out), "taken", 0, 0);
    check(!vgpu_blocks_take(a.address, &other), "a second free of it is unknown", 0, 0);
    equal(vgpu_blocks_left(&out), 0, "the block stays while a piece lives");
    check(vgpu_blocks_take(b.address, &out), "taken", 0, 0);
    equal(vgpu_blocks_return(&out), 0, "a failed free changes nothing");
    check(vgpu_blocks_take(b.address, &out), "still known", 0, 0);
    equal(vgpu_blocks_left(&out), BLOCK, "the last piece refunds the block");

    vgpu_blocks_put(&a);
    vgpu_blocks_put(&b);
    vgpu_blocks_take(a.address, &out);
    vgpu_blocks_take(b.address, &other);
    equal(vgpu_blocks_left(&other), 0, "a block stays while the driver frees another piece of it");
    equal(vgpu_blocks_left(&out), BLOCK, "and goes with the last");

    vgpu_blocks_put(&a);
    vgpu_blocks_take(a.address, &out);
    equal(vgpu_blocks_put(&b), BLOCK, "a piece that comes while the block is emptied shares it");
    equal(vgpu_blocks_left(&out), 0, "and keeps it");
    vgpu_blocks_take(b.address, &out);
    equal(vgpu_blocks_left(&out), BLOCK, "until it goes");
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
    equal(vgpu_blocks_put(&old), BLOCK, "what a dying context says late is not entered");
    check(vgpu_blocks_take(new.address, &out) && vgpu_blocks_left(&out) == BLOCK,
          "and is its own block", 0, 0);

    struct vgpu_block early = piece(60 * BLOCK, 0), later = piece(60 * BLOCK + 512, 9);
    vgpu_blocks_put(&early);
    equal(vgpu_blocks_put(&later), BLOCK, "a context that was not known yet is the same one");
    bytes[0] = 0;
    vgpu_blocks_drop_owner(9, bytes);
    equal(bytes[0], BLOCK, "and takes the block with it");
    equal(vgpu_blocks_count(), 0, "with all its pieces");
    vgpu_blocks_forget();
}

/* No driver does this; if one did, such a piece would pay for itself. */
static void unaligned(void) {
    struct vgpu_block one = piece(70 * BLOCK + 8, 1), other = piece(70 * BLOCK, 1), out;
    equal(vgpu_blocks_put(&one), 0, "a piece at an odd place pays for a block");
    equal(vgpu_blocks_put(&other), 0, "which it shares with nobody");
    check(vgpu_blocks_take(one.address, &out), "known", 0, 0);
    equal(vgpu_blocks_left(&out), BLOCK, "and gives it back");
    check(vgpu_blocks_take(other.address, &out), "known", 0, 0);
    equal(vgpu_blocks_left(&out), BLOCK, "as the other does");
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
            charged -= vgpu_blocks_left(&out);
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
        if (vgpu_blocks_take(address, &out)) charged -= (int64_t)vgpu_blocks_left(&out);
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

/* Entries from a key's place to the next empty one: what finding and removing it read at most. */
static uint64_t run_of(const struct table *table, uint64_t key) {
    uint64_t length = 1;
    for (uint64_t i = mix(key); table->entries[i & (table->size - 1)].key; i++) length++;
    return length;
}

struct runs {
    uint64_t entries, sum, longest;
};

static void add_runs(struct runs *runs, const struct table *table) {
    for (uint64_t i = 0; i < table->size; i++) {
        if (!table->entries[i].key) continue;
        uint64_t length = run_of(table, table->entries[i].key);
        runs->entries++;
        runs->sum += length;
        if (length > runs->longest) runs->longest = length;
    }
}

enum { LIVE = 100000 };

static struct runs look(bool of_blocks) {
    struct runs runs = {0};
    for (int i = 0; i < SHARDS; i++)
        add_runs(&runs, of_blocks ? &shards[i].blocks : &shards[i].pointers);
    return runs;
}

static struct vgpu_block number(uint64_t i, uint64_t step) {
    uint64_t address = 1000 * BLOCK + i * step;
    return step < BLOCK ? piece(address, 1) : large(address, BLOCK, 1);
}

/* LIVE allocations `step` bytes apart. No time is taken here: it would be the machine's. */
static void among_many(uint64_t step) {
    struct vgpu_block out;
    for (uint64_t i = 0; i < LIVE; i++) {
        struct vgpu_block one = number(i, step);
        vgpu_blocks_put(&one);
    }
    struct runs before = look(step < BLOCK);
    check(before.sum <= 4 * before.entries, "on average a free reads no more than 4 entries",
          before.sum, before.entries);
    check(before.longest <= 64, "and never more than 64", before.longest, 64);
    if (step < BLOCK)
        check(before.entries * (PIECE_WORDS * 8 + sizeof(struct entry)) <= 64 * 1024,
              "100,000 pieces of 512 bytes are looked up in less than 64 KiB", before.entries, 49);
    uint64_t unknown = 0;
    for (uint64_t i = 0; i < 1000000; i++) {
        struct vgpu_block one = number(random_below(LIVE), step);
        unknown += !vgpu_blocks_take(one.address, &out);
        vgpu_blocks_left(&out);
        vgpu_blocks_put(&one);
    }
    equal(unknown, 0, "each one is known");
    struct runs after = look(step < BLOCK);
    equal(after.entries, before.entries, "as many");
    equal(after.sum, before.sum, "a million frees and allocations later a free reads the same");
    vgpu_blocks_forget();
}

int main(void) {
    pieces();
    owners();
    model();
    threads();
    unaligned();
    among_many(512);
    among_many(BLOCK);
    return failures != 0;
}
