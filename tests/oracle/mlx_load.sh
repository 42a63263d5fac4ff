#!/bin/sh
# Directories that we write, in unmodified mlx-lm: they load (strictly), each module has the type of the allocation
# and the numbers that we read from it, and they generate; rounded plainly they are byte for byte what
# mlx_lm.convert makes of the same types, given to it by our own export. And tiny models of every family, saved by
# transformers with a config.json that leaves out what mlx-lm looks for, compute the same in both (mlx_families.py).
#
#   mlx_load.sh PROGRAM      (the helper built from mlx_load.c)
#
#   OPTIMUM_PYTHON, PYTHON   a Python with torch and transformers, which makes the tiny models
#   OPTIMUM_MLX_PYTHON       one with mlx-lm and numpy (default: the same); none: skipped
set -eu
. "$(dirname -- "$0")/models.sh"
helper=$1
here=$(dirname -- "$0")
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
mlx=${OPTIMUM_MLX_PYTHON:-$python}
"$mlx" -c 'import mlx_lm, numpy' 2>/dev/null || skip "$mlx has no mlx_lm and numpy (set OPTIMUM_MLX_PYTHON)"
[ -r "$shared/models/ref-dense/model.safetensors" ] || skip "no ref-dense (set OPTIMUM_SHARED)"
"$mlx" "$here/mlx_load.py" "$helper" "$work" "$shared"
if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
    echo "left out: the families, $python has no torch and transformers (set OPTIMUM_PYTHON)"
    exit 0
fi
mkdir "$work/families"
"$python" "$here/mlx_families.py" make "$work/families" >"$work/make.log" 2>&1 || { cat "$work/make.log"; exit 1; }
"$mlx" "$here/mlx_families.py" check "$work/families" "$helper"
