# What the scripts have in common that measure shares on the simulated GPU in real time, on a machine that
# others use too. Source it with the names of tests/fixtures that the script needs: they lie in $out, which
# goes with the script, and $built is what build.sh makes.

out=$(mktemp -d)
trap 'kill -9 $(jobs -p) 2>/dev/null; rm -rf "$out"' EXIT
cc=${CC:-cc}
built=${BUILT:-$out}
[ -n "${BUILT:-}" ] || sh tests/shim/build.sh "$out" || exit 1
for name in "$@"; do
    $cc -std=gnu11 -O2 "tests/fixtures/$name.c" -o "$out/$name" -pthread -ldl || exit 1
done
$cc -std=gnu11 -O2 tests/shim/make_region.c -o "$out/make_region" || exit 1
mkdir -m 700 "$out/state" "$out/native"
export VGPU_SIM_DIR="$out/state" LD_LIBRARY_PATH="$built/sim"

# session NAME SHARE_PPM: a region of its own, on the common board
session() { "$out/make_region" "$out/$1" none "$2" 543162368 "$out/state"; }
# rate NAME: what the program whose output is $out/NAME said
rate() { sed 's/.*"rate": \([0-9.]*\).*/\1/' "$out/$1"; }
# percent NAME BASE: of BASE's rate; 0 if one of them came to nothing
percent() { awk -v a="$(rate "$1")" -v b="$(rate "$2")" 'BEGIN { print (b > 0 ? 100 * a / b : 0) }'; }

# cell MEASURE [ARGUMENT …]: MEASURE prints a line "GOT WANTED TOLERANCE NAME" a check, in points. A busy
# machine spoils one measurement, seldom two: a cell fails when three have failed, as they do where the
# share is not kept.
cell() {
    local attempt verdict
    for attempt in 1 2 3; do
        verdict=$("$@" | awk -v attempt=$attempt '{
            good = $1 >= $2 - $3 && $1 <= $2 + $3
            printf "%s", good ? "ok" : "not ok"
            for (i = 4; i <= NF; i++) printf " %s", $i
            printf ": %.1f of %.1f ± %.1f%s\n", $1, $2, $3, (attempt > 1 ? ", attempt " attempt : "") }
            END { if (!NR) print "not ok: nothing was measured" }')
        case $verdict in *"not ok"*) ;; *) break ;; esac
    done
    echo "$verdict"
}
