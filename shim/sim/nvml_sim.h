/* The simulated NVML. It knows nothing but the machine's file. */
#ifndef VGPU_NVML_SIM_H
#define VGPU_NVML_SIM_H

#include "../nvml_abi.h"
#include "sim.h"

#define API SIM_EXPORT

/* Card of a handle, or the code why there is none; not initialised is 1. */
SIM_INTERNAL nvmlReturn_t nvml_card(nvmlDevice_t device, int *card);
SIM_INTERNAL nvmlReturn_t nvml_ready(void);
SIM_INTERNAL nvmlReturn_t nvml_text(char *out, unsigned int size, const char *text);

#define CHECK(call)                                                                                \
    do {                                                                                           \
        nvmlReturn_t rc_ = (call);                                                                 \
        if (rc_) return rc_;                                                                       \
    } while (0)

#endif
