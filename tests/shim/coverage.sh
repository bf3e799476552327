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
