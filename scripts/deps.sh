#!/bin/sh
# Installs what Optimum needs to build, without asking and only what is missing:
#   1. system packages (apt-get or brew);
#   2. llama.cpp, pinned, built from source as static libraries, into the cache;
#   3. HiGHS, pinned, from its PyPI wheel, into the cache.
# With --tools also llama-quantize, llama-imatrix and llama-perplexity, which tests and benchmarks judge us by.
#
#   scripts/deps.sh [--tools]
#
#   OPTIMUM_DEPS            where 2 and 3 go; default ${XDG_CACHE_HOME:-~/.cache}/optimum/deps
#   OPTIMUM_SYSTEM_LLAMA=0  do not use an installed llama.cpp even when it has the interface we need
#   OPTIMUM_NATIVE=OFF      do not compile llama.cpp for exactly this processor (for a cache that moves between machines)
#
# A build lives in llama-KEY, where KEY is a digest of all that shapes it; its stamp is written last. The links `llama`
# and `highs` name the current ones. A second run finds the stamps and ends in well under a second.
. "$(dirname -- "$0")/common.sh"

with_tools=0
case ${1-} in
    --tools) with_tools=1 ;;
    '') ;;
    *) die "usage: scripts/deps.sh [--tools]" ;;
esac
cc=${CC:-cc}
cxx=${CXX:-c++}
native=${OPTIMUM_NATIVE:-ON}

# ---- 1. system packages

# need_system DEBIAN BREW COMMAND…: remember both package names when COMMAND fails.
missing_apt= missing_brew=
need_system() {
    apt_name=$1 brew_name=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing_apt="$missing_apt $apt_name"
        missing_brew="$missing_brew $brew_name"
    fi
}

python_can_pip() { python3 -c 'import pip' || (pip_command); }
pc() { pkg-config --exists "$1"; }

