/* Moments and lengths of time, ns: never negative. */
#ifndef VGPU_TIMES_H
#define VGPU_TIMES_H

#include <stdint.h>

static inline uint64_t later(uint64_t a, uint64_t b) { return a > b ? a : b; }
static inline uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* 0 rather than less. */
static inline uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

#endif
