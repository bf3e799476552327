/* Words of a seat that are wrong (what is on the board may be of a dead session, of another time
 * namespace, or damaged): whoever waits still looks again, and has the turn in the end.
 * Sources: shim/gate.c, shim/turn.c. */
#include "turn_world.h"

static int failures;

static void check(bool good, const char *name, double got) {
    printf("%s %s (%.3f)\n", good ? "ok" : "not ok", name, got);
    failures += !good;
}

/* The holder dies, having said this. How long the next one waits for its turn, ms. */
static double wait_after(uint64_t seen_in, uint64_t frees_in) {
    struct world *world = new_world(5);
    struct tenant *victim = add_tenant(world, 50, 500 * US);
    struct tenant *other = add_tenant(world, 50, 500 * US);
    run_world(world, START + 300 * MS, NULL);
    while (!has_turn(victim) || other->state != ASKING || !other->ready_ns)
        run_world(world, world->now + 100 * US, NULL);
    struct vgpu_seat *seat = &world->board.seats[0];
    victim->state = DEAD;
    seat->seen_ns = world->now + seen_in;
    seat->frees_ns = world->now + frees_in;
    other->wake_ns = world->now; /* it looks once, and reads that */
    uint64_t from = world->now, turns = world->board.seats[1].turns;
    while (world->board.seats[1].turns == turns && world->now < from + 20 * SECOND)
        run_world(world, world->now + 100 * US, NULL);
    double took = (double)(world->now - from) / (double)MS;
    free(world);
    return took;
}

int main(void) {
    static const uint64_t ahead[] = {0, 5 * MS, 3600 * SECOND, NEVER / 2, NEVER - START - 30 * MS};
    double worst = 0;
    for (unsigned i = 0; i < 5; i++)
        for (unsigned k = 0; k < 5; k++) {
            double took = wait_after(ahead[i], ahead[k]);
            printf("# last seen in %g ms, frees in %g ms: %.1f ms\n", (double)ahead[i] / 1e6,
                   (double)ahead[k] / 1e6, took);
            worst = took > worst ? took : worst;
        }
    check(worst < 300, "the holder dies, whatever it had said: the next has the turn after ms",
          worst);
    return failures != 0;
}
