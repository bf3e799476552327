#!/bin/bash
# Sessions that take turns on the simulated GPU, in real time: shares beside each other, a session
# without a share, burst, live change, the dead and the stopped, data races. Kernels of 5 ms and ± 5
# points, because the machine is shared: the matrix is in turn_shares.c, in virtual time. One line
# "ok NAME" or "not ok NAME" a check.
#     tests/shim/turn_run.sh
set -u
cd "$(dirname "$0")/../.."
. tests/shim/cells.sh load hazard
echo '{"rate": 200}' >"$out/base" # kernels of 5 ms a second

# A stopped program is ended by us, or by the limit: timeout would wait for it.
load() { local name=$1; shift; VGPU_REGION="$out/$name" LD_PRELOAD="$built/shim.so" exec "$out/load" --us 5000 --batch 20 "$@"; }
fresh() { wait; rm -f "$out"/state/board-*; }
board() { "$out/make_region" board "$out"/state/board-*; }
# Two sessions with these shares, for three seconds.
beside() {
    fresh
    session a "$1"; session b "$2"
    load a --seconds 3 >"$out/a.json" &
    load b --seconds 3 >"$out/b.json" &
    wait
}
# Each measures once, for `cell`.
shares() {
    beside "$1" "$2"
    echo "$(percent a.json base) $(($1 / 10000)) 5 $1 beside $2 ppm: the first"
    echo "$(percent b.json base) $(($2 / 10000)) 5 $1 beside $2 ppm: the second"
}

beside_unlimited() {
    beside 1000000 250000
    echo "$(percent b.json base) 25 5 25 % beside a session without a share"
    echo "$(percent a.json base) 73 7 a session without a share has the rest"
}

# It began alone, ungated, and takes turns once another session comes; then it is alone again.
newcomer() {
    fresh
    session a 1000000; session b 500000
    load a --seconds 4 >"$out/a.json" &
    sleep 1
    load b --seconds 2 >"$out/b.json" &
    wait
    echo "$(percent b.json base) 50 6 a newcomer beside an unlimited session"
    echo "$(percent a.json base) 75 8 the unlimited session, before, beside and after"
}

two_processes() {
    fresh
    session a 500000; session b 500000
    load a --seconds 3 >"$out/a1.json" &
    load a --seconds 3 >"$out/a2.json" &
    load b --seconds 3 >"$out/b.json" &
    wait
    echo "$(awk "BEGIN { print $(percent a1.json base) + $(percent a2.json base) }") 49 6 two processes at 50 % beside another session"
    echo "$(percent b.json base) 49 6 the other session"
}

burster() {
    fresh
    session a 250000; session b 500000
    "$out/make_region" set "$out/a" burst_ppm 1000000
    load a --seconds 4 >"$out/a.json" &
    sleep 2
    load b --seconds 2 >"$out/b.json" &
    wait
    echo "$(percent b.json base) 50 6 50 % beside a burster"
    echo "$(percent a.json base) 73 7 25 % with burst: all of two seconds, half of two"
}

live_share() {
    fresh
    session a 250000
    load a --seconds 4 >"$out/a.json" &
    sleep 2
    "$out/make_region" set "$out/a" share_ppm 750000
    wait
    echo "$(percent a.json base) 50 5 25 % for two seconds, then 75"
}

live_weight() {
    fresh
    session a 1000000; session b 1000000
    load a --seconds 4 >"$out/a.json" &
    load b --seconds 4 >"$out/b.json" &
    sleep 2
    "$out/make_region" set "$out/a" weight_ppm 4000000
    wait
    echo "$(percent a.json base) 65 6 weight 1 for two seconds, then 4"
}

# Waits that are not launches (memory freed, a module unloaded, the legacy stream), kernels that wait
# for a later one, graphs that are changed: the share holds, and the neighbour has its own.
hazard() {
    fresh
    session a 250000; session b 750000
    VGPU_REGION="$out/a" LD_PRELOAD="$built/shim.so" timeout 30 "$out/hazard" "$1" 3 >"$out/a.json" &
    load b --seconds 3 >"$out/b.json" &
    wait
    echo "$(percent a.json base) 25 5 $1 at 25 %"
    echo "$(percent b.json base) 73 6 $1 beside 75 %: its neighbour"
}

# The holder dies, or stops: the other one goes on.
struck() {
    local signal=$1 victim other
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
    echo "$(percent a.json base) 48 6 kill -$signal of its neighbour, seven times: 50 % goes on"
    kill -CONT $victim; kill -9 $victim; wait $victim 2>/dev/null
}

for case in "500000 500000" "250000 750000" "250000 500000"; do
    # shellcheck disable=SC2086
    cell shares $case
done
for measure in beside_unlimited newcomer two_processes burster live_share live_weight; do cell $measure; done
for name in free unload legacy spin update clone; do cell hazard $name; done
for signal in KILL STOP; do cell struck $signal; done

fresh
session a 500000; session b 500000
"$out/make_region" set "$out/a" throttle 2
load a --seconds 1.5 >"$out/a.json" & # the last to end: nobody frees its seat
load b --seconds 1 >"$out/b.json" &
wait
turns=$(board | sed -n 's|.*/a share .* turns \([0-9]*\) .*|\1|p')
[ "$turns" = 0 ] && echo "ok strict takes no turns" || echo "not ok strict takes no turns: $turns"

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
