#!/bin/sh
# Our MLX rows against real mlx: plain rounding byte for byte (codes, scales, biases) in all types and dtypes, what
# the bytes stand for, and the weighted search as mlx reads it. Weights: random, odd, and of the reference models.
#
#   mlx_bits.sh PROGRAM      (the helper built from mlx_bits.c)
#
#   OPTIMUM_PYTHON, PYTHON   a Python with mlx and numpy (default python3); none: skipped
set -eu
. "$(dirname -- "$0")/models.sh"
helper=$1
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
"$python" -c 'import mlx.core, numpy' 2>/dev/null || skip "$python has no mlx and numpy (set OPTIMUM_PYTHON)"
set --
for name in ref-dense ref-moe; do
    model=$shared/models/$name/model.safetensors
    if [ -r "$model" ]; then
        set -- "$@" "$model"
    else
        echo "without $name: no $model (set OPTIMUM_SHARED)"
    fi
done
"$python" "$(dirname -- "$0")/mlx_bits.py" "$helper" "$work" "$@"
