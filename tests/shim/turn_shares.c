/* Shares of several sessions on one GPU, in virtual time: kernel lengths from 10 us to 50 ms, one
 * to four tenants, small demand, burst. Sources: shim/gate.c shim/turn.c. */
#include "turn_world.h"

static int failures, cells;
static double worst, sum;

static void check(bool good, const char *name, double got, double wanted) {
    printf("%s %s (got %.2f, wanted %.2f)\n", good ? "ok" : "not ok", name, got, wanted);
    failures += !good;
}

static double percent(const struct tenant *tenant, uint64_t span) {
    return 100.0 * (double)tenant->done_ns / (double)span;
}

/* Saturating tenants with these shares and kernels (us): the error of each, in points. */
static void mix(const char *name, int count, const double *shares, const uint64_t *kernels_us,
                double allowed, double least_sum) {
    const uint64_t warm = SECOND, span = 20 * SECOND;
    struct world *world = new_world((uint64_t)++cells);
    for (int i = 0; i < count; i++) add_tenant(world, shares[i], kernels_us[i] * US);
    run_world(world, START + warm, NULL);
    for (int i = 0; i < count; i++) world->tenant[i].done_ns = 0;
    run_world(world, START + warm + span, NULL);
    double all = 0, most_off = 0;
    char got[160] = "";
    for (int i = 0; i < count; i++) {
        double share = percent(&world->tenant[i], span);
        double error = share > shares[i] ? share - shares[i] : shares[i] - share;
        most_off = error > most_off ? error : most_off;
        sum += error / count;
        all += share;
        snprintf(got + strlen(got), sizeof got - strlen(got), " %.2f", share);
    }
    worst = most_off > worst ? most_off : worst;
    bool good =
        most_off <= allowed && all >= least_sum && world->overlaps == 0 && world->thefts == 0;
    printf("%s %s:%s (sum %.2f, %lu overlaps, %lu thefts)\n", good ? "ok" : "not ok", name, got,
           all, world->overlaps, world->thefts);
    failures += !good;
    free(world);
}

static uint64_t gap_below(const struct world *world, unsigned percent) {
    unsigned long count = 0;
    for (uint64_t us = 0; us < 1000; us++)
        if ((count += world->gaps_us[us]) * 100 >= world->hand_overs * percent) return us;
    return 1000;
}

/* What a hand-over costs the GPU, switch included, and those who wait for it in wake-ups. */
static void test_hand_over(void) {
    for (uint64_t us = 50; us <= 5000; us *= 10) {
        struct world *world = new_world(us);
        const struct tenant *one = add_tenant(world, 50, us * US);
        add_tenant(world, 50, us * US);
        run_world(world, START + 20 * SECOND, NULL);
        printf("# kernels of %lu us\n", (unsigned long)us);
        check(gap_below(world, 50) <= 150, "hand-over: us without work, median",
              (double)gap_below(world, 50), 150);
        check(gap_below(world, 99) <= 300, "hand-over: us without work, 99 %",
              (double)gap_below(world, 99), 300);
        double wakes = (double)one->wakes / 20;
        check(wakes <= 1500, "hand-over: wake-ups a second of each (of 5 us: 0.8 % of a core)",
              wakes, 1500);
        free(world);
    }
}

static const uint64_t lengths_us[] = {10, 50, 500, 5000, 50000};

static void test_shares(void) {
    static const struct {
        int count;
        double shares[4], least_sum;
    } cases[] = {
        {1, {25}, 24.5},         {2, {25, 50}, 74.4},         {2, {25, 75}, 99}, {2, {50, 50}, 99},
        {3, {25, 25, 50}, 98.5}, {4, {10, 20, 30, 40}, 98.5}, {2, {10, 90}, 99},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t k = 0; k < 5; k++) {
            uint64_t kernels[4];
            char name[80] = "";
            for (int i = 0; i < cases[c].count; i++) {
                kernels[i] = lengths_us[k];
                snprintf(name + strlen(name), sizeof name - strlen(name), "%s%g", i ? " + " : "",
                         cases[c].shares[i]);
            }
            snprintf(name + strlen(name), sizeof name - strlen(name), ", kernels of %lu us",
                     (unsigned long)lengths_us[k]);
            mix(name, cases[c].count, cases[c].shares, kernels, 0.5, cases[c].least_sum);
        }
    mix("50 + 50, long against short kernels", 2, (double[]){50, 50}, (uint64_t[]){20, 20000}, 0.5,
        99);
    mix("25 + 75, long against short kernels", 2, (double[]){25, 75}, (uint64_t[]){50000, 50}, 0.5,
        99);
    mix("10 + 20 + 30 + 40, all lengths", 4, (double[]){10, 20, 30, 40},
        (uint64_t[]){10, 500, 5000, 50000}, 0.5, 98.5);
    check(worst <= 0.5, "all cells: worst error in points", worst, 0.5);
    check(sum / cells <= 0.3, "all cells: mean error in points", sum / cells, 0.3);
}

