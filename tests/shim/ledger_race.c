/* Processes race for the last bytes: never over, and at least one wins when one fits; kills at any
 * moment lose nothing. Sources: shim/ledger.c shim/slot.c. Argument: seconds for each part. */
#include "memory_check.h"

#include <signal.h>
#include <sched.h>
#include <sys/wait.h>

#include "../../shim/ledger.h"
#include "../../shim/slot.h"

struct arena {
    uint32_t arrived; /* at barriers, for ever */
    uint32_t wins;
    uint64_t granted; /* what the processes believe to hold, all together */
    uint64_t over;    /* times that this was above the limit */
};

static struct arena *arena;

static struct vgpu_account join(struct vgpu_region *region) {
    int slot = vgpu_slot_claim(region, (uint32_t)getpid(), "racer");
    if (slot < 0) abort();
    return (struct vgpu_account){region, &region->slots[slot], 0, NULL};
}

/* The number-th barrier of `parties`. */
static void meet(uint32_t parties, uint32_t number) {
    vgpu_add_seq_cst(&arena->arrived, 1U);
    while (vgpu_load_acquire(&arena->arrived) < parties * number) sched_yield();
}

/* All start at once, each wants `bytes`, room for `fits` of them. */
static void race(uint32_t racers, uint32_t fits, const char *name) {
    struct vgpu_region *region = region_new(100 * MiB);
    const uint64_t bytes = 10 * MiB;
    const uint32_t rounds = 1500, parties = racers + 1;
    region->devices[0].mem_limit = fits * bytes + bytes / 2;
    memset(arena, 0, sizeof *arena);
    for (uint32_t i = 0; i < racers; i++) {
        if (fork() != 0) continue;
        struct vgpu_account account = join(region);
        for (uint32_t r = 0; r < rounds; r++) {
            meet(parties, 3 * r + 1);
            bool won = vgpu_ledger_reserve(&account, bytes);
            if (won) vgpu_add_seq_cst(&arena->wins, 1U);
            meet(parties, 3 * r + 2);
            meet(parties, 3 * r + 3); /* the parent has looked */
            if (won) vgpu_ledger_refund(&account, bytes);
        }
        _exit(0);
    }
    uint64_t over = 0, none = 0, unused = 0;
    for (uint32_t r = 0; r < rounds; r++) {
        meet(parties, 3 * r + 1);
        meet(parties, 3 * r + 2);
        over += vgpu_ledger_used(region, 0) > region->devices[0].mem_limit || arena->wins > fits;
        none += arena->wins == 0;
        unused += arena->wins < fits;
        arena->wins = 0;
        meet(parties, 3 * r + 3);
    }
    while (wait(NULL) > 0) {
    }
    char line[128];
    snprintf(line, sizeof line, "%s: never over", name);
    equal(over, 0, line);
    snprintf(line, sizeof line, "%s: always a winner", name);
    equal(none, 0, line);
    printf("# %s: %llu of %u rounds left room that was asked for\n", name,
           (unsigned long long)unused, rounds);
}

/* Random sizes, random holds; `granted` is raised after the ledger agreed and lowered before it is
 * told, so it may never pass the limit. */
static void churn(struct vgpu_region *region) {
    struct vgpu_account account = join(region);
    uint64_t limit = region->devices[0].mem_limit;
    for (;;) {
        uint64_t bytes = (random_below(20) + 1) * MiB;
        if (vgpu_ledger_reserve(&account, bytes)) {
            if (vgpu_add_seq_cst(&arena->granted, bytes) + bytes > limit)
                vgpu_add_seq_cst(&arena->over, UINT64_C(1));
            vgpu_sub_seq_cst(&arena->granted, bytes);
            vgpu_ledger_refund(&account, bytes);
        }
    }
}

static void kills(double seconds) {
    struct vgpu_region *region = region_new(64 * MiB);
    memset(arena, 0, sizeof *arena);
    pid_t child[8] = {0};
    uint64_t killed = 0;
    struct vgpu_account keeper = join(region);
    vgpu_ledger_reserve(&keeper, 8 * MiB);
    for (double end = now_s() + seconds; now_s() < end; killed++) {
        uint32_t i = (uint32_t)random_below(8);
        if (child[i]) {
            kill(child[i], SIGKILL);
            waitpid(child[i], NULL, 0);
            vgpu_slot_reap(region);
        }
        child[i] = fork();
        if (child[i] == 0) churn(region);
        usleep((useconds_t)random_below(2000));
    }
    for (int i = 0; i < 8; i++)
        if (child[i]) kill(child[i], SIGKILL);
    while (wait(NULL) > 0) {
    }
    vgpu_slot_reap(region);
    printf("# %llu kills\n", (unsigned long long)killed);
    equal(vgpu_ledger_used(region, 0), 8 * MiB, "kill -9 at random moments loses nothing");
}

static void crowd(double seconds) {
    struct vgpu_region *region = region_new(64 * MiB);
    memset(arena, 0, sizeof *arena);
    pid_t child[8];
    for (uint32_t i = 0; i < 8; i++)
        if ((child[i] = fork()) == 0) churn(region);
    usleep((useconds_t)(seconds * 1e6));
    for (int i = 0; i < 8; i++) kill(child[i], SIGKILL);
    while (wait(NULL) > 0) {
    }
    equal(arena->over, 0, "8 processes of random sizes: never over");
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    arena = mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    race(2, 1, "two for one place");
    race(8, 1, "eight for one place");
    race(8, 3, "eight for three places");
    crowd(seconds);
    kills(seconds);
    return failures != 0;
}
