# shellcheck shell=sh
# Sourced by the oracle tests and benchmarks: finds llama.cpp's tools, the reference models and texts, or skips
# (exit 77) saying what is missing.
#
#   OPTIMUM_LLAMA_BIN     folder of llama-quantize, llama-imatrix, llama-perplexity
#   OPTIMUM_TEST_MODELS   folder with ref-dense.gguf, ref-moe.gguf; without it they are made from OPTIMUM_SHARED
#   OPTIMUM_SHARED        folder with models/ and text/ (default: "shared" beside the repository)

source_dir=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
shared=${OPTIMUM_SHARED:-$source_dir/../shared}
work=$(mktemp -d "${TMPDIR:-/tmp}/optimum-oracle.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

skip() {
    echo "skipped: $*" >&2
    exit 77
}

# tool NAME: prints the program's path.
tool() {
    if [ -n "${OPTIMUM_LLAMA_BIN-}" ]; then
        [ -x "$OPTIMUM_LLAMA_BIN/$1" ] && echo "$OPTIMUM_LLAMA_BIN/$1"
    else
        command -v "$1"
    fi
}

# model NAME: prints the path of NAME.gguf, made from the Hugging Face folder when there is none.
model() {
    if [ -n "${OPTIMUM_TEST_MODELS-}" ] && [ -r "$OPTIMUM_TEST_MODELS/$1.gguf" ]; then
        echo "$OPTIMUM_TEST_MODELS/$1.gguf"
    elif [ -r "$shared/models/$1/model.safetensors" ] &&
        "${PYTHON:-python3}" "$shared/models/hf_to_gguf.py" "$shared/models/$1" "$work/$1.gguf" >"$work/convert.log" 2>&1; then
        echo "$work/$1.gguf"
    else
        return 1
    fi
}
