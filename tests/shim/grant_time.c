/* A grant keeps the time by a counter of unknown rate. Source: shim/grant.c. */
#include <stdio.h>

#include "../../shim/grant.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)

static int failures;
static void check(bool good, const char *name) {
    printf("%s %s\n", good ? "ok" : "not ok", name);
    failures += !good;
}

/* A counter of so many ticks in 1,000 ns, which started somewhere. */
static uint64_t count(uint64_t now_ns, uint64_t rate) { return 123456789 + now_ns * rate / 1000; }

static void give(struct vgpu_grant *grant, uint64_t now_ns, uint64_t rate) {
    vgpu_grant_give(grant, now_ns, count(now_ns, rate), now_ns + MS, MS);
}

static uint64_t now_by(const struct vgpu_grant *grant, uint64_t now_ns, uint64_t rate) {
    return vgpu_grant_now(grant, count(now_ns, rate));
}

static bool is_near(uint64_t a, uint64_t b) { return a + 200 > b && b + 200 > a; }

static void test_rate(uint64_t rate, const char *name) {
    struct vgpu_grant grant = {0};
    uint64_t now = 5000 * MS;
    give(&grant, now, rate);
    bool early = vgpu_grant_is_given(&grant);
    give(&grant, now += 20 * MS, rate);
    bool good = !early && vgpu_grant_is_given(&grant) && is_near(now_by(&grant, now, rate), now) &&
                is_near(now_by(&grant, now + 90 * US, rate), now + 90 * US) &&
                now_by(&grant, now + VGPU_GRANT_NS + 2 * US, rate) == 0;
    check(good, name);
}

int main(void) {
    test_rate(3000, "3 GHz: the time is known for as long as the grant lasts");
    test_rate(25, "25 MHz");

    struct vgpu_grant grant = {0};
    give(&grant, 5000 * MS, 3000);
    give(&grant, 5020 * MS, 3000);
    check(!now_by(&grant, 5019 * MS, 3000), "a counter that has gone back ends it");
    check(!now_by(&grant, 9000 * MS, 3000), "so does one that has jumped");
    vgpu_grant_revoke(&grant);
    check(!vgpu_grant_is_given(&grant) && !now_by(&grant, 5020 * MS, 3000), "revoked");

    vgpu_grant_give(&grant, 5021 * MS, count(5021 * MS, 3000), 5021 * MS, MS);
    check(!vgpu_grant_is_given(&grant), "none at the slice's end");
    give(&grant, 5022 * MS, 3000);
    give(&grant, 5040 * MS, 1500);
    give(&grant, 5060 * MS, 1500);
    check(is_near(now_by(&grant, 5060 * MS + 90 * US, 1500), 5060 * MS + 90 * US),
          "a rate that changes is measured again");

    grant = (struct vgpu_grant){0};
    vgpu_grant_give(&grant, 5000 * MS, 0, 5100 * MS, MS);
    vgpu_grant_give(&grant, 5020 * MS, 0, 5100 * MS, MS);
    check(!vgpu_grant_is_given(&grant), "no counter, no grant");
    return failures != 0;
}
