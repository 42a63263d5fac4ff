# shellcheck shell=sh
# Sourced by test_*.sh OPTIMUM ROBUST_TOOL: an empty folder to work in, and what every case must fulfil.
#
#   expect CODE PATTERN VERB ARGS...   run optimum; the exit code is CODE, and unless that is 0 the standard error
#                                      holds exactly one "optimum: error:" line, which matches the shell PATTERN
#   survive VERB ARGS...               any exit code but a signal's; one error line unless it is 0
# Both fail on standard error that is not the program's own, and on temporary files left behind.
# Every case is printed: what was run, the exit code, the line.
set -u
case $1 in /*) OPTIMUM=$1 ;; *) OPTIMUM=$PWD/$1 ;; esac
case $2 in /*) TOOL=$2 ;; *) TOOL=$PWD/$2 ;; esac
source_dir=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/optimum-robust-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
cd "$work" || exit 1
mkdir "$work/.io"
failed=0

skip() {
    echo "SKIP: $*"
    exit 77
}

fail() {
    echo "FAIL: $*"
    failed=1
}

finish() {
    [ ! -f .io/survived ] || sort .io/survived | uniq -c | awk '{ print $2 ": " $1 " times exit code " $3 }'
    [ "$failed" = 0 ] && echo "all cases passed"
    exit "$failed"
}

tool() {
    "$TOOL" "$@" || { echo "FAIL: robust_tool $*"; exit 1; }
}

# One thread: ggml's threads wait for each other by spinning, which on a busy machine takes seconds for microseconds.
optimum() {
    "$OPTIMUM" "$@" -t 1
}

text() { # BYTES: text that is not the same over and over
    head -c "$1" "$source_dir/data/demo.txt"
}

no_temporaries() {
    left_=$(find . -name '*.tmp.*' -o -name '*.checkpoint.cache' | tr '\n' ' ')
    [ -z "$left_" ] || { fail "$1: left behind: $left_"; find . -name '*.tmp.*' -exec rm -f {} +; }
}

# check_end CODE_FOUND CODE PATTERN WHAT: what run_ left in .io
check_end() {
    line_=$(grep '^optimum: error: ' .io/err)
    n_=$(grep -c '^optimum: error: ' .io/err)
    printf '%s | %s | %s\n' "$4" "$1" "$line_"
    if [ "$1" -ne "$2" ]; then
        fail "$4: exit code $1, expected $2"
        tail -n 5 .io/err
    fi
    if grep -qv '^optimum: ' .io/err; then
        fail "$4: foreign text on standard error: $(grep -v '^optimum: ' .io/err | head -n 3)"
    fi
    if [ "$2" = 0 ]; then
        [ "$n_" = 0 ] || fail "$4: an error line, and exit code 0"
    else
        [ "$n_" = 1 ] || fail "$4: $n_ error lines, expected one"
        # shellcheck disable=SC2254
        case $line_ in
            $3) ;;
            *) fail "$4: expected $3" ;;
        esac
    fi
    no_temporaries "$4"
}

expect() {
    code_=$1 pattern_=$2
    shift 2
    optimum "$@" >.io/out 2>.io/err
    check_end $? "$code_" "$pattern_" "$*"
}

survive() {
    optimum "$@" >.io/out 2>.io/err
    found_=$?
    case $found_ in
        0 | 1 | 2 | 3 | 4 | 5) check_end $found_ $found_ '*' "$*" >.io/case || : ;;
        *) fail "$*: exit code $found_: $(tail -n 2 .io/err)"; return ;;
    esac
    echo "$1 $found_" >>.io/survived
    grep FAIL .io/case && failed=1
    return 0
}

# same FILE FILE WHAT
same() {
    cmp -s "$1" "$2" || fail "$3: $1 differs from $2"
}

# random BELOW: into $number, the next of a sequence that $seed begins
seed=1
random() {
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    number=$((seed / 65536 % $1))
}

# signalled SIGNAL MILLISECONDS [after FILE] -- VERB ARGS...: run and send the signal; its code into $code
signalled() {
    signal_=$1 ms_=$2
    shift 2
    if [ "$1" = after ]; then
        after_="after $2"
        shift 2
    else
        after_=
    fi
    shift
    # shellcheck disable=SC2086
    "$TOOL" signal "$signal_" "$ms_" $after_ "$OPTIMUM" "$@" -t 1 >.io/out 2>.io/err
    code=$?
}