/* 1 ms due every 10 ms at 25 % beside a saturating 75 %. */
static void test_small_demand(void) {
    struct world *world = new_world(7);
    struct tenant *light = add_tenant(world, 25, 100 * US);
    struct tenant *heavy = add_tenant(world, 75, 500 * US);
    light->work_ns = MS;
    light->every_ns = 10 * MS;
    light->state = IDLE;
    run_world(world, START + 20 * SECOND, NULL);
    check((double)light->steps_done >= 0.99 * 2000, "small demand beside 75 %: steps done",
          (double)light->steps_done, 2000);
    check(percent(heavy, 20 * SECOND) >= 73, "its neighbour, percent", percent(heavy, 20 * SECOND),
          75);
    check(light->slow_steps <= 20, "small demand: steps slower by more than 2 ms (1 %)",
          (double)light->slow_steps, 20);
    free(world);
}

/* A session without a share gets what the others leave. */
static void test_unlimited(void) {
    struct world *world = new_world(9);
    struct tenant *limited = add_tenant(world, 25, 500 * US);
    struct tenant *open = add_tenant(world, 100, 500 * US);
    run_world(world, START + 20 * SECOND, NULL);
    check(percent(limited, 20 * SECOND) >= 24.5, "25 % beside a session without a share",
          percent(limited, 20 * SECOND), 25);
    check(percent(open, 20 * SECOND) >= 74, "the session without a share",
          percent(open, 20 * SECOND), 75);
    free(world);
}

/* Burst: what nobody wants, and back at once when somebody does. */
static void test_burst(void) {
    struct world *world = new_world(11);
    struct tenant *burster = add_tenant(world, 25, 200 * US);
    struct tenant *neighbour = add_tenant(world, 50, 200 * US);
    burster->device.burst_ppm = 900000;
    neighbour->wake_ns = START + 5 * SECOND;
    run_world(world, START + 5 * SECOND, NULL);
    double alone = percent(burster, 5 * SECOND);
    check(alone >= 89 && alone <= 91, "25 % with burst 90, alone, and the credit", alone, 90);
    run_world(world, START + 5 * SECOND + 50 * MS, NULL);
    check(percent(neighbour, 50 * MS) >= 48, "a neighbour's first 50 ms beside the burster",
          percent(neighbour, 50 * MS), 50);
    neighbour->done_ns = burster->done_ns = 0;
    run_world(world, START + 15 * SECOND + 50 * MS, NULL);
    check(percent(neighbour, 10 * SECOND) >= 49, "the neighbour, from then on",
          percent(neighbour, 10 * SECOND), 50);
    check(percent(burster, 10 * SECOND) >= 45, "the burster has the rest",
          percent(burster, 10 * SECOND), 49);
    free(world);
}