list_missing() {
    missing_apt='' missing_brew=''
    need_system gcc gcc have "$cc"
    need_system g++ gcc have "$cxx"
    need_system cmake cmake have cmake
    need_system ninja-build ninja have ninja
    need_system python3 python3 have python3
    need_system python3-pip python3 python_can_pip
    need_system pkg-config pkgconf have pkg-config
    need_system libjansson-dev jansson pc jansson
    need_system libssl-dev openssl@3 pc libcrypto
    need_system libcmocka-dev cmocka pc cmocka
    if [ "$with_tools" = 1 ]; then
        need_system git git have git
        need_system clang-format clang-format have clang-format
        need_system python3-venv python3 python3 -c 'import ensurepip'
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

system_packages() {
    if have brew; then # keg-only on macOS: pkg-config does not look there by itself
        PKG_CONFIG_PATH=$(brew --prefix)/opt/openssl@3/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
        export PKG_CONFIG_PATH
    fi
    list_missing
    [ -n "$missing_apt" ] || return 0
    if have apt-get; then
        say "installing system packages:$missing_apt"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086  # a list of words
        { as_root apt-get -qq update && as_root apt-get -qq install -y --no-install-recommends $missing_apt; } \
            >"$deps/apt.log" 2>&1 </dev/null || {
            tail -n 5 "$deps/apt.log" >&2
            die "apt-get failed (log: $deps/apt.log); run as root: apt-get install$missing_apt"
        }
    elif have brew; then
        say "installing system packages:$missing_brew"
        # shellcheck disable=SC2086
        HOMEBREW_NO_AUTO_UPDATE=1 brew install $missing_brew </dev/null >&2 ||
            die "brew failed; run: brew install$missing_brew"
    else
        die "install these with your package manager and run again (Debian's names):$missing_apt"
    fi
    list_missing
    [ -z "$missing_apt" ] || die "still missing after installation:$missing_apt"
}

# ---- 2. llama.cpp

# What a build depends on besides its source: the compiler, our build description, and with GGML_NATIVE the processor.
llama_key() {
    {
        grep '^llama-cpp-python==' "$root/scripts/pins.txt"
        cat "$root/cmake/llama/CMakeLists.txt"
        for compiler in "$cc" "$cxx"; do
            "$compiler" -dumpmachine
            "$compiler" --version | head -n 1
        done
        echo "native=$native"
        if [ "$native" = ON ]; then
            if [ -r /proc/cpuinfo ]; then
                grep -m 1 -i -E '^(flags|features)' /proc/cpuinfo || true
            else
                sysctl -n machdep.cpu.brand_string 2>/dev/null || true
            fi
        fi
    } | digest
}

# An installed llama.cpp serves when a program against today's interface compiles and links. Prints where it is.
system_llama() {
    [ "${OPTIMUM_SYSTEM_LLAMA:-1}" = 1 ] && pc llama || return 1
    prefix=$(pkg-config --variable=prefix llama)
    answer=$deps/system-llama-$( { pkg-config --modversion llama; cat "$prefix/include/llama.h"; } 2>/dev/null | digest)
    if [ ! -e "$answer.yes" ] && [ ! -e "$answer.no" ]; then
        if cmake -S "$root/cmake/llama/probe" -B "$answer.build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" \
            >"$answer.log" 2>&1 && cmake --build "$answer.build" >>"$answer.log" 2>&1; then
            touch "$answer.yes"
        else
            touch "$answer.no"
            say "the installed llama.cpp has another interface than Optimum's (log: $answer.log): building the pinned one"
        fi
        rm -rf "$answer.build"
    fi
    [ -e "$answer.yes" ] && echo "$prefix"
}

unpack_llama() { # into $home/source
    say "downloading llama.cpp (77 MB, PyPI llama-cpp-python) …"
    fetch llama-cpp-python "$home/download"
    archive=$(find "$home/download" -name '*.tar.gz')
    top=$(basename "$archive" .tar.gz)/vendor/llama.cpp
    mkdir -p "$home/unpack"
    (
        cd "$home/unpack"
        tar -xzf "$archive" "$top/CMakeLists.txt" "$top/LICENSE" "$top/cmake" "$top/common" "$top/ggml" "$top/include" \
            "$top/src" "$top/vendor" "$top/tools/quantize" "$top/tools/imatrix" "$top/tools/perplexity"
    )
    mv "$home/unpack/$top" "$home/source"
    rm -rf "$home/unpack" "$home/download"
}

build_llama() { # $1: libs or tools
    home=$deps/llama-$key
    [ ! -e "$home/$1.stamp" ] || return 0
    lock "llama-$key"
    if [ ! -e "$home/$1.stamp" ]; then # nobody else built it while we waited
        mkdir -p "$home"
        if [ ! -d "$home/source" ]; then
            rm -rf "$home/unpack" "$home/download"
            unpack_llama
        fi
        if [ "$1" = tools ]; then
            tools=ON what='llama.cpp and its three tools' minutes=8
        else
            tools=OFF what='llama.cpp' minutes=4
        fi
        say "building $what: about $minutes CPU minutes and 250 MB (55 MB stay) in $home; once per machine …"
        {
            cmake -S "$root/cmake/llama" -B "$home/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
                -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" -DGGML_NATIVE="$native" \
                -DOPTIMUM_LLAMA_TOOLS=$tools -DLLAMA_SOURCE_DIR="$home/source" -DCMAKE_INSTALL_PREFIX="$home" &&
                cmake --build "$home/build" --parallel "$(n_procs)" &&
                cmake --install "$home/build"
        } >"$home/$1.log" 2>&1 </dev/null || {
            tail -n 20 "$home/$1.log" >&2
            die "building llama.cpp failed (log: $home/$1.log)"
        }
        touch "$home/libs.stamp"
        if [ "$1" = tools ]; then
            touch "$home/tools.stamp"
            rm -rf "$home/source" "$home/build" # nothing more to build from them
        fi
    fi
    unlock
}

# ---- 3. HiGHS

install_highs() {
    highs=$deps/highs-$(grep '^highsbox==' "$root/scripts/pins.txt" | digest)
    [ ! -e "$highs/stamp" ] || return 0
    lock highs
    if [ ! -e "$highs/stamp" ]; then
        say "downloading HiGHS (10 MB, PyPI highsbox) …"
        rm -rf "$highs"
        fetch highsbox "$highs/download"
        wheel=$(find "$highs/download" -name '*.whl')
        python3 -m zipfile -e "$wheel" "$highs/unpack"
        dist=$(find "$highs/unpack" -type d -name highs_dist)
        mv "$dist/lib" "$dist/include" "$dist/share" "$highs/"
        rm -rf "$highs/download" "$highs/unpack"
        touch "$highs/stamp"
    fi
    unlock
}

# point NAME TARGET: make the link $deps/NAME name TARGET.
point() {
    [ "$(readlink "$deps/$1" 2>/dev/null)" = "$2" ] && return 0
    ln -sfn "$2" "$deps/$1"
}

mkdir -p "$deps"
system_packages
install_highs
point highs "$(basename "$highs")"
key=$(llama_key)
if prefix=$(system_llama); then
    point llama "$prefix"
    say "llama.cpp: the installed one ($prefix)"
else
    if [ "$with_tools" = 1 ]; then build_llama tools; else build_llama libs; fi
    point llama "llama-$key"
fi
if [ "$with_tools" = 1 ]; then # the judges are always the pinned ones
    build_llama tools
    point tools "llama-$key"
fi
