#!/bin/sh
# Our tensors against llama-quantize's, byte for byte: same types (through our own export recipe), same importance,
# all common types, from a GGUF imatrix, a legacy .dat, and one of our statistics files.
#
#   quantize_bytes.sh PROGRAM      (the helper built from quantize_bytes.c)
set -eu
. "$(dirname -- "$0")/models.sh"
helper=$1

quantize=$(tool llama-quantize) || skip "llama-quantize not found (set OPTIMUM_LLAMA_BIN)"
imatrix=$(tool llama-imatrix) || skip "llama-imatrix not found (set OPTIMUM_LLAMA_BIN)"
[ -r "$shared/text/calib.txt" ] || skip "no text (set OPTIMUM_SHARED)"

# check NAME MODEL IMATRIX PLAN
check() {
    "$helper" prepare "$2" "$work" "$4"
    "$helper" quantize "$2" "$work" "$3" "$work/ours.gguf" 2 >"$work/ours.log"
    # The base type only labels the file; see src/artifact/export.c.
    "$quantize" --imatrix "$3" --tensor-type-file "$work/recipe.txt" "$2" "$work/theirs.gguf" Q4_K_M 2 \
        >"$work/theirs.log" 2>&1 || {
        tail -5 "$work/theirs.log"
        exit 1
    }
    printf '%-28s ' "$1, $4:"
    "$helper" compare "$work/ours.gguf" "$work/theirs.gguf"
}

# imatrix_of MODEL OUT [OPTIONS]
imatrix_of() {
    m=$1 o=$2
    shift 2
    "$imatrix" -m "$m" -f "$work/text" -o "$o" --chunks 2 -t 2 --no-ppl "$@" >"$work/im.log" 2>&1
}

head -c 20000 "$shared/text/calib.txt" >"$work/text"
dense=$(model ref-dense) || skip "no ref-dense (set OPTIMUM_TEST_MODELS, or OPTIMUM_SHARED with Python's gguf)"
moe=$(model ref-moe) || skip "no ref-moe (set OPTIMUM_TEST_MODELS, or OPTIMUM_SHARED with Python's gguf)"

imatrix_of "$dense" "$work/dense.gguf"
check "ref-dense, GGUF imatrix" "$dense" "$work/dense.gguf" mixed:0
imatrix_of "$dense" "$work/dense.dat" --output-format dat
check "ref-dense, legacy .dat" "$dense" "$work/dense.dat" q4_K

imatrix_of "$moe" "$work/moe.gguf"
"$helper" stats "$work/moe.gguf" "$work/stats.gguf" "$moe"
check "ref-moe, our statistics" "$moe" "$work/stats.gguf" mixed:3
