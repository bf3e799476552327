#!/bin/bash
# Sessions that take turns on the simulated GPU, in real time: shares beside each other, a session
# without a share, burst, live change, the dead and the stopped, data races. Kernels of 5 ms and ± 5
# points, because the machine is shared: the matrix is in turn_shares.c, in virtual time. One line
# "ok NAME" or "not ok NAME" a check.
#     tests/shim/turn_run.sh
set -u
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'kill -9 $(jobs -p) 2>/dev/null; rm -rf "$out"' EXIT
cc=${CC:-cc}
built=${BUILT:-$out}
{ [ -n "${BUILT:-}" ] || sh tests/shim/build.sh "$out"; } &&
    $cc -std=gnu11 -O2 tests/fixtures/load.c -o "$out/load" -pthread -ldl &&
    $cc -std=gnu11 -O2 tests/fixtures/hazard.c -o "$out/hazard" -ldl &&
    $cc -std=gnu11 -O2 tests/shim/make_region.c -o "$out/make_region" || exit 1
mkdir -m 700 "$out/state"
export VGPU_SIM_DIR="$out/state" LD_LIBRARY_PATH="$built/sim"

# session NAME SHARE_PPM: a region of its own, on the common board
session() { "$out/make_region" "$out/$1" none "$2" 543162368 "$out/state"; }
# A stopped program is ended by us, or by the limit: timeout would wait for it.
load() { local name=$1; shift; VGPU_REGION="$out/$name" LD_PRELOAD="$built/shim.so" exec "$out/load" --us 5000 --batch 20 "$@"; }
fresh() { wait; rm -f "$out"/state/board-*; }
rate() { sed 's/.*"rate": \([0-9.]*\).*/\1/' "$out/$1.json"; }
percent() { awk -v a="$(rate "$1")" -v b="$base" 'BEGIN { print 100 * a / b }'; }
board() { "$out/make_region" board "$out"/state/board-*; }
# within NAME GOT WANTED TOLERANCE, all in points
within() {
    awk -v name="$1" -v got="$2" -v wanted="$3" -v tolerance="$4" 'BEGIN {
        good = got >= wanted - tolerance && got <= wanted + tolerance
        printf "%s %s: %.1f of %.1f ± %.1f\n", good ? "ok" : "not ok", name, got, wanted, tolerance
        exit !good }'
}

base=200 # kernels of 5 ms a second

for case in "500000 500000" "250000 750000" "250000 500000"; do
    set -- $case
    fresh
    session a "$1"; session b "$2"
    load a --seconds 3 >"$out/a.json" &
    load b --seconds 3 >"$out/b.json" &
    wait
    within "$case: the first" "$(percent a)" "$(($1 / 10000))" 5
    within "$case: the second" "$(percent b)" "$(($2 / 10000))" 5
done

fresh
session a 1000000; session b 250000
load a --seconds 3 >"$out/a.json" &
load b --seconds 3 >"$out/b.json" &
wait
within "25 % beside a session without a share" "$(percent b)" 25 5
within "a session without a share has the rest" "$(percent a)" 73 7

# It began alone, ungated, and takes turns once another session comes; then it is alone again.
fresh
session a 1000000; session b 500000
load a --seconds 4 >"$out/a.json" &
sleep 1
load b --seconds 2 >"$out/b.json" &
wait
within "a newcomer beside an unlimited session" "$(percent b)" 50 6
within "the unlimited session, before, beside and after" "$(percent a)" 75 8

fresh
session a 500000; session b 500000
load a --seconds 3 >"$out/a1.json" &
load a --seconds 3 >"$out/a2.json" &
load b --seconds 3 >"$out/b.json" &
wait
within "two processes at 50 % beside another session" "$(awk "BEGIN { print $(percent a1) + $(percent a2) }")" 49 6
within "the other session" "$(percent b)" 49 6

fresh
session a 250000; session b 500000
"$out/make_region" set "$out/a" burst_ppm 1000000
load a --seconds 4 >"$out/a.json" &
sleep 2
load b --seconds 2 >"$out/b.json" &
wait
within "50 % beside a burster" "$(percent b)" 50 6
within "25 % with burst: all of two seconds, half of two" "$(percent a)" 73 7

fresh
session a 500000; session b 500000
"$out/make_region" set "$out/a" throttle 2
load a --seconds 1 >"$out/a.json" &
load b --seconds 1 >"$out/b.json" &
wait
turns=$(board | sed -n 's|.*/a share .* turns \([0-9]*\) .*|\1|p')
[ "$turns" = 0 ] && echo "ok strict takes no turns" || echo "not ok strict takes no turns: $turns"

fresh
session a 250000
load a --seconds 4 >"$out/a.json" &
sleep 2
"$out/make_region" set "$out/a" share_ppm 750000
wait
within "25 % for two seconds, then 75" "$(percent a)" 50 5

fresh
session a 1000000; session b 1000000
load a --seconds 4 >"$out/a.json" &
load b --seconds 4 >"$out/b.json" &
sleep 2
"$out/make_region" set "$out/a" weight_ppm 4000000
wait
within "weight 1 for two seconds, then 4" "$(percent a)" 65 6

# Waits that are not launches (memory freed, a module unloaded, the legacy stream), kernels that wait
# for a later one, graphs that are changed: the share holds, and the neighbour has its own.
for hazard in free unload legacy spin update clone; do
    fresh
    session a 250000; session b 750000
    VGPU_REGION="$out/a" LD_PRELOAD="$built/shim.so" timeout 30 "$out/hazard" $hazard 3 >"$out/a.json" &
    load b --seconds 3 >"$out/b.json" &
    wait
    within "$hazard at 25 %" "$(percent a)" 25 5
    within "$hazard beside 75 %: its neighbour" "$(percent b)" 73 6
done

# The holder dies, or stops: the other one goes on.
for signal in KILL STOP; do
    fresh
    session a 500000; session b 500000
    load b --seconds 30 >/dev/null 2>&1 &
    victim=$!
    load a --seconds 4 >"$out/a.json" &
    other=$!
    sleep 1
    for round in 1 2 3 4 5 6; do
        kill -$signal $victim
        [ $signal = KILL ] && { wait $victim 2>/dev/null; load b --seconds 30 >/dev/null 2>&1 & victim=$!; }
        sleep 0.3
        [ $signal = STOP ] && kill -CONT $victim
        sleep 0.05
    done
    [ $signal = STOP ] && kill -STOP $victim
    wait $other
    within "kill -$signal of its neighbour, seven times: 50 % goes on" "$(percent a)" 48 6
    kill -CONT $victim; kill -9 $victim; wait $victim 2>/dev/null
done

runtime=$($cc -print-file-name=libtsan.so)
fresh
session a 500000; session b 1000000
load a --seconds 3 >/dev/null &
TSAN_OPTIONS="exitcode=66 report_signal_unsafe=0" VGPU_REGION="$out/b" \
    LD_PRELOAD="$runtime $built/shim-tsan.so" timeout 60 "$out/load" --us 300 --threads 3 --streams 2 --seconds 2 >"$out/log" 2>&1
status=$?
wait
if [ $status = 0 ] && grep -q rate "$out/log"; then echo "ok no data race in turns"
else echo "not ok no data race in turns (exit $status)"; head -40 "$out/log"; fi
