#!/bin/bash
# The routes on aarch64: cross-built, run under qemu-user. Debian packages: gcc-aarch64-linux-gnu
# libc6-dev-arm64-cross qemu-user. Nothing here has run on an aarch64 machine with a GPU.
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
  command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
CC=aarch64-linux-gnu-gcc ARCH=aarch64 QEMU='qemu-aarch64 -L /usr/aarch64-linux-gnu' exec "$(dirname "$0")/routes.sh"
