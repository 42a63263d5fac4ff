#!/bin/sh
# Benchmarks (bench/README.md). RUNS=n: repetitions of each step.
#
#   scripts/bench.sh PROGRAM FOLDER
#   scripts/bench.sh --compare OLD.json NEW.json
. "$(dirname -- "$0")/common.sh"

[ "${1-}" != --compare ] || exec python3 "$root/scripts/bench.py" "$@"
program=${1:?usage: scripts/bench.sh PROGRAM FOLDER} folder=${2:?usage: scripts/bench.sh PROGRAM FOLDER}
[ -x "$deps/tools/bin/llama-quantize" ] || die "llama.cpp's tools are not built: run make tools"
model=$(demo_model)
exec python3 "$root/scripts/bench.py" "$program" "$model" "$root/data/demo.txt" "$deps/tools/bin" "$folder"
