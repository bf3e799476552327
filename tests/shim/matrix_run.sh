#!/bin/bash
# The share matrix on the simulated GPU in real time, ± 2 points: kernel lengths from 0.5 to 50 ms, streams,
# threads, graphs, waits, processes; one and two sessions. About four minutes on a machine that is otherwise
# idle; not part of the test command, which checks a few of these cells at ± 5 (pace_run.sh, turn_run.sh)
# and the whole matrix in virtual time at ± 0.5 (gate_schedule.c, pace_streams.c, turn_shares.c).
#     tests/shim/matrix_run.sh      BUILT: see build.sh
set -u
cd "$(dirname "$0")/../.."
. tests/shim/cells.sh load

fresh() { wait; rm -f "$out"/state/board-*; }
load() { VGPU_REGION="$out/$1" LD_PRELOAD="$built/shim.so" timeout 60 "$out/load" "${@:2}" >"$out/$1.json"; }
native() { VGPU_SIM_DIR="$out/native" "$out/load" "$@" >"$out/native.json"; }

# alone SHARE [option …]
alone() {
    fresh
    session a "$(($1 * 10000))"
    native "${@:2}" --seconds 3 &
    load a "${@:2}" --seconds 3
    wait
    echo "$(percent a.json native.json) $1 2 $1 %: ${*:2}"
}

# pair SHARE SHARE US US: both saturate
pair() {
    fresh
    session a "$(($1 * 10000))"
    session b "$(($2 * 10000))"
    local i=0 us
    load a --us "$3" --batch 8 --seconds 5 &
    load b --us "$4" --batch 8 --seconds 5 &
    wait
    for us in "$3" "$4"; do
        i=$((i + 1))
        [ $i = 1 ] && name=a share=$1 || name=b share=$2
        echo "$(awk -v r="$(rate $name.json)" -v us="$us" 'BEGIN { print r * us / 1e4 }') $share 2 $1 + $2, kernels of $3 and $4 us: no. $i"
    done
}

for share in 10 25 50 75 90; do cell alone $share --us 500; done
for us in 1000 5000 50000; do cell alone 25 --us $us; done
cell alone 75 --us 5000
for how in "--streams 4" "--threads 3" "--sync" "--parts"; do
    # shellcheck disable=SC2086
    cell alone 25 --us 500 $how
done
cell alone 50 --us 100 --graph 10
for shares in "25 50" "25 75" "50 50" "10 90"; do
    # shellcheck disable=SC2086
    cell pair $shares 500 500
done
cell pair 50 50 5000 500
cell pair 25 75 500 20000
