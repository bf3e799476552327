/* Names and words for error codes. The words are ours. */
#include "cuda_sim.h"

static const struct {
    int code;
    const char *name;
} names[] = {{0, "CUDA_SUCCESS"},
#define X(number, word) {number, "CUDA_ERROR_" #word},
             VGPU_CUDA_ERRORS(X)
#undef X
};

static const struct {
    int code;
    const char *words;
} said[] = {
    {0, "no error"},
    {1, "invalid argument"},
    {2, "out of memory"},
    {3, "initialization error"},
    {100, "no CUDA-capable device is detected"},
    {101, "invalid device ordinal"},
    {201, "invalid device context"},
    {400, "invalid resource handle"},
    {500, "named symbol not found"},
    {600, "device not ready"},
    {709, "context is destroyed"},
    {801, "operation not supported by the simulated GPU"},
    {900, "operation not permitted when stream is capturing"},
    {901, "operation failed due to a previous error during capture"},
    {906, "operation would make the legacy stream depend on a capturing blocking stream"},
    {999, "unknown error"},
};

API CUresult cuGetErrorName(CUresult code, const char **out) {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == (int)code) *out = names[i].name;
    return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult code, const char **out) {
    CHECK(cuGetErrorName(code, out));
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (said[i].code == (int)code) *out = said[i].words;
    return CUDA_SUCCESS;
}
