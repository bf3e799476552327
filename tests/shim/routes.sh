#!/bin/bash
# Every way from a program to the driver, one check each: the shim with stub hooks (route_stub_hooks.c)
# between small programs and a fake driver (fake_driver.c). Needs a C compiler, no GPU.
#   tests/shim/routes.sh                 SANITIZE=thread|address|undefined builds the shim instrumented;
#   COST=1 prints also what the first call and a process without CUDA pay;
#   CC, ARCH, QEMU for another architecture (aarch64.sh), FLAGS and LIBC for another C library
set -u
cd "$(dirname "$0")/../.." || exit 2
CC=${CC:-cc} ARCH=${ARCH:-$(uname -m)} QEMU=${QEMU:-} SANITIZE=${SANITIZE:-} LIBC=${LIBC:-libc.so.6}
out=$(mktemp -d "${TMPDIR:-/tmp}/vgpu-routes.XXXXXX") || exit 2
trap 'rm -rf "$out"' EXIT
failed=0 PRELOAD='' LIBS=''

say() { # NAME [WHY]
  if [ $# -eq 1 ]; then echo "ok $1"; else echo "not ok $1: $2"; failed=1; fi
}
check() { # NAME COMMAND...: exit status 0 and no output but comments
  local name=$1 text status
  shift
  text=$("$@" 2>&1)
  status=$?
  grep '^#' <<<"$text"
  text=$(grep -v '^#' <<<"$text" | tr '\n' ' ' | cut -c1-400)
  if [ $status -eq 0 ] && [ -z "${text// /}" ]; then say "$name"; else say "$name" "status $status $text"; fi
}
with() { # run a program of the architecture under PRELOAD and LIBS
  if [ -n "$QEMU" ]; then
    timeout 60 $QEMU -E LD_PRELOAD="$PRELOAD" -E LD_LIBRARY_PATH="$LIBS" "$@"
  else
    timeout 60 env LD_PRELOAD="$PRELOAD" LD_LIBRARY_PATH="$LIBS" "$@"
  fi
}
client() { with "$out/client" "$@"; }

# --- Build ---------------------------------------------------------------------------------------
# No tail calls: dlopen and dlsym look at who called them, with or without the shim.
flags='-std=gnu11 -O2 -fno-optimize-sibling-calls -Wall -Wextra -Werror -pthread '${FLAGS:-}
library() { "$CC" $flags -fPIC -shared -o "$@"; }
mkdir -p "$out"/{driver,copy,old,versioned,wrapper,plain/deps}
shim_flags="-std=gnu11 -O2 -fPIC -fvisibility=hidden -Wall -Wextra -Wconversion -Werror -pthread ${FLAGS:-}"
[ -n "$SANITIZE" ] && shim_flags="$shim_flags -g -fsanitize=$SANITIZE"
set -e
"$CC" $shim_flags -shared -Wl,-z,now -Wl,--version-script=shim/exports.map -o "$out/shim.so" \
  shim/{elf,driver,interpose,hook_names,hook_resolve}.c "shim/trampoline_$ARCH.S" tests/shim/route_stub_hooks.c
fake() { library "$1" -fvisibility=hidden -Wl,-Bsymbolic "${@:2}" tests/shim/fake_driver.c; }
fake "$out/driver/libcuda.so.1" -Wl,-soname,libcuda.so.1
fake "$out/driver/libnvidia-ml.so.1" -Wl,-soname,libnvidia-ml.so.1 -DFAKE_NVML
fake "$out/copy/libcuda.so.1" -Wl,-soname,libcuda.so.1 -DFAKE_BIAS=500
fake "$out/old/libcuda.so.1" -Wl,-soname,libcuda.so.1 -DFAKE_OLD
echo 'libcuda.so.1 { global: *; };' >"$out/versioned.map"
fake "$out/versioned/libcuda.so.1" -Wl,-soname,libcuda.so.1 "-Wl,--version-script=$out/versioned.map"
ln -s "$out/driver/libnvidia-ml.so.1" "$out/versioned"
ln -s libcuda.so.1 "$out/driver/libcuda.so"
ln -s libcuda.so.1 "$out/copy/libcuda.so.580.1"
library "$out/wrapper/libcuda.so.1" -Wl,-soname,libcuda.so.1 tests/shim/route_wrapper.c
library "$out/preload.so" tests/shim/route_preload.c
library "$out/preload_handle.so" -DBY_HANDLE tests/shim/route_preload.c
p=tests/shim/route_plugin.c
library "$out/plain/libplugin.so" -DPLUGIN $p "$out/driver/libcuda.so.1"
library "$out/plain/libconstructor.so" -DCONSTRUCTOR $p "$out/driver/libcuda.so.1"
library "$out/plain/libforeign.so" -DFOREIGN $p
library "$out/plain/deps/libneighbour.so" -DNEIGHBOUR $p
library "$out/plain/deps/libsecond.so" -DSECOND $p -Wl,-soname,libsecond.so
library "$out/plain/liblocal.so" -DLOCAL $p -Wl,--enable-new-dtags,-rpath,'$ORIGIN/deps' \
  -Wl,--no-as-needed "$out/plain/deps/libsecond.so"
c=tests/shim/route_client.c
"$CC" $flags -o "$out/client" $c -ldl
direct() { "$CC" $flags -DDIRECT -o "$@" $c -Wl,--no-as-needed "$out"/${from:-driver}/lib{cuda,nvidia-ml}.so.1 -ldl; }
direct "$out/direct_lazy" -Wl,-z,lazy
direct "$out/direct_now" -Wl,-z,now
direct "$out/direct_noplt" -fno-plt
direct "$out/direct_nopie" -no-pie -fno-pie
from=versioned direct "$out/direct_versioned"
set +e

shim=$out/shim.so
runtime=
# Behind the shim: the runtimes have a dlopen of their own, which hides who called.
case $SANITIZE in thread) runtime=libtsan.so ;; address) runtime=libasan.so ;; undefined) runtime=libubsan.so ;; esac
[ -n "$runtime" ] && runtime=" $("$CC" -print-file-name=$runtime)"
export ASAN_OPTIONS=detect_leaks=0,verify_asan_link_order=0 TSAN_OPTIONS=exitcode=66

