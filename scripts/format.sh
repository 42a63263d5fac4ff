#!/bin/sh
# Formats all C sources with clang-format; --check only says which differ. Other versions than 14 (Debian 12) format
# a few constructs differently, so they format but do not judge.
. "$(dirname -- "$0")/common.sh"
cd "$root"

have clang-format || {
    [ "${1-}" = --check ] || die "clang-format is not installed (Debian: apt-get install clang-format)"
    say "format: clang-format is not installed, not checked"
    exit 0
}
files=$(find include src tests bench cmake -name '*.[ch]' 2>/dev/null | sort)
if [ "${1-}" != --check ]; then
    # shellcheck disable=SC2086  # no blanks in our file names
    exec clang-format -i $files
fi
clang-format --version | grep -q 'version 14\.' || {
    say "format: checked with clang-format 14 only, this is $(clang-format --version)"
    exit 0
}
bad=0
for file in $files; do
    clang-format "$file" | cmp -s - "$file" || {
        echo "$file: not formatted (make format)"
        bad=1
    }
done
exit "$bad"
