#!/bin/sh
# What the scripts beside this one need, built once: the simulated GPU in OUT/sim, the shim as OUT/shim.so
# and instrumented as OUT/shim-asan.so (with UBSan) and OUT/shim-tsan.so.
#     tests/shim/build.sh OUT      then BUILT=OUT tests/shim/turn_run.sh; without BUILT each builds its own
set -eu
cd "$(dirname "$0")/../.."
out=$1 cc=${CC:-cc}
mkdir -p "$out"
sources=$(ls shim/*.c | grep -vE '/(check|demo|exec|layout|probe)\.c$')
# shim NAME FLAGS…
shim() {
    name=$1
    shift
    # shellcheck disable=SC2086
    "$cc" -std=gnu11 -g -fPIC -shared -fvisibility=hidden -Wall -Wextra -Wconversion -Werror -pthread "$@" \
        -Wl,-z,now -Wl,--version-script=shim/exports.map $sources "shim/trampoline_$(uname -m).S" -o "$out/$name"
}
plain() { sh shim/sim/build.sh "$out/sim" && shim shim.so -O2 -Wl,-z,defs; }
asan() { shim shim-asan.so -O1 -fno-omit-frame-pointer -fsanitize=address,undefined; }
tsan() { shim shim-tsan.so -O1 -fno-omit-frame-pointer -fsanitize=thread; }
status=0
plain & first=$!
asan & second=$!
tsan & third=$!
for job in $first $second $third; do wait "$job" || status=1; done
exit $status
