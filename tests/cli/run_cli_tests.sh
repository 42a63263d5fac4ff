#!/bin/sh
# Runs cases against the program: run_cli_tests.sh OPTIMUM CASE.sh...
#
# A case is a shell script; it runs in an empty folder of its own with $OPTIMUM (the program) and $CASES
# (the folder of the case). Beside NAME.sh lie what it must give:
#   NAME.stdout.glob, NAME.stderr.glob   the output, line by line; * stands for any text in a line, a line
#                                        "..." for any lines. No file: nothing may be printed.
#   NAME.exit                            the exit code; no file: 0
# A case that exits with 77 is skipped.
set -u
case $1 in
    /*) OPTIMUM=$1 ;;
    *) OPTIMUM=$PWD/$1 ;;
esac
export OPTIMUM
shift
failed=0

# match PATTERN_FILE ACTUAL_FILE: says the first line that does not match
match() {
    awk -v actual="$2" '
        function regex(s,    i, c, r) {
            r = "^"
            for (i = 1; i <= length(s); i++) {
                c = substr(s, i, 1)
                r = r (c == "*" ? ".*" : c ~ /[A-Za-z0-9 _]/ ? c : c == "\\" ? "\\\\" : c == "^" ? "\\^" : "[" c "]")
            }
            return r "$"
        }
        { pattern[++n] = $0 }
        END {
            m = 0
            while ((getline line < actual) > 0) { text[++m] = line }
            # reach[j]: the patterns so far can match the first j lines
            for (j = 0; j <= m; j++) { reach[j] = j == 0 }
            for (i = 1; i <= n; i++) {
                split("", next_reach)
                any = 0
                re = regex(pattern[i])
                for (j = 0; j <= m; j++) {
                    if (pattern[i] == "...") {
                        next_reach[j] = reach[j] || (j > 0 && next_reach[j - 1])
                    } else {
                        next_reach[j] = j > 0 && reach[j - 1] && text[j] ~ re
                    }
                    any = any || next_reach[j]
                }
                if (!any) {
                    print "expected: " pattern[i]
                    exit 1
                }
                for (j = 0; j <= m; j++) { reach[j] = next_reach[j] }
            }
            if (!reach[m]) {
                print "more lines than expected"
                exit 1
            }
        }' "$1"
}

# check NAME WHAT ACTUAL PATTERN_FILE
check() {
    pattern=$4
    [ -f "$pattern" ] || pattern=/dev/null
    if ! message=$(match "$pattern" "$3"); then
        echo "FAIL $1: $2: $message"
        echo "--- found:"
        cat "$3"
        echo "---"
        return 1
    fi
}

for script in "$@"; do
    folder=$(cd "$(dirname "$script")" && pwd)
    name=$(basename "$script" .sh)
    CASES=$folder
    export CASES
    work=$(mktemp -d "${TMPDIR:-/tmp}/optimum-cli-XXXXXX") || exit 1
    mkdir "$work/in"
    (cd "$work/in" && exec sh "$folder/$name.sh" >"$work/stdout" 2>"$work/stderr" </dev/null)
    code=$?
    if [ $code -eq 77 ] && [ ! -f "$folder/$name.exit" ]; then
        echo "SKIP $name"
        rm -rf "$work"
        [ $# -eq 1 ] && exit 77
        continue
    fi
    want=0
    [ -f "$folder/$name.exit" ] && want=$(cat "$folder/$name.exit")
    ok=1
    check "$name" stdout "$work/stdout" "$folder/$name.stdout.glob" || ok=0
    check "$name" stderr "$work/stderr" "$folder/$name.stderr.glob" || ok=0
    if [ "$code" -ne "$want" ]; then
        echo "FAIL $name: exit code $code, expected $want"
        ok=0
    fi
    if [ $ok -eq 1 ]; then
        echo "ok   $name"
    else
        failed=1
    fi
    rm -rf "$work"
done
exit $failed
