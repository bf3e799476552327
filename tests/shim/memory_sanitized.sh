#!/bin/sh
# The whole shim under the sanitizers on the simulated GPU: built with ASan and UBSan, then with TSan, its
# runtime preloaded first into the uninstrumented programs of memory_run.sh. Zero reports, from them and from
# every process they start. One line "ok NAME" or "not ok NAME" a check.
#     tests/shim/memory_sanitized.sh        BUILT: see build.sh
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cc=${CC:-cc}
flags="-std=gnu11 -g -pthread"
status=0
built=${BUILT:-$out}
[ -n "${BUILT:-}" ] || sh tests/shim/build.sh "$out"
SIM=$built/sim
"$cc" $flags tests/shim/make_region.c -o "$out/make_region"
on_sim() { "$cc" $flags -O2 "$@" -L"$SIM" -l:libcuda.so.1 -l:libnvidia-ml.so.1 -ldl; }
for name in paths kinds nvml lives exec closed soak; do
    on_sim tests/shim/memory_$name.c shim/slot.c -o "$out/memory_$name"
done
for name in contexts lives; do
    on_sim tests/shim/partition_$name.c shim/slot.c -o "$out/partition_$name"
done
on_sim tests/gpu/memory_paths.c -o "$out/gpu_paths"
runtime() { for name; do printf '%s ' "$("$cc" -print-file-name="lib$name.so")"; done; }
export ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=report_signal_unsafe=0

# under KIND LIBRARY PROGRAM LIMIT ARGUMENTS…: fails, and prints what was said, on any report.
reported='runtime error:|(ERROR|WARNING): [A-Za-z]*Sanitizer'
under() {
    kind=$1 library=$2 program=$3 limit=$4
    shift 4
    [ "$kind" = thread ] && preload=$(runtime tsan) || preload=$(runtime asan ubsan)
    rm -rf "$out/state" && mkdir "$out/state"
    "$out/make_region" "$out/region" "$limit"
    VGPU_SIM_DIR="$out/state" VGPU_REGION="$out/region" LD_LIBRARY_PATH="$SIM" LD_PRELOAD="$preload$library" \
        timeout -k 1 60 "$out/$program" "$@" >"$out/log" 2>&1 && code=0 || code=$?
    [ $code = 0 ] && ! grep -qE "$reported" "$out/log"
}
clean() {
    if under "$@"; then echo "ok $1 $3"; else
        echo "not ok $1 $3 (exit $code)"
        grep -v '^ok' "$out/log" | head -60
        status=1
    fi
}

# The check itself can fail: a library that does what each sanitizer is for is reported.
cat >"$out/wrong.c" <<'C'
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
static volatile int one = 1, most = INT_MAX;
static void *write_it(void *unused) { most -= one; return unused; }
__attribute__((constructor)) static void wrong(void) {
    pthread_t other;
#ifdef OVERFLOW
    most += one;
#elif defined RACE
    pthread_create(&other, NULL, write_it, NULL);
    most -= one;
    pthread_join(other, NULL);
#else
    volatile char *bytes = malloc((size_t)one);
    bytes[one] = 0;
    free((void *)bytes);
#endif
    (void)other, (void)write_it;
}
C
for one in thread/RACE address,undefined/OVERFLOW address,undefined/OVERRUN; do
    "$cc" $flags -O1 -fsanitize="${one%/*}" -fPIC -shared -D"${one#*/}" "$out/wrong.c" -o "$out/wrong.so"
    if under "${one%/*}" "$out/wrong.so" make_region 0 "$out/other" || ! grep -qE "$reported" "$out/log"; then
        echo "not ok a planted error is reported: ${one#*/}"
        status=1
    else
        echo "ok a planted error is reported: ${one#*/}"
    fi
done

for kind in address,undefined thread; do
    [ $kind = thread ] && library=$built/shim-tsan.so || library=$built/shim-asan.so
    for name in paths kinds nvml lives exec; do clean $kind "$library" memory_$name 0x100000000; done
    for name in contexts lives; do clean $kind "$library" partition_$name 0x100000000; done
    clean $kind "$library" memory_closed none
    clean $kind "$library" memory_soak 0x100000000 "${KILLS:-30}"
    clean $kind "$library" gpu_paths 0x100000000 mix 2 8 1
done
exit $status