/* Who bursts gives way at once to who does not, however little it was charged so far. */
static void test_burster_yields(void) {
    for (int inside = 0; inside < 2; inside++) {
        struct world *world = new_world(19);
        const struct vgpu_place_on_board burster = {.board = &world->board, .seat = 0};
        const struct vgpu_place_on_board other = {.board = &world->board, .seat = 1};
        add_tenant(world, 50, MS);
        add_tenant(world, 50, MS);
        world->board.seats[1].turn_v = SECOND;
        const struct vgpu_turn_claim bursting = {1, 1, true}, claim = {2, 1, !inside};
        uint64_t until;
        bool call;
        uint32_t epoch = vgpu_turn_ask(&burster, &bursting, START, &until, &call);
        vgpu_turn_ask(&other, &claim, START + MS, &until, &call);
        uint64_t end = vgpu_turn_end_ns(&burster, epoch, VGPU_TURN_QUANTUM_NS, START + 2 * MS);
        uint64_t wanted = inside ? START : START + VGPU_TURN_QUANTUM_NS;
        check(end == wanted, "its turn ends, ms after it began", (double)(end - START) / 1e6,
              (double)(wanted - START) / 1e6);
        check(vgpu_turn_passes(&burster, epoch, START + 2 * MS) == inside, "and may be passed on",
              vgpu_turn_passes(&burster, epoch, START + 2 * MS), inside);
        vgpu_turn_release(&burster, epoch, true, START + 3 * MS);
        epoch = vgpu_turn_ask(&burster, &bursting, START + 3 * MS, &until, &call);
        check((epoch == 0) == inside, "and it is not asked for again before the other's", epoch,
              !inside);
        free(world);
    }
}

/* Weight and burst are in force with the next turn. */
static void test_live_change(void) {
    struct world *world = new_world(23);
    struct tenant *one = add_tenant(world, 100, 500 * US);
    struct tenant *other = add_tenant(world, 100, 500 * US);
    const double wanted[] = {50, 20, 80};
    const uint32_t weights[] = {1000000, 250000, 4000000};
    uint64_t now = START;
    for (int i = 0; i < 3; i++) {
        world->board.seats[0].weight_ppm = weights[i];
        run_world(world, now += 500 * MS, NULL);
        one->done_ns = other->done_ns = 0;
        run_world(world, now += 4 * SECOND, NULL);
        double got = 100.0 * (double)one->done_ns / (double)(one->done_ns + other->done_ns);
        check(got > wanted[i] - 1 && got < wanted[i] + 1, "the weight is changed, percent", got,
              wanted[i]);
    }
    free(world);

    world = new_world(29);
    struct tenant *burster = add_tenant(world, 25, 200 * US);
    const uint32_t bursts[] = {0, 900000, 500000, 0};
    const double reached[] = {25, 90, 50, 25};
    now = START + 500 * MS;
    run_world(world, now, NULL);
    for (int i = 0; i < 4; i++) {
        burster->device.burst_ppm = world->board.seats[0].burst_ppm = bursts[i];
        run_world(world, now += 500 * MS, NULL);
        burster->done_ns = 0;
        run_world(world, now += 2 * SECOND, NULL);
        double got = percent(burster, 2 * SECOND);
        check(got > reached[i] - 1 && got < reached[i] + 1.5, "the burst is changed, percent", got,
              reached[i]);
    }
    free(world);
}

/* The wish of a session that died waiting is waited for once, not for ever. */
static void test_dead_wish(void) {
    struct world *world = new_world(17);
    struct tenant *one = add_tenant(world, 50, 500 * US);
    struct tenant *other = add_tenant(world, 50, 500 * US);
    world->board.turn.turn_wanted = UINT64_C(1) << 5;
    run_world(world, START + 20 * SECOND, NULL);
    check(world->board.turn.turn_wanted >> 5 == 0, "a dead session's wish is passed over", 0, 0);
    check(percent(one, 20 * SECOND) + percent(other, 20 * SECOND) >= 99,
          "and costs the others nothing", percent(one, 20 * SECOND) + percent(other, 20 * SECOND),
          99);
    free(world);
}

/* Two sessions without a share: the weight decides. */
static void test_weight(void) {
    struct world *world = new_world(13);
    struct tenant *low = add_tenant(world, 100, 500 * US);
    struct tenant *high = add_tenant(world, 100, 500 * US);
    world->board.seats[0].weight_ppm = 500000;
    world->board.seats[1].weight_ppm = 2000000;
    run_world(world, START + 20 * SECOND, NULL);
    check(percent(low, 20 * SECOND) > 19 && percent(low, 20 * SECOND) < 21,
          "weight 0.5 against 2: the lower", percent(low, 20 * SECOND), 20);
    check(percent(high, 20 * SECOND) > 78, "weight 0.5 against 2: the higher",
          percent(high, 20 * SECOND), 79);
    free(world);
}

int main(void) {
    test_shares();
    test_hand_over();
    test_small_demand();
    test_unlimited();
    test_burst();
    test_burster_yields();
    test_live_change();
    test_dead_wish();
    test_weight();
    return failures != 0;
}
