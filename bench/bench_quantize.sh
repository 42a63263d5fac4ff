#!/bin/sh
# optimum quantize against llama-quantize: same model, types, importance and threads; one table.
#
#   bench/bench_quantize.sh PROGRAM [MODEL.gguf] [IMATRIX]       PROGRAM: BUILD/tests/oracle/oracle_quantize_bytes
#
# RUNS (3): repetitions, taken in turn, the fastest counts. THREADS (all processors). PLANS: types, or mixed:N.
# Our time includes what llama-quantize does not do: the SHA-256 of source and result, the predicted nats (when the
# file has Fisher marginals), and the check of the written file. Exit 1 when a ratio is above 1 + NOISE (0.05).
set -eu
OPTIMUM_SHARED=${OPTIMUM_SHARED:-$(dirname -- "$0")/../../shared} # models.sh would look beside the tests
. "$(dirname -- "$0")/../tests/oracle/models.sh"
helper=${1:?usage: bench_quantize.sh PROGRAM [MODEL.gguf] [IMATRIX]}
quantize=$(tool llama-quantize) || skip "llama-quantize not found (set OPTIMUM_LLAMA_BIN)"
input=${2:-$(model ref-dense)} || skip "no model (set OPTIMUM_TEST_MODELS)"
threads=${THREADS:-$(getconf _NPROCESSORS_ONLN)}

importance=${3-}
if [ -z "$importance" ]; then
    imatrix=$(tool llama-imatrix) || skip "llama-imatrix not found (set OPTIMUM_LLAMA_BIN)"
    head -c 20000 "$shared/text/calib.txt" >"$work/text"
    "$imatrix" -m "$input" -f "$work/text" -o "$work/im.gguf" --chunks 2 -t "$threads" --no-ppl >"$work/log" 2>&1
    "$helper" stats "$work/im.gguf" "$work/stats.gguf" "$input"
    importance=$work/stats.gguf
fi

# GNU time prints the peak with -v, BSD's with -l; without either the column stays empty.
measure() {
    if /usr/bin/time -v true 2>/dev/null; then
        /usr/bin/time -v "$@" >"$work/log" 2>"$work/time"
        awk '/Elapsed/ { n = split($NF, t, ":"); s = t[n] + 60 * t[n-1] + (n > 2 ? 3600 * t[1] : 0) }
             /User time/ { u = $NF } /System time/ { y = $NF } /Maximum resident/ { m = $NF / 1024 }
             END { printf "%.2f %.2f %.0f\n", s, u + y, m }' "$work/time"
    elif /usr/bin/time -l true 2>/dev/null; then
        /usr/bin/time -lp "$@" >"$work/log" 2>"$work/time"
        awk '/^real/ { s = $2 } /^user/ { u = $2 } /^sys/ { y = $2 } /maximum resident/ { m = $1 / 1048576 }
             END { printf "%.2f %.2f %.0f\n", s, u + y, m }' "$work/time"
    else
        { time -p "$@" >"$work/log" 2>/dev/null; } 2>"$work/time"
        awk '/^real/ { s = $2 } /^user/ { u = $2 } /^sys/ { y = $2 } END { printf "%.2f %.2f -\n", s, u + y }' "$work/time"
    fi
}

# Of lines "wall cpu MiB": the least wall and cpu, the largest memory.
best() {
    awk 'NR == 1 || $1 < w { w = $1 } NR == 1 || $2 < c { c = $2 } NR == 1 || $3 > m { m = $3 }
         END { print w, c, m }' "$1"
}

echo "model $(basename "$input"), $threads threads, best of ${RUNS:-3}"
printf '%-10s %10s %10s %7s %10s %10s %7s %9s %9s\n' types "ours s" "llama s" ratio "ours cpu" "llama cpu" ratio \
    "ours MiB" "llama MiB"
failed=0
for plan in ${PLANS:-q8_0 q4_K q6_K iq4_xs iq3_s mixed:0}; do
    "$helper" prepare "$input" "$work" "$plan"
    : >"$work/ours"
    : >"$work/theirs"
    i=0
    while [ $i -lt "${RUNS:-3}" ]; do
        measure "$helper" quantize "$input" "$work" "$importance" "$work/ours.gguf" "$threads" >>"$work/ours"
        measure "$quantize" --imatrix "$importance" --tensor-type-file "$work/recipe.txt" "$input" "$work/theirs.gguf" \
            Q4_K_M "$threads" >>"$work/theirs"
        i=$((i + 1))
    done
    "$helper" compare "$work/ours.gguf" "$work/theirs.gguf" >/dev/null || echo "$plan: the files differ"
    echo "$plan $(best "$work/ours") $(best "$work/theirs")" | awk -v noise="${NOISE:-0.05}" '{
        printf "%-10s %10.2f %10.2f %7.2f %10.2f %10.2f %7.2f %9s %9s\n", $1, $2, $5, $2/$5, $3, $6, $3/$6, $4, $7
        exit $2 > (1 + noise) * $5 }' || failed=1
done
exit $failed
