#!/bin/sh
# Builds the two simulated libraries: build.sh OUTDIR [extra compiler flags]. src/shim.ts does the same.
set -eu
here=$(cd "$(dirname "$0")" && pwd) out=$1
shift
mkdir -p "$out"
common="-std=gnu11 -O2 -fPIC -shared -pthread -fvisibility=hidden -Wl,-Bsymbolic -Wl,-z,nodelete"
${CC:-cc} $common "$@" -Wl,-soname,libcuda.so.1 -o "$out/libcuda.so.1" "$here"/cuda_*.c "$here"/sim_*.c
${CC:-cc} $common "$@" -Wl,-soname,libnvidia-ml.so.1 -o "$out/libnvidia-ml.so.1" "$here"/nvml_*.c "$here"/sim_*.c
${CC:-cc} -std=gnu11 -O2 -pthread "$@" -o "$out/nvidia-cuda-mps-control" "$here"/mps_control.c "$here"/sim_*.c
