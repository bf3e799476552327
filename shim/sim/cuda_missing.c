/* Every name of a 13.0 driver that no other file defines: exported, and answered with 801. No
 * prototypes here, so that one macro can define them all; a real definition elsewhere replaces the
 * weak one. */
#define X(symbol, base, plain, per_thread)                                                         \
    __attribute__((weak, visibility("default"))) int symbol(void);                                 \
    int symbol(void) { return 801; } /* CUDA_ERROR_NOT_SUPPORTED */
#include "names.def"