# --- The library itself ----------------------------------------------------------------------------
wanted=$({ echo '#define HOOK(symbol, ...) @symbol'; echo '#define NVML_HOOK(symbol, ...) @symbol'
  echo '#include "shim/hooks.def"'; } | cc -E -P -I. - | tr -d '@ ' | grep . ; printf '%s\n' dlsym dlvsym dlopen dlmopen)
exported=$(nm -D --defined-only "$shim" | awk '{print $3}' | grep -v '^__[atu]*b*san\|^__odr_asan')
difference=$(diff <(sort <<<"$wanted") <(sort <<<"$exported") | tr '\n' ' ')
[ -z "$difference" ] && say exports_are_the_table || say exports_are_the_table "$difference"
needed=$(LC_ALL=C readelf -dW "$shim" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -vE '^(libc\.so\.6|ld-linux.*|libpthread\.so\.0|lib(a|t|ub)san.*|libgcc_s.*|libm\.so.*)$')
[ -z "$needed" ] && say needs_only_libc || say needs_only_libc "$needed"
matrix=shim/facts/cuda-export-matrix.tsv
if [ -f $matrix ]; then
  unlisted=$(cut -f1 $matrix | grep -E "^($(sed -n '/prefixes\[\] = {/,/};/p' shim/hook_resolve.c | grep -oE '"cu[A-Za-z0-9]+"' | tr -d '"' | paste -sd'|'))" |
    grep -vxF -f <(grep -oE '(HOOK|EXCUSED)\(\w+' shim/hooks.def shim/excused.def | sed 's/.*(//'))
  [ -z "$unlisted" ] && say allocations_are_classed || say allocations_are_classed "$(tr '\n' ' ' <<<"$unlisted")"
fi
both=$(comm -12 <(grep -oE '^HOOK\(\w+' shim/hooks.def | sed 's/.*(//' | sort) <(grep -oE '^EXCUSED\(\w+' shim/excused.def | sed 's/.*(//' | sort))
[ -z "$both" ] && say excused_are_not_hooked || say excused_are_not_hooked "$(tr '\n' ' ' <<<"$both")"

