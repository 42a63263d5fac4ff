# Ctrl-C at random moments: exit code 130 within two seconds, one line, no output, no temporary file, older outputs as they
# were; the command then goes on to the same bytes.
. "$(dirname -- "$0")/lib.sh"
seed=${OPTIMUM_SEED:-$$}
echo "seed $seed (OPTIMUM_SEED repeats it)"
text 60000 >text.txt
tool write m.gguf
tool write big.gguf layers=1 embd=512 ff=768
optimum profile big.gguf --calib text.txt --window-tokens 32 --windows 1 --types q4_K,iq3_s -o b.json >.io/out 2>.io/err
optimum allocate b.json --plan uniform:iq3_s -o b.alloc.json >.io/out 2>.io/err || fail "allocate: $(cat .io/err)"

# interrupts N SIGNAL MILLISECONDS VERB ARGS...: N times within the first MILLISECONDS; $outputs must not appear
interrupts() {
    times=$1 signal=$2 duration=$3 hit=0
    shift 3
    while [ "$times" -gt 0 ]; do
        times=$((times - 1))
        for output in $outputs; do
            echo "old $output" >"$output"
        done
        random "$duration"
        signalled "$signal" "$((number + 30))" -- "$@" # the handlers are not there in the first moment
        [ $code != 124 ] || fail "$*: more than 2 s to stop"
        if [ $code = 0 ]; then
            rm -rf out # `run` would have nothing left to do
            continue
        fi
        hit=$((hit + 1))
        check_end $code 130 '*' "$*"
        case $(grep '^optimum: error: ' .io/err) in
            *interrupted* | *cancelled*) ;;
            *) fail "$*: a line that does not say so" ;;
        esac
        for output in $outputs; do
            [ "$(cat "$output")" = "old $output" ] || fail "$*: $output was touched"
        done
    done
    echo "$1: $hit interrupted"
}

outputs='p.json p.stats.gguf i.gguf'
set -- profile m.gguf --calib text.txt --window-tokens 64 --windows 100 --types q8_0,q4_0,iq4_nl -o p.json --imatrix-out i.gguf
interrupts 4 2 700 "$@"
rm -f p.checkpoint p.stats.gguf # of a run that was not interrupted: statistics would be kept
signalled 2 10 after p.checkpoint -- "$@"
expect 0 '' "$@"
grep -q 'profile: resuming after [1-9][0-9]* of 100' .io/err || fail "did not resume: $(cat .io/err)"

outputs='p.json p.stats.gguf'
interrupts 3 15 300 profile m.gguf --calib text.txt --window-tokens 32 --windows 6 --types q8_0,q4_0 --method measured -o p.json
outputs=q.gguf
interrupts 4 2 900 quantize big.gguf -a b.alloc.json -o q.gguf
outputs=r.omref
interrupts 4 2 700 eval -r m.gguf --text text.txt --ctx 128 --reference-out r.omref
outputs=e.json
interrupts 3 1 900 eval m.gguf -r m.gguf --text text.txt --ctx 128 -o e.json
outputs=
interrupts 5 2 1000 run m.gguf --bpw 6 --calib text.txt --windows 60 --window-tokens 64 --eval-chunks 3 -o out
expect 0 '' run m.gguf --bpw 6 --calib text.txt --windows 60 --window-tokens 64 --eval-chunks 3 -o out
[ -z "$(find out -name '*.checkpoint')" ] || fail 'run: a checkpoint of finished work'
# the model is replaced while it is read: the kernel sends SIGBUS
cp big.gguf victim.gguf
"$OPTIMUM" quantize victim.gguf -a b.alloc.json -o v.gguf -t 1 >.io/out 2>.io/err &
sleep 0.4
: >victim.gguf
wait $!
code=$?
[ $code = 0 ] || check_end $code 1 '*' 'quantize of a model that shrinks'
[ $code = 0 ] || [ ! -e v.gguf ] || fail 'a file of a model that shrank'
finish
