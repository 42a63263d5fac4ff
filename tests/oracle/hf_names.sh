#!/bin/sh
# Names, shapes and values that Hugging Face and MLX directories give, against programs that know better: the reference
# models against their GGUFs, and tiny random models of every family (hf_names.py) against llama.cpp's converter and
# mlx-lm.
#
#   hf_names.sh PROGRAM      (the helper built from hf_names.c)
#
#   OPTIMUM_PYTHON, PYTHON      a Python with torch, transformers, safetensors and gguf, which makes the tiny models
#   OPTIMUM_MLX_PYTHON          one with mlx-lm (default: the same)
#   OPTIMUM_LLAMA_SOURCE     folder of llama.cpp with convert_hf_to_gguf.py and conversion/
set -eu
. "$(dirname -- "$0")/models.sh"
helper=$1
script=$(dirname -- "$0")/hf_names.py
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
mlx=${OPTIMUM_MLX_PYTHON:-$python}

for name in ref-dense ref-moe; do
    if [ -r "$shared/models/$name/model.safetensors" ] && path=$(model $name); then
        "$helper" compare "$shared/models/$name" "$path"
    fi
done
"$python" -c 'import torch, transformers, safetensors, gguf' 2>/dev/null ||
    skip "the families: $python has no torch, transformers, safetensors and gguf (set OPTIMUM_PYTHON)"
"$python" "$script" make "$work" >"$work/make.log" 2>&1 || { cat "$work/make.log"; exit 1; }
missing=
if [ -r "${OPTIMUM_LLAMA_SOURCE:-/nonexistent}/conversion/__init__.py" ]; then
    "$python" "$script" converter "$work" "$helper" "$OPTIMUM_LLAMA_SOURCE"
else
    missing="llama.cpp's converter (set OPTIMUM_LLAMA_SOURCE)"
fi
if "$mlx" -c 'import mlx_lm' 2>/dev/null; then
    "$mlx" "$script" mlx "$work" "$helper"
else
    missing="$missing mlx-lm (set OPTIMUM_MLX_PYTHON)"
fi
[ -z "$missing" ] || skip "compared without $missing"
