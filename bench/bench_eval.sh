#!/bin/sh
# Time and peak memory of `optimum eval` (reference file present) against llama-perplexity --kl-divergence (base file
# present): same chunks, same threads, same scored tokens. Median of three, and the ratio.
#
#   bench_eval.sh OPTIMUM [MODEL_NAME [TYPE [CHUNKS]]]      default: ref-dense Q4_K_M 16
set -eu
OPTIMUM_SHARED=${OPTIMUM_SHARED:-$(dirname -- "$0")/../../shared}
. "$(dirname -- "$0")/../tests/oracle/models.sh"
optimum=$1
name=${2:-ref-dense}
type=${3:-Q4_K_M}
chunks=${4:-16}
threads=${OPTIMUM_BENCH_THREADS:-2}
text=$shared/text/valid.txt

quantize=$(tool llama-quantize) || skip "llama-quantize not found (set OPTIMUM_LLAMA_BIN)"
perplexity=$(tool llama-perplexity) || skip "llama-perplexity not found (set OPTIMUM_LLAMA_BIN)"
[ -r "$text" ] || skip "no text (set OPTIMUM_SHARED)"
reference=$(model "$name") || skip "no $name (set OPTIMUM_TEST_MODELS)"

# measure COMMAND...: "seconds kilobytes" of the median of three runs.
measure() {
    for _ in 1 2 3; do
        "${PYTHON:-python3}" - "$@" <<'PY'
import os, resource, subprocess, sys, time
start = time.monotonic()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds = time.monotonic() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f"{seconds:.3f} {peak // 1024 if sys.platform == 'darwin' else peak}")
PY
    done | sort -n | sed -n 2p
}

"$quantize" "$reference" "$work/model.gguf" "$type" "$threads" >"$work/log" 2>&1
"$perplexity" -m "$reference" -f "$text" -c 512 --chunks "$chunks" -t "$threads" --kl-divergence-base "$work/base" \
    >"$work/log" 2>&1
"$optimum" eval --reference "$reference" --text "$text" --chunks "$chunks" --threads "$threads" --quiet \
    --reference-out "$work/reference.bin" >"$work/log"

theirs=$(measure "$perplexity" -m "$work/model.gguf" -f "$text" -c 512 --chunks "$chunks" -t "$threads" \
    --kl-divergence-base "$work/base" --kl-divergence)
ours=$(measure "$optimum" eval "$work/model.gguf" --reference "$work/reference.bin" --text "$text" \
    --score second-half --chunks "$chunks" --threads "$threads" --quiet --no-speed)
all=$(measure "$optimum" eval "$work/model.gguf" --reference "$work/reference.bin" --text "$text" \
    --chunks "$chunks" --threads "$threads" --quiet --no-speed)

size() {
    wc -c <"$1"
}
echo "$theirs $ours $all $(size "$work/base") $(size "$work/reference.bin")" | awk -v what="$name $type, $chunks chunks, $threads threads" '{
    print what
    printf "llama-perplexity --kl-divergence  %7.2f s %8.1f MB   base file      %8.1f MB\n", $1, $2 / 1024, $7 / 1e6
    printf "optimum eval --score second-half  %7.2f s %8.1f MB   reference file %8.1f MB\n", $3, $4 / 1024, $8 / 1e6
    printf "optimum eval (twice the tokens)   %7.2f s %8.1f MB\n", $5, $6 / 1024
    printf "ratio, same tokens                %7.2f   %8.2f\n", $3 / $1, $4 / $2
}'
