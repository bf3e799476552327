#!/bin/sh
# The tests of the memory side that need a driver, on the simulated GPU.
#     tests/shim/memory_run.sh                                  BUILT: see build.sh
#     KILLS=10000 LIMIT_S=3600 tests/shim/memory_run.sh soak    the long soak alone
set -eu
cd "$(dirname "$0")"
what=${1:-all}
cc=${CC:-cc}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags="-std=gnu11 -O2 -g -Wall -Wextra -Wconversion -Werror -pthread"
shim=../../shim
status=0
built=${BUILT:-$out}
[ -n "${BUILT:-}" ] || sh build.sh "$out"
SIM=$built/sim

# on_sim PROGRAM LIMIT: a fresh session and a fresh simulated card.
on_sim() {
    name=$1
    limit=$2
    shift 2
    "$cc" $flags "$name.c" $shim/slot.c -o "$out/$name" -L"$SIM" -l:libcuda.so.1 -l:libnvidia-ml.so.1 -ldl
    mkdir -p "$out/state.$name"
    "$out/make_region" "$out/region" "$limit"
    echo "# $name (simulated GPU)"
    VGPU_SIM_DIR="$out/state.$name" VGPU_REGION="$out/region" LD_LIBRARY_PATH="$SIM" \
        LD_PRELOAD="$built/shim.so" timeout -k 1 "${LIMIT_S:-120}" "$out/$name" "$@" >"$out/log" 2>&1 || { cat "$out/log"; status=1; }
    grep -v '^ok' "$out/log" || true
    grep -c '^ok' "$out/log" | sed 's/$/ checks/'
}

# NVML's lists as the simulated card has none: another NVML, in front of the simulated one.
lists() {
    echo "# memory_lists (an NVML of its own)"
    mkdir -p "$out/nvml"
    "$cc" $flags -fPIC -shared -fvisibility=hidden -DLIBRARY memory_lists.c -o "$out/nvml/libnvidia-ml.so.1" \
        -Wl,-soname,libnvidia-ml.so.1
    "$cc" $flags memory_lists.c -o "$out/memory_lists" -L"$out/nvml" -l:libnvidia-ml.so.1
    "$out/make_region" "$out/region" 0x100000000
    VGPU_REGION="$out/region" LD_LIBRARY_PATH="$out/nvml:$SIM" LD_PRELOAD="$built/shim.so" \
        timeout -k 1 60 "$out/memory_lists" >"$out/log" 2>&1 || { cat "$out/log"; status=1; }
    grep -c '^ok' "$out/log" | sed 's/$/ checks/'
}

# The GPU check's program (tests/gpu) on the simulated card: each path alone up to the limit, twice.
in_session() {
    VGPU_SIM_DIR="$out/state.$1" VGPU_REGION="$out/region" LD_LIBRARY_PATH="$SIM" LD_PRELOAD="$built/shim.so" \
        timeout -k 1 120 "$out/gpu_paths" "$2" "$3" ${4:-} ${5:-}
}
fills() {
    echo "# each path alone, limit $1"
    for path in $(LD_LIBRARY_PATH="$SIM" "$out/gpu_paths" list | cut -d' ' -f1); do
        "$out/make_region" "$out/region" "$1"
        mkdir -p "$out/state.$path"
        in_session "$path" fill "$path" >"$out/log" && echo "ok $path" || { cat "$out/log"; status=1; }
    done | tee "$out/fills" | grep -v '^ok' || true
    grep -q -v '^ok' "$out/fills" && status=1
    grep -c '^ok' "$out/fills" | sed 's/$/ checks/'
}
# All of them at once in four processes of one session; afterwards the ledger is empty.
mixes() {
    echo "# four processes of eight threads, all paths"
    "$out/make_region" "$out/region" "$1"
    mkdir -p "$out/state.mix"
    in_session mix mix 2 8 4 >"$out/log" || { cat "$out/log"; status=1; }
    echo "4 checks"
}

"$cc" $flags make_region.c -o "$out/make_region"
if [ "$what" = all ]; then
    "$cc" $flags ../gpu/memory_paths.c -o "$out/gpu_paths" -L"$SIM" -l:libcuda.so.1 -ldl
    on_sim memory_paths 0x100000000
    on_sim memory_closed none
    on_sim memory_nvml 0x100000000
    lists
    on_sim memory_exec 0x100000000
    on_sim memory_kinds 0x100000000
    on_sim memory_cards 0x100000000
    on_sim memory_lives 0x100000000
    on_sim partition_contexts 0x100000000
    on_sim partition_order 0x100000000
    on_sim partition_threads 0x100000000
    on_sim partition_peers 0x100000000
    on_sim partition_lives 0x100000000
    fills 0x40000000
    fills 0x100000000
    mixes 0x100000000
    on_sim memory_cost 0x100000000
fi
on_sim memory_soak 0x100000000 "${KILLS:-200}"
exit $status
