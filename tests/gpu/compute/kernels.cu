// Kernels of known work, as a cubin for work.c:  nvcc -arch=sm_90 -cubin -o kernels.cubin kernels.cu
struct Span {
    unsigned long long start, end;
};

static __device__ unsigned long long now_ns() {
    unsigned long long t;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
    return t;
}

// `turns` dependent multiplications in every thread. Work, not time: a kernel that the driver takes off
// the card does nothing meanwhile. Block 0 notes when it ran. The result is used (as if it could pass
// the capacity's top bits), or the assembler would drop the loop.
extern "C" __global__ void spin(unsigned long long turns, Span *spans, unsigned long long *count,
                                unsigned long long capacity) {
    unsigned long long begin = now_ns();
    unsigned x = threadIdx.x;
#pragma unroll 1
    for (unsigned long long i = 0; i < turns; i++)
        asm volatile("mad.lo.u32 %0, %0, 1664525, 1013904223;" : "+r"(x));
    if ((unsigned long long)x << 32 == ~capacity) *count = 0;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        unsigned long long slot = atomicAdd(count, 1ULL);
        if (slot < capacity) {
            spans[slot].start = begin;
            spans[slot].end = now_ns();
        }
    }
}

// The card's clock, for work.c to place beside the host's.
extern "C" __global__ void stamp(volatile unsigned long long *out) { *out = now_ns(); }

// Ends by itself after limit_ns, so that a test that goes wrong leaves a usable card.
extern "C" __global__ void endless(unsigned long long limit_ns) {
    unsigned long long begin = now_ns();
    while (now_ns() - begin < limit_ns) {
    }
}
