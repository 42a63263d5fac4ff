#!/bin/sh
# The whole pipeline for both containers from a Hugging Face folder, on the small trained reference model: what is said
# to be there is there, the MLX folder loses less than the recipe it is compared with, and nothing is done twice.
#
#   run_mlx.sh OPTIMUM
set -eu
optimum=$1
# shellcheck source-path=SCRIPTDIR
. "$(dirname -- "$0")/models.sh"
folder=$shared/models/ref-dense
[ -r "$folder/model.safetensors" ] || skip "no $folder"
out=$work/out

run() {
    "$optimum" run "$folder" --to both --bpw 4.7 --windows 3 --window-tokens 256 --eval-chunks 2 \
        --calib "$shared/text/calib.txt" --eval-text "$shared/text/valid.txt" -o "$out" --json --threads 2
}

fail() {
    echo "FAIL: $*" >&2
    exit 1
}

run >"$work/one.json" 2>"$work/one.log" || {
    tail -5 "$work/one.log" >&2
    exit 1
}
mlx=$(echo "$out"/ref-dense-opt-*-mlx)
for file in "$out/ref-dense.gguf" "$out/profile.json" "$out/allocation.json" "$out/allocation.mlx.json" \
    "$out/eval.json" "$out/eval.mlx.json" "$out/report.html" "$out/report.mlx.html" "$mlx/config.json" \
    "$mlx/model.safetensors" "$mlx/tokenizer.json"; do
    [ -s "$file" ] || fail "$file is not there"
done
[ "$(ls -d "$out"/baseline-*[!n] 2>/dev/null)" = "" ] || fail "a baseline was left"
grep -q '"verdict": "better"' "$work/one.json" || fail "no verdict"
grep -q '"name": "uniform_4"' "$work/one.json" || fail "not compared with mlx_lm.convert's uniform 4-bit"
grep -q '"verdict": "worse"' "$work/one.json" && fail "a baseline is better"

# Again: every stage but the report is kept, and the result is the same.
run >"$work/two.json" 2>"$work/two.log"
cmp -s "$work/one.json" "$work/two.json" || fail "the second run says something else"
for stage in reference profile allocate sweep quantize eval; do
    [ "$(grep -c "optimum: $stage: kept" "$work/two.log")" = 2 ] || fail "$stage was not kept for both"
done
# A budget that nothing fits is refused before the pass over the text.
code=0
"$optimum" run "$folder" --to mlx --bpw 2 --calib "$shared/text/calib.txt" --eval-text "$shared/text/valid.txt" \
    -o "$work/small" 2>"$work/small.log" || code=$?
[ "$code" = 3 ] || fail "exit code $code for an impossible budget"
grep -q 'the smallest has' "$work/small.log" || fail "the smallest size was not said"
[ ! -e "$work/small/profile.json" ] || fail "profiled before the budget was looked at"

echo "both containers, and kept: $(basename "$mlx")"
