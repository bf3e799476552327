#!/bin/bash
# Data-parallel jobs on two simulated GPUs, in real time: ranks that wait for each other in NCCL's
# kernels, as processes of one session or as one process. Kernels of 2 ms and ± 8 points, because the
# machine is shared: the matrix is in gang_shares.c, in virtual time. One line "ok NAME" or
# "not ok NAME" a check.
#     tests/shim/gang_run.sh
set -u
cd "$(dirname "$0")/../.."
. tests/shim/cells.sh rank
export VGPU_SIM_GPUS=2

fresh() { wait; rm -f "$out"/state/board-* "$out"/*.meet; }
# Each is a process, so that its id is the program's.
native() { exec "$out/rank" --meet "$out/$1.meet" --us 2000 "${@:2}" >"$out/$1.json$3"; }
rank() {
    export VGPU_REGION="$out/$1" LD_PRELOAD="$built/shim.so"
    native "$@"
}
# job NAME [option …]: both ranks, in the background
job() {
    rank "$1" --rank 0 "${@:2}" &
    first=$!
    rank "$1" --rank 1 "${@:2}" &
    second=$!
}
# The native rate, by the same machine a moment before.
base() {
    fresh
    native base --rank 0 --seconds 1 &
    native base --rank 1 --seconds 1 &
    fresh
}

# Each measures once, for `cell`.
one_job() {
    base
    session a 500000
    job a
    wait
    echo "$(percent a.json0 base.json0) 50 8 one job at 50 %"
}

one_process() {
    base
    session a 500000
    rank a --rank 0 --stay &
    wait
    echo "$(percent a.json0 base.json0) 50 8 one process with both GPUs at 50 %"
}

two_jobs() {
    base
    session a 500000
    session b 500000
    job a
    job b
    wait
    echo "$(percent a.json0 base.json0) 47 11 two jobs at 50 %: the first"
    echo "$(percent b.json0 base.json0) 47 11 two jobs at 50 %: the second"
}

# A rank dies, and half a second later whoever started the job ends the other one, which until then
# spins in its collective.
widowed() {
    local victim widow
    base
    session a 500000
    session b 500000
    job a --seconds 30
    victim=$second widow=$first
    job b --seconds 4
    sleep 1
    kill -9 $victim
    sleep 0.5
    kill -9 $widow
    wait $first $second
    echo "$(percent b.json0 base.json0) 47 11 the job beside one that has died"
    wait 2>/dev/null
}

for measure in one_job one_process two_jobs widowed; do cell $measure; done

fresh
session a 500000
rank a --rank 0 --seconds 2 &
VGPU_REGION="$out/a" LD_PRELOAD="$($cc -print-file-name=libtsan.so) $built/shim-tsan.so" \
    TSAN_OPTIONS="exitcode=66 report_signal_unsafe=0" timeout 60 "$out/rank" --meet "$out/a.meet" --us 2000 --rank 1 \
    >"$out/log" 2>&1
status=$?
wait
if [ $status = 0 ]; then echo "ok no data race in a gang"
else echo "not ok no data race in a gang (exit $status)"; head -40 "$out/log"; fi
