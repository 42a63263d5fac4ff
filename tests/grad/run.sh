#!/bin/sh
# Gradients of whole models against PyTorch (reference.py): tiny random models of every architecture in the
# reference, then trained ones.
#
#   tests/grad/run.sh FOLDER [MODEL.gguf]...
#
# FOLDER holds dump_gradients and write_tiny (BUILD/tests/grad). Each MODEL is compared as it is and as an F32 copy.
# Without MODEL: ref-dense.gguf and ref-moe.gguf of the folder OPTIMUM_TEST_MODELS, as far as there.
#   OPTIMUM_PYTHON, PYTHON   a Python with torch, numpy and gguf (default python3); none: skipped
#   TOKENS                   windows to compare (default 128), TEXT: the text they are taken from
#   TOL16, TOL16_EXPERT      bars for 16-bit models and for single experts of them (default 5e-2)
#
# Bars: 1e-4 in F32; 2e-3 where GELU is read from ggml's F16 table (gemma). With 16-bit weights llama.cpp rounds the
# inputs of products, which moves the point at which the gradient is taken, and each layer amplifies it: 0.5 % to 3 %.
# That nothing else is behind it shows in models of one layer, where the reference can follow the rounding: 6e-3 where
# the pass itself forms gradients from BF16 factors (processors that multiply BF16), ten times less elsewhere.
#
# Mixtures of experts: every expert counts by itself, those that no token chose must have exactly zero. In F32 no choice
# may fall otherwise than PyTorch's; with 16-bit weights the reference follows the choices of the pass, of which rounding
# moves one in a thousand. An expert with few tokens feels the rounding of each: 2 % where whole stacks have 0.6 %.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
programs=$1
shift
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
text=${TEXT:-$here/../../data/demo.txt}
"$python" -c 'import torch, gguf, numpy' 2>/dev/null || {
    echo "skipped: $python has no torch, gguf and numpy (set OPTIMUM_PYTHON)"
    exit 77
}
[ -r "$text" ] || { echo "skipped: no text $text (set TEXT)"; exit 77; }
work=$(mktemp -d "${TMPDIR:-/tmp}/optimum-grad.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
failed=0

# compare LABEL MODEL N_TOKENS TOL [reference.py's options]…
compare() {
    label=$1 file=$2 n=$3 bar=$4
    shift 4
    if "$programs/dump_gradients" "$file" "$work/t" "$work/l" "$work/g" "$text" "$n" >"$work/loss" &&
        "$python" "$here/reference.py" "$file" "$work/t" "$work/l" "$work/g" --tol "$bar" "$@" >"$work/table"; then
        printf '%-34s %5d tokens  %s\n' "$label" "$n" "$(tail -n 1 "$work/table")"
    else
        failed=1
        printf '%-34s %5d tokens  FAILED\n' "$label" "$n"
        cat "$work/table" 2>/dev/null || true
    fi
    rm -f "$work/table"
}

for arch in llama qwen2 qwen3 gemma2 gemma3 phi3; do
    tol=1e-4
    case $arch in gemma*) tol=2e-3 ;; esac
    for tied in '' tied; do
        # Seven layers: one period of gemma3's sliding windows and one layer more; 160 tokens exceed the window of 64.
        # shellcheck disable=SC2086
        "$programs/write_tiny" $arch f32 "$work/tiny.gguf" 7 $tied
        compare "tiny $arch $tied f32" "$work/tiny.gguf" 160 $tol
    done
    "$programs/write_tiny" $arch bf16 "$work/tiny.gguf" 1
    compare "tiny $arch bf16, rounded alike" "$work/tiny.gguf" 160 6e-3 --round
done
for arch in qwen3moe mixtral qwen2moe olmoe gpt-oss dots1 dots1-groups; do
    "$programs/write_tiny" $arch f32 "$work/tiny.gguf" 3
    compare "tiny $arch f32" "$work/tiny.gguf" 160 1e-4
    compare "tiny $arch f32" "$work/tiny.gguf" 5 1e-4 # most experts see one token or none
    "$programs/write_tiny" $arch bf16 "$work/tiny.gguf" 2
    compare "tiny $arch bf16, rounded alike" "$work/tiny.gguf" 160 8e-3 --round --follow
done

if [ $# -eq 0 ]; then
    for model in ref-dense ref-moe; do
        model=${OPTIMUM_TEST_MODELS:-/nonexistent}/$model.gguf
        [ ! -r "$model" ] || set -- "$@" "$model"
    done
fi
for model in "$@"; do
    "$python" "$here/to_f32.py" "$model" "$work/f32.gguf"
    for tokens in ${TOKENS:-128}; do
        compare "$(basename "$model") f32" "$work/f32.gguf" "$tokens" 1e-4
        compare "$(basename "$model") as it is" "$model" "$tokens" "${TOL16:-5e-2}" --follow \
            --expert-tol "${TOL16_EXPERT:-5e-2}"
    done
done
[ $failed -eq 0 ] || { echo "grad: some gradients differ from PyTorch's"; exit 1; }