# --- With the driver -------------------------------------------------------------------------------
PRELOAD=$shim$runtime LIBS=$out/driver
for form in lazy now noplt nopie; do check direct_link_$form with "$out/direct_$form" direct; done
check dlopen_soname client dlsym libcuda.so.1
check dlopen_without_version client dlsym libcuda.so
check dlopen_absolute_path client dlsym "$out/driver/libcuda.so.1"
LIBS='' check dlopen_absolute_path_only client dlsym "$out/driver/libcuda.so"
check dlsym_every_hook client all libcuda.so.1
check nvml_dlsym client nvml libnvidia-ml.so.1
LIBS=$out/versioned check dlvsym client dlvsym libcuda.so.1
LIBS=$out/versioned check direct_link_versioned_driver with "$out/direct_versioned" direct
check dlsym_from_libc client libc "$LIBC"
check deepbind_plugin client deepbind "$out/plain/libplugin.so"
check deepbind_plugin_dlmopen client deepbind_dlmopen "$out/plain/libplugin.so"
check dlmopen_driver client dlmopen libcuda.so.1
check dlmopen_driver_by_path client dlmopen "$out/driver/libcuda.so.1"
[ -z "$SANITIZE" ] && check dlmopen_of_others client dlmopen_other "$out/plain/deps/libneighbour.so"
check second_copy_is_the_first client second_copy "$out/copy/libcuda.so.1"
check second_copy_by_full_version client second_copy "$out/copy/libcuda.so.580.1"
check dlclose_keeps_the_driver client kept libcuda.so.1
check get_proc_address_v1 client address_v1 libcuda.so.1
check get_proc_address_v2 client address_v2 libcuda.so.1
VGPU_REGION=1 check unknown_allocation_is_reported client unknown libcuda.so.1
check child_after_fork client fork libcuda.so.1
if [ -z "$QEMU${FLAGS:-}" ]; then # host programs take part
  check child_after_vfork_exec client vfork libcuda.so.1
  check child_through_shell client shell libcuda.so.1
  check child_of_env env client=1 bash -c "LD_PRELOAD='$PRELOAD' LD_LIBRARY_PATH=$LIBS env $out/client dlsym libcuda.so.1"
fi
check constructor_waits_for_a_thread with "$out/direct_now" constructor "$out/plain/libconstructor.so"
for i in 1 2 3 4 5 6 7 8 9 10; do threads=$(client threads libcuda.so.1 2>&1) || break; done
[ -z "$threads" ] && say threads || say threads "$threads"

# --- What must not change --------------------------------------------------------------------------
check foreign_names_stay_foreign client foreign "$out/plain/libforeign.so"
check next_runpath_and_scope_of_caller client next "$out/plain"
check rtld_next_on_threads client next_on_threads
[ -z "$SANITIZE" ] && (umask 027; check nothing_noticed client nothing_noticed 3<&- 4<&- 5<&-)
LIBS=$out/old
check old_driver_lacks_names client old_driver libcuda.so.1
LIBS=''
if [[ $(client real_driver libcuda.so.1 2>&1) == *skipped* ]]; then # a machine without a driver
  check no_driver_lookups client no_driver
  check no_driver_calls client no_driver_call
fi
check foreign_library_without_driver client foreign_first "$out/plain/libforeign.so"

# --- Other preloads ----------------------------------------------------------------------------------
LIBS=$out/driver alloc=$({ echo '#include "shim/interpose.h"'; echo 'int n = VGPU_HOOK_cuMemAlloc_v2;'; cat <<'C'
int printf(const char *, ...); int main(void) { printf("%d", 10000 + VGPU_HOOK_cuMemAlloc_v2); }
C
} | cc -I. -x c - -o "$out/number" && "$out/number")
for other in preload preload_handle; do
  PRELOAD="$shim$runtime $out/$other.so" check ${other}_behind_direct with "$out/direct_now" direct_value $((1100000 + alloc))
  PRELOAD="$shim$runtime $out/$other.so" check ${other}_behind_dlsym client value $((100000 + alloc)) # as without the shim
  PRELOAD="$out/$other.so $shim$runtime" check ${other}_before_direct with "$out/direct_now" direct_value $((1100000 + alloc))
  PRELOAD="$out/$other.so $shim$runtime" check ${other}_before_dlsym client value $((100000 + alloc))
done
PRELOAD="$shim$runtime $out/preload.so" check preload_behind_interposes_open with "$out/direct_lazy" open_count
PRELOAD="$out/preload.so $shim$runtime" check preload_before_interposes_open with "$out/direct_lazy" open_count
LIBS=$out/wrapper FAKE_REAL=$out/driver/libcuda.so.1 check wrapper_of_the_driver client value $((105000 + alloc))

# --- The machine's own driver, if it has one ----------------------------------------------------------
PRELOAD=$shim$runtime LIBS=
[ -z "$QEMU${FLAGS:-}" ] && check real_driver client real_driver libcuda.so.1
LIBS=$out/driver

# --- Cost ----------------------------------------------------------------------------------------------
if [ -n "${COST:-}" ]; then
  client cost libcuda.so.1
  PRELOAD='' client spawn_cost "$shim"
fi
exit $failed
