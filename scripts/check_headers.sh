#!/bin/sh
# Each header of ours compiles alone, as C11 and as C++17: it includes what it uses, and C++ programs can include it.
. "$(dirname -- "$0")/common.sh"
cd "$root"
[ -e "$deps/llama" ] || die "no llama.cpp in $deps: run make deps"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0 n=0
flags="-fsyntax-only -Wall -Wextra -D_POSIX_C_SOURCE=200809L -Iinclude -Isrc"
for header in include/optimum.h src/*/*.h tests/support/*.h; do
    [ -e "$header" ] || continue
    n=$((n + 1))
    printf '#include "%s"\n' "$root/$header" >"$scratch/alone.c"
    # shellcheck disable=SC2086  # a list of flags
    "${CC:-cc}" -std=c11 $flags -Itests/support -isystem "$deps/llama/include" "$scratch/alone.c" || {
        say "$header does not compile alone as C11"
        failed=1
    }
    # shellcheck disable=SC2086
    "${CXX:-c++}" -std=c++17 $flags -Itests/support -isystem "$deps/llama/include" -x c++ "$scratch/alone.c" || {
        say "$header does not compile alone as C++"
        failed=1
    }
done
[ "$failed" = 0 ] && echo "check_headers: $n headers, no problem"
exit "$failed"
