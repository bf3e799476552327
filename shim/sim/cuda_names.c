/* The table behind cuGetProcAddress. No prototypes here: only addresses are taken. */
#include "sim.h"

#define X(symbol, base, plain, per_thread) extern int symbol(void);
#include "names.def"
#undef X

const struct sim_name sim_names[] = {
#define X(symbol, base, plain, per_thread) {#base, (void *)symbol, plain, per_thread},
#include "names.def"
#undef X
    {0, 0, 0, 0},
};
