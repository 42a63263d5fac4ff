#!/bin/sh
# Everything: lint, both builds, the quick tests under the sanitizers, then the full suite on the release build. Gives
# the comparisons with llama.cpp what they need: its tools (`make tools`), and GGUFs of the trained reference models
# when the folder OPTIMUM_SHARED (default: shared beside the checkout) has them.
. "$(dirname -- "$0")/common.sh"
cd "$root"

# Makes NAME.gguf in the cache of every models/NAME in the shared folder, once; needs the PyPI packages gguf and numpy,
# which go into a virtual environment in the cache. What cannot be made leaves its tests skipped.
make_test_models() {
    converter=$shared/models/hf_to_gguf.py
    [ -r "$converter" ] || return 0
    OPTIMUM_TEST_MODELS=$cache/test-models
    export OPTIMUM_TEST_MODELS
    mkdir -p "$OPTIMUM_TEST_MODELS"
    for folder in "$shared"/models/*/; do
        name=$(basename "$folder")
        [ -r "$folder/model.safetensors" ] || continue
        target=$OPTIMUM_TEST_MODELS/$name.gguf
        key=$({ cat "$converter" "$folder/config.json"; ls -ln "$folder/model.safetensors"; } | digest)
        [ "$(cat "$target.key" 2>/dev/null)" != "$key" ] || continue
        python=$cache/convert/bin/python3
        if ! "$python" -c 'import gguf, numpy' 2>/dev/null; then
            say "installing gguf and numpy (PyPI) to convert the reference models …"
            { python3 -m venv "$cache/convert" &&
                "$python" -m pip install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6; } >&2 || {
                say "warning: cannot convert the reference models; the tests that want them are skipped"
                return 0
            }
        fi
        say "converting $name …"
        if "$python" "$converter" "$folder" "$target.tmp" >&2; then
            mv "$target.tmp" "$target"
            echo "$key" >"$target.key"
        else
            say "warning: could not convert $name; the tests that want it are skipped"
            rm -f "$target.tmp"
        fi
    done
}

# A Python with mlx-lm in the cache, unless OPTIMUM_PYTHON names one; PyPI's mlx runs on Linux processors too. Without it
# the comparisons with mlx are skipped.
make_mlx_python() {
    OPTIMUM_PYTHON=$cache/mlx/bin/python3
    export OPTIMUM_PYTHON
    packages="mlx-lm==0.32.2 safetensors==0.8.0 numpy==2.4.6"
    case $(uname) in
        Darwin) packages="mlx==0.32.4 $packages" ;;
        *) packages="mlx[cpu]==0.32.4 $packages" ;;
    esac
    [ "$(cat "$cache/mlx/packages" 2>/dev/null)" != "$packages" ] || return 0
    say "installing mlx-lm (PyPI) to compare with …"
    # shellcheck disable=SC2086
    if { python3 -m venv --clear "$cache/mlx" &&
        "$OPTIMUM_PYTHON" -m pip install --quiet --disable-pip-version-check $packages; } >&2; then
        echo "$packages" >"$cache/mlx/packages"
    else
        say "warning: cannot install mlx-lm; the comparisons with it are skipped"
    fi
}

scripts/lint.sh
cmake --preset release
cmake --build --preset release
cmake --preset asan
cmake --build --preset asan

shared=${OPTIMUM_SHARED:-$root/../shared}
[ -n "${OPTIMUM_TEST_MODELS-}" ] || make_test_models
[ -n "${OPTIMUM_PYTHON-}" ] || make_mlx_python
OPTIMUM_LLAMA_BIN=$deps/tools/bin
export OPTIMUM_LLAMA_BIN

ctest --preset asan
ctest --preset release
