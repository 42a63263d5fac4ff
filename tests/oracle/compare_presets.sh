#!/bin/sh
# The goldens of tests/unit/alloc/test_presets.c against the real llama-quantize: see compare_presets.py.
set -eu
. "$(dirname -- "$0")/models.sh"

quantize=$(tool llama-quantize) || skip "llama-quantize not found (set OPTIMUM_LLAMA_BIN)"
set --
for name in ref-dense ref-moe smollm2-bf16; do
    path=$(model $name) && set -- "$@" "$path"
done
"${PYTHON:-python3}" "$(dirname -- "$0")/compare_presets.py" --quantize "$quantize" "$@"
