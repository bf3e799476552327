# For scripts that measure in real time on a machine that others use too: source it.

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
