# quantize holds a few rows, never a stack of experts: anonymous memory stays below three experts in F32 and 32 MiB, where
# one stack has 96 MiB in F32.
. "$(dirname -- "$0")/lib.sh"
case $3 in /*) LARGE=$3 ;; *) LARGE=$OLDPWD/$3 ;; esac
(ulimit -v 150000 && "$OPTIMUM" version >.io/out 2>.io/err) || skip 'no limit on memory here, or a build with sanitizers'
[ -r /proc/self/status ] || skip 'the system does not tell anonymous memory'
tool write m.gguf arch=qwen3moe type=bf16 layers=1 embd=1024 ff=768 expert=32 used=4 vocab=1000
"$LARGE" m.gguf p.json p.stats.gguf hash || { fail 'no profile was made'; finish; }
optimum allocate p.json --bpw 5 -o a.json >.io/out 2>.io/err || { fail 'allocate'; cat .io/err; finish; }
"$TOOL" memory anon $((3 * 3 + 32)) "$OPTIMUM" quantize m.gguf -a a.json -o q.gguf -t 2 >.io/out 2>.io/err
code=$?
tail -n 1 .io/err
[ "$code" = 0 ] || { fail "quantize: exit code $code"; cat .io/err; }
[ -s q.gguf ] || fail 'quantize wrote nothing'
finish
