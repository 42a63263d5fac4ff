#!/bin/sh
# Our reader and writer of safetensors against the library of that name, MLX and PyTorch: files of each read by the
# other, every code of the 8- and 16-bit floats, and damaged files, where we may accept nothing that the library refuses.
#
#   safetensors_vs_python.sh PROGRAM      (the helper built from safetensors_vs_python.c)
#   OPTIMUM_PYTHON, PYTHON   a Python with safetensors and numpy, else skipped; mlx and torch add their parts
set -eu
. "$(dirname -- "$0")/models.sh"
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
"$python" -c 'import safetensors.numpy, numpy' 2>/dev/null ||
    skip "$python has no safetensors and numpy (set OPTIMUM_PYTHON)"
"$python" "$source_dir/tests/oracle/safetensors_vs_python.py" "$1" "$work" "$shared/models/ref-dense" \
    "$shared/models/ref-moe"
