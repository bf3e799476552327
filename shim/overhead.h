/* What a context takes although no call names bytes: streams, and (graph_nodes.h, local.h) the
 * nodes of executable graphs and local memory. It belongs to the context and goes with it. Sizes:
 * measured on an H200; what they miss is NVML's difference, which the supervisor adds. */
#ifndef VGPU_OVERHEAD_H
#define VGPU_OVERHEAD_H

#include "context.h"
#include "cuda_abi.h"

#define VGPU_STREAM_BYTES (UINT64_C(560) << 10) /* 256 streams took 140 MiB */
/* Charged beyond the whole blocks of a context's streams: keeps the last block of a limit free. */
#define VGPU_STREAM_SPARE (UINT64_C(64) << 10)

/* Charges bytes to the place's context; CUDA_ERROR_OUT_OF_MEMORY if they do not fit. */
CUresult vgpu_overhead_grow(const struct vgpu_place *place, uint64_t bytes, const char *api);
void vgpu_overhead_shrink(const struct vgpu_place *place, uint64_t bytes);

/* Makes a stream by make(how). A destroyed stream's memory stays with the context, which uses it
 * for the next one. */
CUresult vgpu_overhead_stream(const char *api, CUresult (*make)(const void *how), const void *how);

/* Destroys a stream by end(stream): until then its memory serves no other. */
CUresult vgpu_overhead_stream_end(CUstream stream, CUresult (*end)(CUstream));

/* The whole blocks in so many bytes: what a context's own memory takes of the device (measured). */
uint64_t vgpu_overhead_blocks(uint64_t bytes);

/* After a call that may have taken memory which nothing names (code, a device heap): near the limit
 * the supervisor looks before we go on. False if the session is past its limit then. */
bool vgpu_overhead_fits(const struct vgpu_place *place);

#endif
