/* A bucket of bytes: how fast one direction of copies may go on one GPU, for every process of a
 * session together. Pure: works on one word of the region, takes the time as an argument, never
 * waits.
 *
 * The word says when all that was taken has been paid for at the rate: later than now = debt. A
 * copy goes while there is no debt, however large it is; what it costs delays the next ones. An
 * idle bucket saves up no more than the credit, counted from the request: who waits and is woken
 * late does not lose what the bucket earned meanwhile. A kill at any moment leaves a valid word. */
#ifndef VGPU_BUCKET_H
#define VGPU_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#define VGPU_BUCKET_CREDIT_NS UINT64_C(20000000)

/* Takes `bytes` at bytes_per_s (not 0) for a copy first wanted at request_ns (≤ now_ns) and returns
 * true; false while the bucket is in debt, and then *until_ns says when it will have paid. */
bool vgpu_bucket_take(uint64_t *paid_ns, uint64_t bytes_per_s, uint64_t bytes, uint64_t request_ns,
                      uint64_t now_ns, uint64_t *until_ns);

#endif
