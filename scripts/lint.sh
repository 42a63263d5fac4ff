#!/bin/sh
# The checks that gate a change and need no build: layers and rules, headers alone, formatting, blanks, shell syntax.
. "$(dirname -- "$0")/common.sh"
cd "$root"

failed=0
python3 scripts/check_layers.py || failed=1
scripts/check_headers.sh || failed=1
scripts/format.sh --check || failed=1
for script in scripts/*.sh; do
    sh -n "$script" || failed=1
done
bash -n .ci/run || failed=1
if have git && git rev-parse --git-dir >/dev/null 2>&1; then
    git diff --check || failed=1
fi
[ "$failed" = 0 ] || die "lint found problems (above)"
echo "lint: no problem"
