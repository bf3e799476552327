#!/bin/bash
# The gate and the pacing of real launches on the simulated GPU: shares, several processes, the dead and
# the stopped, and data races (the shim built with ThreadSanitizer, its runtime preloaded first into an
# uninstrumented program). One line "ok NAME" or "not ok NAME" a check.
#     tests/shim/pace_run.sh
set -u
cd "$(dirname "$0")/../.."
. tests/shim/cells.sh load
export VGPU_REGION="$out/region"

fresh() { "$out/make_region" "$out/region" none "$1"; }
load() { LD_PRELOAD="$built/shim.so" timeout 30 "$out/load" "$@"; }
# The native rate of the same moment, on a simulated machine of its own: what else the real machine does
# meanwhile slows both.
native() { env -u VGPU_REGION VGPU_SIM_DIR="$out/native" "$out/load" "$@" >"$out/base" & }
victim() { LD_PRELOAD="$built/shim.so" "$out/load" --us 500 --seconds 30 >/dev/null 2>&1 & victim=$!; }

alone() {
    fresh 250000
    native "$@" --seconds 1.5
    load "$@" --seconds 1.5 >"$out/a"
    wait
    echo "$(percent a base) 25 5 25 % of native: $*"
}

together() {
    fresh 500000
    native --us 500 --seconds 2
    load --us 500 --seconds 2 >"$out/a" &
    load --us 500 --seconds 2 >"$out/b"
    wait
    local a=$(percent a base) b=$(percent b base)
    echo "$(awk "BEGIN { print $a + $b }") 50 5 two processes of a session at 50 %, together"
    echo "$a 25 5 two processes of a session at 50 %, one of them"
}

pausing() {
    fresh 500000
    native --us 500 --seconds 2
    load --us 500 --seconds 2 >"$out/a" &
    load --us 500 --pause 300 --seconds 2 >"$out/b"
    wait
    echo "$(percent a base) 47 5 a pausing neighbour in the session leaves the rest to the other"
}

killed() {
    fresh 250000
    native --us 500 --seconds 3
    load --us 500 --seconds 3 >"$out/a" &
    sleep 0.2
    victim
    sleep 0.8
    kill -9 $victim
    wait 2>/dev/null
    echo "$(percent a base) 21.5 5 a killed process does not hold the others up"
}

stopped() {
    fresh 250000
    native --us 500 --seconds 3
    load --us 500 --seconds 3 >"$out/a" &
    local other=$!
    sleep 0.1
    victim
    sleep 0.4
    kill -STOP $victim
    wait $other
    kill -9 $victim
    wait 2>/dev/null
    echo "$(percent a base) 23 5 a stopped process does not hold the others up"
}

for case in "--us 500" "--us 1000 --streams 4" "--us 500 --sync" "--us 500 --streams 8 --read" "--us 100 --graph 10" "--us 500 --threads 3" "--us 5000" "--us 500 --parts"; do
    # shellcheck disable=SC2086
    cell alone $case
done
for measure in together pausing killed stopped; do cell $measure; done

runtime=$($cc -print-file-name=libtsan.so)
for case in "--us 200 --threads 4" "--us 100 --streams 4 --threads 2" "--us 50 --graph 10 --threads 2" "--us 300 --sync --threads 3"; do
    fresh 250000
    load --us 300 --seconds 1 >/dev/null &
    # shellcheck disable=SC2086
    TSAN_OPTIONS="exitcode=66 report_signal_unsafe=0" LD_PRELOAD="$runtime $built/shim-tsan.so" \
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
