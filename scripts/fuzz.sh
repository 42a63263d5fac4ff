#!/bin/sh
# Runs every fuzz target of a libFuzzer build for some seconds each. Inputs that crash are kept in the corpus of the
# target, where the ordinary tests replay them from then on.
#
#   scripts/fuzz.sh BUILD SECONDS [NAME]
. "$(dirname -- "$0")/common.sh"

build=${1:?usage: scripts/fuzz.sh BUILD SECONDS [NAME]} seconds=${2:-60} only=${3:-}
targets=$(find "$build" -type f -name "fuzz_${only:-*}" -perm -u+x | sort)
[ -n "$targets" ] || die "no fuzz target named fuzz_${only:-*} in $build"
found=0
for target in $targets; do
    name=$(basename "$target")
    corpus=$root/tests/fuzz/corpus/${name#fuzz_}
    scratch=$build/corpus/$name
    mkdir -p "$corpus" "$scratch"
    say "$name: $seconds s"
    # New inputs go to the scratch folder; a crash goes beside the seeds.
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$corpus/" "$scratch" "$corpus" >"$scratch.log" 2>&1 || {
        found=1
        grep -E 'ERROR|SUMMARY|Test unit written' "$scratch.log" >&2 || tail -n 5 "$scratch.log" >&2
    }
    grep -E 'number_of_executed_units|new_units_added' "$scratch.log" || true
done
[ "$found" = 0 ] || die "crashes found; they are in tests/fuzz/corpus now"
