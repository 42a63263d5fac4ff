#!/bin/sh
# Our GGUF of a Hugging Face directory against llama.cpp's own converter: every pair of the architecture and of the
# tokenizer, every tensor byte for byte. The reference models, and small ones of every family (hf_to_gguf.py models).
# The converter recognises a pre-tokenizer by a hash that only published vocabularies have: the name is given to it.
# Then llama.cpp runs one of ours: the perplexity is the same as with the GGUF that the tests use everywhere.
#
#   hf_to_gguf.sh PROGRAM      (the helper built from hf_to_gguf.c)
#   OPTIMUM_LLAMA_SOURCE          llama.cpp's sources with convert_hf_to_gguf.py (they are in the sdist of the PyPI package
#                              that scripts/pins.txt names, vendor/llama.cpp), else skipped
#   OPTIMUM_PYTHON, PYTHON     a Python with torch, transformers, sentencepiece and numpy, else skipped
set -eu
. "$(dirname -- "$0")/models.sh"
program=$1
python=${OPTIMUM_PYTHON:-${PYTHON:-python3}}
llama=${OPTIMUM_LLAMA_SOURCE:-}
helper=$source_dir/tests/oracle/hf_to_gguf.py
[ -r "$llama/convert_hf_to_gguf.py" ] || skip "no convert_hf_to_gguf.py (set OPTIMUM_LLAMA_SOURCE to llama.cpp's sources)"
"$python" -c 'import torch, transformers, sentencepiece, numpy' 2>/dev/null ||
    skip "$python has no torch, transformers, sentencepiece and numpy (set OPTIMUM_PYTHON)"
[ -r "$shared/models/ref-dense/tokenizer.json" ] || skip "no reference models (set OPTIMUM_SHARED)"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

failed=0
mkdir "$work/models" "$work/out"
"$python" "$helper" models "$work/models" "$shared" >"$work/log" 2>&1 || {
    tail -n 5 "$work/log"
    echo "FAIL  small models cannot be made"
    exit 1
}
"$python" "$helper" check "$llama" "$program" "$work/out" "$work/models"/*/ || failed=1

# ppl MODEL: of the first chunks of a text
ppl() {
    "$perplexity" -m "$1" -f "$shared/text/valid.txt" -c 256 --chunks 4 -t "${OPTIMUM_TEST_THREADS:-2}" 2>&1 |
        sed -n 's/.*Final estimate: PPL = \([0-9.]*\).*/\1/p'
}
perplexity=$(tool llama-perplexity) || perplexity=
"$python" "$helper" check --keep "$llama" "$program" "$work" "$shared/models/ref-dense" "$shared/models/ref-moe" ||
    failed=1
for name in ref-dense ref-moe; do
    mv "$work/$name.gguf" "$work/ours-$name.gguf" || continue
    known=$(model $name) || continue
    # what the small converter of the shared models writes besides, and what it leaves out
    "$python" "$helper" compare "$llama" "$work/ours-$name.gguf" "$known" --allow general.sampling.temp \
        --allow general.sampling.top_p --allow '*.vocab_size' --allow tokenizer.ggml.add_space_prefix \
        --allow tokenizer.ggml.eot_token_id || failed=1
    [ -n "$perplexity" ] || continue
    ours=$(ppl "$work/ours-$name.gguf") theirs=$(ppl "$known")
    if [ -n "$ours" ] && [ "$ours" = "$theirs" ]; then
        echo "ok    $name: perplexity $ours in llama.cpp with both"
    else
        echo "FAIL  $name: perplexity $ours, theirs $theirs"
        failed=1
    fi
done
exit $failed
