#!/bin/sh
# Our perplexity and KL divergence against llama-perplexity --kl-divergence: same chunks, its rule of scoring the
# second half of each window. Perplexities within 0.1 %, divergence within 1 % where it is at least 0.05 nats and
# within 5e-4 nats below (the resolution of its 16-bit base file); with the reference running along and from our
# reference file, which must give the same numbers to the last digit.
#
#   eval_vs_perplexity.sh OPTIMUM
set -eu
. "$(dirname -- "$0")/models.sh"
optimum=$1
chunks=8
threads=${OPTIMUM_TEST_THREADS:-2}
text=$shared/text/valid.txt

quantize=$(tool llama-quantize) || skip "llama-quantize not found (set OPTIMUM_LLAMA_BIN)"
perplexity=$(tool llama-perplexity) || skip "llama-perplexity not found (set OPTIMUM_LLAMA_BIN)"
[ -r "$text" ] || skip "no text (set OPTIMUM_SHARED)"

# theirs KIND FILE: the number after "KIND :" in llama-perplexity's statistics.
theirs() {
    sed -n "s/^$1 *: *\([0-9.][0-9.]*\).*/\1/p" "$2" | head -1
}

# ours KEY FILE: a number of eval.json; KEY is unique in it.
ours() {
    sed -n "s/.*\"$1\": *\([-0-9.eE+]*\).*/\1/p" "$2" | head -1
}

failed=0
# near WHAT OURS THEIRS RELATIVE ABSOLUTE
near() {
    awk -v what="$1" -v a="$2" -v b="$3" -v rel="$4" -v abs="$5" 'BEGIN {
        d = a - b; if (d < 0) d = -d
        limit = rel * b; if (abs > limit) limit = abs
        ok = a != "" && b != "" && d <= limit
        printf "%s  %-24s ours %-12.6g theirs %-12.6g\n", ok ? "ok  " : "FAIL", what, a, b
        exit !ok
    }' || failed=1
}

# run_ours REFERENCE OUT
run_ours() {
    "$optimum" eval "$judged" --reference "$1" --text "$text" --score second-half --ctx 512 --chunks $chunks \
        --no-speed --threads "$threads" --quiet -o "$2" >"$work/log"
}

# compare NAME TYPE: from the reference file
compare() {
    judged=$work/$1-$2.gguf
    "$quantize" "$reference" "$judged" "$2" "$threads" >"$work/log" 2>&1
    "$perplexity" -m "$judged" -f "$text" -c 512 --chunks $chunks -t "$threads" \
        --kl-divergence-base "$work/base" --kl-divergence >"$work/theirs" 2>>"$work/log"
    run_ours "$work/reference.bin" "$work/ours.json"
    kld=$(theirs "Mean    KLD" "$work/theirs")
    near "$1 $2 PPL" "$(ours ppl "$work/ours.json")" "$(theirs 'Mean PPL(Q)' "$work/theirs")" 0.001 0
    # not 'Mean PPL(base)': the base file clamps log-probabilities at 16 below the top
    near "$1 $2 PPL reference" "$(ours ppl_reference "$work/ours.json")" "$base_ppl" 0.001 0
    near "$1 $2 KLD" "$(ours mean "$work/ours.json")" "$kld" \
        "$(awk -v k="$kld" 'BEGIN { print(k >= 0.05 ? 0.01 : 0) }')" \
        "$(awk -v k="$kld" 'BEGIN { print(k >= 0.05 ? 0 : 5e-4) }')"
    near "$1 $2 KLD stderr" "$(ours stderr "$work/ours.json")" \
        "$(sed -n 's/^Mean    KLD: .* \([0-9.]*\)$/\1/p' "$work/theirs")" 0.05 1e-5
    near "$1 $2 KLD p99" "$(ours p99 "$work/ours.json")" "$(theirs '99.0%   KLD' "$work/theirs")" 0.02 5e-4
    near "$1 $2 KLD median" "$(ours median "$work/ours.json")" "$(theirs 'Median  KLD' "$work/theirs")" 0.02 5e-4
    near "$1 $2 same top" "$(ours top1_agreement "$work/ours.json")" \
        "$(awk -v p="$(theirs 'Same top p' "$work/theirs")" 'BEGIN { print p / 100 }')" 0.003 0
}

for name in ref-dense ref-moe; do
    reference=$(model $name) || skip "no $name (set OPTIMUM_TEST_MODELS, or OPTIMUM_SHARED with Python's gguf)"
    "$perplexity" -m "$reference" -f "$text" -c 512 --chunks $chunks -t "$threads" \
        --kl-divergence-base "$work/base" >"$work/log" 2>&1
    base_ppl=$(sed -n 's/.*Final estimate: PPL = \([0-9.]*\).*/\1/p' "$work/log")
    "$optimum" eval --reference "$reference" --text "$text" --ctx 512 --chunks $chunks --threads "$threads" --quiet \
        --reference-out "$work/reference.bin" >"$work/log"
    compare $name Q4_K_M
    if [ $name = ref-dense ]; then
        compare $name Q2_K
        run_ours "$reference" "$work/running.json"
        for key in ppl mean p99 top1_agreement; do
            near "running, stored: $key" "$(ours $key "$work/running.json")" "$(ours $key "$work/ours.json")" 1e-12 0
        done
    fi
    rm -f "$work"/$name-*.gguf
done
exit $failed
