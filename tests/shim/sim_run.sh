#!/bin/sh
# Builds the simulated GPU and runs tests/shim/sim_*.c against it: sim_run.sh [compiler flags for both, e.g. -fsanitize=address,undefined]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
warn="-Wall -Wextra -Werror"
"$here/../../shim/sim/build.sh" "$work" $warn -Wconversion "$@"
failed=0
for source in "$here"/sim_*.c; do
    name=$(basename "$source" .c)
    ${CC:-cc} -std=gnu11 -g $warn -pthread "$@" "$source" -o "$work/$name" -L"$work" -l:libcuda.so.1 -l:libnvidia-ml.so.1 -Wl,-rpath,"$work"
    timeout 120 "$work/$name" >"$work/$name.out" 2>&1 && result=passed || { result="FAILED ($?)"; failed=1; }
    echo "$name: $result, $(grep -c '^ok' "$work/$name.out") checks"
    grep -v '^ok' "$work/$name.out" || :
done
exit $failed
