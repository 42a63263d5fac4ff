#!/bin/sh
# Experts in banks, in mlx-lm with the module that the directory brings: with one type in all banks the logits are the
# plain stacks', with several they are those of the same numbers in dense stacks; every family; refused without trust;
# and `optimum eval` judges such a directory as mlx-lm does.
#
#   mlx_banks.sh PROGRAM     (optimum)
#
#   OPTIMUM_PYTHON, PYTHON   a Python with mlx-lm and numpy (default python3); none: skipped
set -eu
. "$(dirname -- "$0")/models.sh"
program=$1
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
"$python" -c 'import mlx_lm, numpy' 2>/dev/null || skip "$python has no mlx_lm and numpy (set OPTIMUM_PYTHON)"
[ -r "$shared/models/ref-moe/model.safetensors" ] || skip "no ref-moe (set OPTIMUM_SHARED)"
[ -r "$shared/text/valid.txt" ] || skip "no text (set OPTIMUM_SHARED)"
TMPDIR=$work "$python" "$(dirname -- "$0")/mlx_banks.py" "$program" "$work" "$shared"
