#!/bin/sh
# Every entry point that takes memory or launches work is hooked or has its excuse; hooks.def agrees
# with the drivers' own tables.
#     tests/shim/coverage.sh                      the tables in shim/facts
#     tests/shim/coverage.sh --driver FILE        also the names that a real libcuda.so.1 (or libnvidia-ml.so.1) exports
set -eu
cd "$(dirname "$0")"
shim=../../shim
file=
case ${1:-} in
--driver) file=${2:?"--driver takes the path of libcuda.so.1 or libnvidia-ml.so.1"} ;;
'') ;;
*) echo "usage: coverage.sh [--driver FILE]" >&2; exit 2 ;;
esac
names=$(mktemp)
trap 'rm -f "$names"' EXIT
# By dynamic symbol table; "name@@VERSION" is the name.
[ -z "$file" ] || nm -D --defined-only "$file" | awk '$2 ~ /^[TWi]$/ {sub(/@.*/, "", $3); print $3}' |
    grep -E '^(cu[A-Z]|nvml)' | grep -v '^cudbg' >"$names" || true
awk -F'\t' -v driver="${file:+1}" -f coverage.awk $shim/hooks.def $shim/excused.def \
    $shim/facts/cuda-export-matrix.tsv $shim/facts/cuda-entry-points.tsv \
    $shim/facts/nvml-entry-points.tsv "$names"

# streams.def has every call of cuda_calls.h with one stream among its arguments, and says which it is. Left out:
# what ends a stream, OpenGL, and the 32-bit forms that no context of today takes.
streams() {
    tr '\n' ' ' <$shim/cuda_calls.h | sed 's:/\*[^*]*\*/::g' | tr ';' '\n' | grep -E '[(, ]CUstream[,)]' |
        sed -nE 's/.*CUresult (cu[A-Za-z0-9_]+)\((.*)\).*/\1,\2/p' |
        awk -F, '{at = 0; many = 0; for (i = 2; i <= NF; i++) if ($i ~ /^ *CUstream$/) {at = i - 1; many++}
                  if (many == 1) print $1 ", " NF - 1 ", " at ", " ($1 ~ /_ptsz$/ ? "true" : "false")}' |
        grep -vE '^cu(StreamDestroy|GL|Memcpy(2D|3D|AtoH|HtoA|DtoD|DtoH|HtoD)Async,)' | sort
}
listed=$(sed -nE 's/^STREAM(_ALONE)?\((.*), (WORK|WAIT|ASK)\)$/\2/p' $shim/streams.def | sort)
[ "$(streams)" = "$listed" ] || { echo "not ok streams.def is not what cuda_calls.h says"; exit 1; }
echo "ok streams: $(echo "$listed" | wc -l) calls"

# syncs.def has every copy and fill that is hooked for the per-thread stream without naming one.
ptds=$(sed -nE 's/^HOOK\((.*)_ptds,.*/\1/p' $shim/hooks.def | sort)
[ "$ptds" = "$(sed -nE 's/^SYNC[A-Z_]*\(([^,]*),.*/\1/p' $shim/syncs.def | sort)" ] || { echo "not ok syncs.def is not what hooks.def says"; exit 1; }
echo "ok syncs: $(echo "$ptds" | wc -l) calls"
