#!/bin/sh
# The whole pipeline on a small real model, SmolLM2-135M-Instruct, 100 MB. It ships as Q4_1, so the result shows how
# Optimum works rather than the quality to expect from a BF16 source.
#
#   scripts/demo.sh PROGRAM [FOLDER]     writes FOLDER (default build/demo): the GGUF, JSON files, report.html
. "$(dirname -- "$0")/common.sh"

program=${1:?usage: scripts/demo.sh PROGRAM [FOLDER]}
folder=${2:-$root/build/demo}
model=$(demo_model)
mkdir -p "$folder"
exec "$program" run "$model" --calib "$root/data/demo.txt" --size 90MB --windows 24 --window-tokens 256 --eval-chunks 6 -o "$folder"
