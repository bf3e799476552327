# Writes names.def from the export matrix: every cu* name of driver 580 (CUDA 13.0) and when cuGetProcAddress gives it.
# awk -F'\t' -f names.awk ../facts/cuda-export-matrix.tsv > names.def
BEGIN {
    print "/* Written by names.awk from facts/cuda-export-matrix.tsv (column drv580_cuda13.0); do not edit."
    print " * X(symbol, base, plain, per_thread): the first CUDA version whose cuGetProcAddress(base) gives the symbol,"
    print " * without and with the per-thread flag; 0 = never. */"
}
NR == 1 { for (i = 1; i <= NF; i++) if ($i ~ /^drv580/) column = i; next }
$column == 1 { printf "X(%s, %s, %d, %d)\n", $1, $2, $3 == "-" ? 0 : $3, $4 == "-" ? 0 : $4 }
