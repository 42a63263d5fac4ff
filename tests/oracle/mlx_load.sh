#!/bin/sh
# Directories that we write, in unmodified mlx-lm: they load (strictly), each module has the type of the allocation
# and the numbers that we read from it, and they generate; rounded plainly they are byte for byte what
# mlx_lm.convert makes of the same types, given to it by our own export; a config.json of transformers 5 leads to the
# same model as an older one.
#
#   mlx_load.sh PROGRAM      (the helper built from mlx_load.c)
#
#   OPTIMUM_PYTHON, PYTHON   a Python with mlx-lm and numpy (default python3); none: skipped
set -eu
. "$(dirname -- "$0")/models.sh"
helper=$1
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
"$python" -c 'import mlx_lm, numpy' 2>/dev/null || skip "$python has no mlx_lm and numpy (set OPTIMUM_PYTHON)"
[ -r "$shared/models/ref-dense/model.safetensors" ] || skip "no ref-dense (set OPTIMUM_SHARED)"
"$python" "$(dirname -- "$0")/mlx_load.py" "$helper" "$work" "$shared"
