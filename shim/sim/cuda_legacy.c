/* The 32-bit calls of CUDA 2 on memory and arrays: no context of today accepts them (measured:
 * 201). No prototypes here, so that one macro can define them all. */
#include "sim.h"

SIM_INTERNAL int sim_legacy_code(void); /* cuda_init.c: 201, or 3 before cuInit */

#define X(symbol)                                                                                  \
    SIM_EXPORT int symbol(void);                                                                   \
    int symbol(void) { return sim_legacy_code(); }

/* clang-format off */
X(cuMemcpyHtoD) X(cuMemcpyDtoH) X(cuMemcpyDtoD) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync)
X(cuMemcpyDtoDAsync) X(cuMemcpy2D) X(cuMemcpy2DAsync) X(cuMemcpy2DUnaligned) X(cuMemcpy3D)
X(cuMemcpy3DAsync) X(cuMemcpyDtoA) X(cuMemcpyAtoD) X(cuMemcpyHtoA) X(cuMemcpyAtoH) X(cuMemcpyAtoA)
X(cuMemcpyHtoAAsync) X(cuMemcpyAtoHAsync) X(cuMemsetD8) X(cuMemsetD16) X(cuMemsetD32)
X(cuMemsetD2D8) X(cuMemsetD2D16) X(cuMemsetD2D32) X(cuArrayCreate) X(cuArray3DCreate)
X(cuArrayGetDescriptor) X(cuArray3DGetDescriptor) X(cuModuleGetGlobal) X(cuMemHostGetDevicePointer)
