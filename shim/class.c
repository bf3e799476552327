#include "class.h"

#include <string.h>

#include "atomics.h"
#include "include/vgpu.h"
#include "interpose.h"
#include "cuda_abi.h"
#include "local.h"

#define ONE_PPM UINT64_C(1000000)

_Static_assert(VGPU_CLASS_COMMUNICATION == VGPU_WEIGHTED_CLASSES, "the others come before it");

bool vgpu_class_is_communication(const void *function) {
    const char *name = NULL;
    if (!function) return false;
    if (vgpu_local_is_kernel(function)) {
        typeof(&cuKernelGetName) get = vgpu_driver_symbol("cuKernelGetName");
        if (!get || get(&name, (CUkernel)(uintptr_t)function) != CUDA_SUCCESS) return false;
    } else {
        typeof(&cuFuncGetName) get = vgpu_driver_symbol("cuFuncGetName");
        if (!get || get(&name, (CUfunction)(uintptr_t)function) != CUDA_SUCCESS) return false;
    }
    return name && (strstr(name, "ncclDevKernel") || strstr(name, "ncclKernel"));
}

static uint64_t or_one(uint32_t ppm) { return ppm ? ppm : ONE_PPM; }

uint64_t vgpu_class_weigh(const struct vgpu_header *header,
                          const uint64_t work_ns[VGPU_WEIGHTED_CLASSES + 1], uint64_t charge_ns) {
    double work = 0, weighted = 0;
    for (unsigned i = 0; i <= VGPU_WEIGHTED_CLASSES; i++) {
        uint64_t ppm = ONE_PPM;
        if (i < VGPU_WEIGHTED_CLASSES)
            ppm = or_one(vgpu_load_relaxed(&header->class_weight_ppm[i]));
        work += (double)work_ns[i];
        weighted += (double)work_ns[i] * (double)ppm / (double)ONE_PPM;
    }
    double factor = work > 0 ? weighted / work : 1;
    factor *= (double)or_one(vgpu_load_relaxed(&header->dampening_ppm)) / (double)ONE_PPM;
    return (uint64_t)((double)charge_ns * factor + 0.5);
}
