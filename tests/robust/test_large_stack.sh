# Large stacks: 256 experts in each of 3 x 48 tensors, 471 GB of weights and 1.3 GB of statistics as holes in files, through
# what comes before and after the profile. Nothing here may depend on how much the weights are: at most 200 MiB each.
. "$(dirname -- "$0")/lib.sh"
case $3 in /*) LARGE=$3 ;; *) LARGE=$OLDPWD/$3 ;; esac
(ulimit -v 150000 && "$OPTIMUM" version >.io/out 2>.io/err) || skip 'no limit on memory here, or a build with sanitizers'
"$TOOL" write m.gguf arch=qwen3moe type=bf16 layers=48 embd=4096 ff=1536 head=64 head_kv=4 head_dim=128 expert=256 used=8 \
    vocab=32000 sparse=1 || skip 'this file system does not take a file of 471 GB'
[ "$(du -k m.gguf | cut -f 1)" -lt 100000 ] || skip 'no sparse files here'
"$LARGE" m.gguf p.json p.stats.gguf || { fail 'no profile was made'; finish; }

# bounded VERB ARGS...: exit code 0, at most 200 MiB resident; the result is in .io/out
bounded() {
    "$TOOL" memory all 200 "$OPTIMUM" "$@" -t 2 >.io/out 2>.io/err
    code_=$?
    printf '%s | %s | %s\n' "$*" "$code_" "$(tail -n 1 .io/err)"
    [ "$code_" = 0 ] || { fail "$*: exit code $code_"; cat .io/err; }
}

bounded inspect m.gguf --memory 128GB
grep -q 'largest quantized' .io/out || fail 'inspect: no table of sizes'
bounded allocate p.json --bpw 3.5 -o a.json
bounded quantize m.gguf -a a.json -o q.gguf --dry-run --json
grep -q '"bpw": 3\.[45]' .io/out || fail 'quantize: no plan of 3.5 bits per weight'
[ "$(grep -c '_exps.weight"' .io/out)" = 144 ] || fail 'quantize: the plan does not list 144 stacks'
[ ! -e q.gguf ] || fail 'quantize --dry-run wrote a file'

# A wrong size is told from the header alone: hashing the model would read all of it.
sed 's/"bytes": 1[0-9]*,/"bytes": 100000000000,/' a.json >b.json
expect 1 '*"bytes" says 100000000000*' quantize m.gguf -a b.json -o q.gguf --dry-run
finish
