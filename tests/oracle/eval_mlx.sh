#!/bin/sh
# `optimum eval` of MLX directories against mlx-lm itself, both in F32: logits, KL divergence, perplexity. The
# directories are made by mlx_lm.convert, of the reference models and of a small random llama (whose q and k
# llama.cpp keeps in another order).
#
#   eval_mlx.sh PROGRAM      (the helper built from eval_mlx.c)
#
#   OPTIMUM_PYTHON, PYTHON   a Python with mlx-lm and numpy (default python3); none: skipped
set -eu
. "$(dirname -- "$0")/models.sh"
helper=$1
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
"$python" -c 'import mlx_lm, numpy' 2>/dev/null || skip "$python has no mlx_lm and numpy (set OPTIMUM_PYTHON)"
[ -r "$shared/text/valid.txt" ] || skip "no text (set OPTIMUM_SHARED)"
[ -r "$shared/models/ref-dense/model.safetensors" ] || skip "no ref-dense (set OPTIMUM_SHARED)"
TMPDIR=$work "$python" "$(dirname -- "$0")/eval_mlx.py" "$helper" "$work" "$shared"
# what was written out for llama.cpp must be gone
if ls "$work"/*.tmp.* 2>/dev/null; then
    echo "FAIL  temporary files are left"
    exit 1
fi
