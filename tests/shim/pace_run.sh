#!/bin/bash
# The gate and the pacing of real launches on the simulated GPU: shares, several processes, the dead and
# the stopped, and data races (the shim built with ThreadSanitizer, its runtime preloaded first into an
# uninstrumented program). One line "ok NAME" or "not ok NAME" a check.
#     tests/shim/pace_run.sh
set -u
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$out"' EXIT
cc=${CC:-cc}
flags="-std=gnu11 -g -fPIC -shared -fvisibility=hidden -pthread -Wl,--version-script=shim/exports.map"
sources=$(ls shim/*.c | grep -vE '/(layout|exec|probe|demo)\.c$')
trampoline=shim/trampoline_$(uname -m).S
sh shim/sim/build.sh "$out/sim" &&
    $cc $flags -O2 $sources "$trampoline" -o "$out/shim.so" &&
    $cc $flags -O1 -fsanitize=thread $sources "$trampoline" -o "$out/shim-tsan.so" &&
    $cc -std=gnu11 -O2 tests/fixtures/load.c -o "$out/load" -pthread -ldl &&
    $cc -std=gnu11 -O2 tests/shim/make_region.c -o "$out/make_region" || exit 1
mkdir -m 700 "$out/state"
export VGPU_SIM_DIR="$out/state" VGPU_REGION="$out/region" LD_LIBRARY_PATH="$out/sim"

fresh() { "$out/make_region" "$out/region" none "$1"; }
load() { LD_PRELOAD="$out/shim.so" timeout 30 "$out/load" "$@"; }
native() { env -u VGPU_REGION "$out/load" "$@"; }
rate() { sed 's/.*"rate": \([0-9.]*\).*/\1/'; }
# within NAME GOT WANTED TOLERANCE, all in points
within() {
    awk -v name="$1" -v got="$2" -v wanted="$3" -v tolerance="$4" 'BEGIN {
        good = got >= wanted - tolerance && got <= wanted + tolerance
        printf "%s %s: %.1f of %.1f ± %.1f\n", good ? "ok" : "not ok", name, got, wanted, tolerance
        exit !good }'
}
percent() { awk -v a="$1" -v b="$2" 'BEGIN { print 100 * a / b }'; }

for case in "--us 500" "--us 1000 --streams 4" "--us 500 --sync" "--us 100 --graph 10" "--us 500 --threads 3" "--us 5000" "--us 500 --parts"; do
    # shellcheck disable=SC2086
    base=$(native $case --seconds 1 | rate)
    fresh 250000
    # shellcheck disable=SC2086
    got=$(load $case --seconds 1.5 | rate)
    within "25 % of native: $case" "$(percent "$got" "$base")" 25 5
done

base=$(native --us 500 --seconds 1 | rate)
fresh 500000
load --us 500 --seconds 2 >"$out/a" &
load --us 500 --seconds 2 >"$out/b"
wait
a=$(percent "$(rate <"$out/a")" "$base") b=$(percent "$(rate <"$out/b")" "$base")
within "two processes of a session at 50 %, together" "$(awk "BEGIN { print $a + $b }")" 50 5
within "two processes of a session at 50 %, one of them" "$a" 25 5

fresh 500000
load --us 500 --seconds 2 >"$out/a" &
load --us 500 --pause 300 --seconds 2 >"$out/b"
wait
within "a pausing neighbour in the session leaves the rest to the other" "$(percent "$(rate <"$out/a")" "$base")" 47 5

fresh 250000
load --us 500 --seconds 3 >"$out/a" &
sleep 0.2
LD_PRELOAD="$out/shim.so" "$out/load" --us 500 --seconds 30 >/dev/null 2>&1 &
victim=$!
sleep 0.8
kill -9 $victim
wait $victim 2>/dev/null
wait
within "a killed process does not hold the others up" "$(percent "$(rate <"$out/a")" "$base")" 21.5 5

fresh 250000
load --us 500 --seconds 3 >"$out/a" &
sleep 0.1
LD_PRELOAD="$out/shim.so" "$out/load" --us 500 --seconds 30 >/dev/null 2>&1 &
victim=$!
sleep 0.4
kill -STOP $victim
wait %1 2>/dev/null
kill -9 $victim
wait 2>/dev/null
within "a stopped process does not hold the others up" "$(percent "$(rate <"$out/a")" "$base")" 23 5

runtime=$($cc -print-file-name=libtsan.so)
for case in "--us 200 --threads 4" "--us 100 --streams 4 --threads 2" "--us 50 --graph 10 --threads 2" "--us 300 --sync --threads 3"; do
    fresh 250000
    load --us 300 --seconds 1 >/dev/null &
    # shellcheck disable=SC2086
    TSAN_OPTIONS="exitcode=66 report_signal_unsafe=0" LD_PRELOAD="$runtime $out/shim-tsan.so" \
        timeout 60 "$out/load" $case --seconds 1 >"$out/log" 2>&1
    status=$?
    wait
    if [ $status = 0 ] && grep -q rate "$out/log"; then
        echo "ok no data race: $case"
    else
        echo "not ok no data race: $case (exit $status)"
        head -40 "$out/log"
    fi
done
