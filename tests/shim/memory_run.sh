#!/bin/sh
# Builds and runs the tests of the memory side: the pure ones (also under the sanitizers), then those
# that need a driver, on the simulated GPU in SIM (default: skipped). CC, SHIM_FLAGS as usual.
#     tests/shim/memory_run.sh [pure|sim|all]      SIM=/path/to/dir/with/libcuda.so.1
set -eu
cd "$(dirname "$0")"
what=${1:-all}
cc=${CC:-cc}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags="-std=gnu11 -O2 -g -Wall -Wextra -Wconversion -Werror -pthread"
shim=../../shim
status=0

# test NAME SOURCES…: built and run plainly and instrumented.
pure() {
    name=$1
    shift
    for sanitizer in none thread address,undefined; do
        case $name:$sanitizer in ledger_race:thread) continue ;; esac # needs fork, not threads
        [ $sanitizer = none ] && instrument= || instrument=-fsanitize=$sanitizer
        "$cc" $flags $instrument "$name.c" "$@" -o "$out/$name"
        echo "# $name ($sanitizer)"
        ASAN_OPTIONS=detect_leaks=0 "$out/$name" >"$out/log" 2>&1 || { cat "$out/log"; status=1; }
        grep -c '^ok' "$out/log" | sed 's/$/ checks/'
    done
}

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
        LD_PRELOAD="$out/shim.so" timeout -k 1 120 "$out/$name" "$@" >"$out/log" 2>&1 || { cat "$out/log"; status=1; }
    grep -v '^ok' "$out/log" || true
    grep -c '^ok' "$out/log" | sed 's/$/ checks/'
}

if [ "$what" != sim ]; then
    pure ledger_basic $shim/ledger.c $shim/slot.c
    pure ledger_race $shim/ledger.c $shim/slot.c
    pure ledger_threads $shim/ledger.c $shim/slot.c
    pure blocks_basic $shim/blocks.c
    pure memory_handles $shim/handles.c
    pure memory_devices $shim/device.c $shim/slot.c
fi
if [ "$what" != pure ] && [ -n "${SIM:-}" ]; then
    sources=$(ls $shim/*.c | grep -vE '/(demo|exec|layout|probe)\.c$')
    "$cc" -std=gnu11 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Wconversion -Werror \
        ${SHIM_FLAGS:-} -pthread -Wl,-z,now -Wl,-z,defs -Wl,--version-script=$shim/exports.map \
        -o "$out/shim.so" $sources $shim/trampoline_"$(uname -m)".S
    "$cc" $flags make_region.c -o "$out/make_region"
    on_sim memory_paths 0x100000000
    on_sim memory_closed none
    on_sim memory_nvml 0x100000000
    on_sim memory_exec 0x100000000
    on_sim memory_soak 0x100000000 200
    on_sim memory_cost 0x100000000
fi
exit $status
