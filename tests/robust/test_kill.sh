# kill -9 at random moments of every stage. The same command then finishes with the same bytes as a run that was left
# alone, goes on where it was stopped, and cleans up; at no time is an output half old, half new.
. "$(dirname -- "$0")/lib.sh"
seed=${OPTIMUM_SEED:-$$}
echo "seed $seed (OPTIMUM_SEED repeats it)"
text 40000 >text.txt
tool write m.gguf
tool write big.gguf layers=1 embd=512 ff=512
mkdir alone killed
for folder in alone killed; do
    ln -s ../m.gguf ../big.gguf ../text.txt ../.io $folder
done

left_alone() { # VERB ARGS...: the undisturbed run; its time bounds the moments of the kills
    begin=$(date +%s%N 2>/dev/null)
    (cd alone && "$OPTIMUM" "$@" -t 1 >.io/out 2>.io/err) || { fail "$*: $(tail -n 1 .io/err)"; finish; }
    end=$(date +%s%N 2>/dev/null)
    case $begin in
        *[!0-9]* | '') duration=1000 ;; # no nanoseconds here
        *) duration=$(((end - begin) / 1000000 + 20)) ;;
    esac
}

intact() { # FILE: as it was before, or as it will be
    if [ -e "$1" ] && ! cmp -s "$1" "old-$1" && ! cmp -s "$1" "../alone/$1"; then
        fail "$1 is neither the old nor the new file"
    fi
}

kills() { # N VERB ARGS...: in `killed`, checking $outputs after each
    times=$1
    shift
    survived=0
    while [ "$times" -gt 0 ]; do
        random "$duration"
        signalled 9 "$number" -- "$@"
        if [ $code != 137 ]; then
            survived=$((survived + 1))
            rm -rf out # `run` would have nothing left to do
        fi
        for output in $outputs; do
            intact "$output"
        done
        times=$((times - 1))
    done
    echo "$1: finished before the kill $survived times"
}

completes() { # VERB ARGS...
    optimum "$@" >.io/out 2>.io/err || fail "$*: exit code $? after the kills: $(tail -n 1 .io/err)"
    for output in $outputs; do
        same "$output" "../alone/$output" "$1 after kills"
    done
    no_temporaries "$1 after kills"
}

old_files() { # what an earlier run has left
    for output in $outputs; do
        echo "old $output" >"old-$output"
        cp "old-$output" "$output"
    done
}

echo '--- profile'
set -- profile m.gguf --calib text.txt --window-tokens 64 --windows 60 --types q8_0,q4_0,iq4_nl -o p.json --imatrix-out i.gguf
outputs='p.json p.stats.gguf i.gguf'
left_alone "$@"
cd killed || exit 1
old_files
kills 3 "$@"
rm -f p.checkpoint p.stats.gguf # of a run that outlived its kill: statistics would be kept
signalled 9 200 after p.checkpoint -- "$@"
completes "$@"
grep -q 'profile: resuming after [1-9][0-9]* of 60 windows' .io/err || fail "profile did not resume: $(cat .io/err)"
[ ! -e p.checkpoint ] || fail 'the checkpoint of finished work is still there'

echo '--- profile --method measured'
set -- profile ../m.gguf --calib text.txt --window-tokens 32 --windows 6 --types q8_0,q4_0 --method measured -o pm.json
outputs='pm.json pm.stats.gguf'
cd .. && left_alone "$@" && cd killed || exit 1
old_files
kills 2 "$@"
rm -f pm.checkpoint
signalled 9 50 after pm.checkpoint -- "$@"
completes "$@"
grep -q 'measure: resuming after [1-9][0-9]* of ' .io/err || fail "measured did not resume: $(cat .io/err)"

echo '--- quantize'
cd ../alone || exit 1
optimum profile big.gguf --calib text.txt --window-tokens 32 --windows 1 --types q4_K,iq3_s -o b.json >.io/out 2>.io/err
optimum allocate b.json --plan uniform:iq3_s -o b.alloc.json >.io/out 2>.io/err || fail "allocate: $(cat .io/err)"
cp b.json b.stats.gguf b.alloc.json ../killed
cd ..
set -- quantize big.gguf -a b.alloc.json -o q.gguf
outputs=q.gguf
left_alone "$@"
cd killed || exit 1
old_files
kills 3 "$@"
completes "$@"

echo '--- eval --reference-out'
set -- eval -r m.gguf --text text.txt --ctx 128 --reference-out r.omref
outputs=r.omref
cd .. && left_alone "$@" && cd killed || exit 1
old_files
kills 3 "$@"
completes "$@"

echo '--- run'
set -- run m.gguf --bpw 6 --calib text.txt --windows 30 --window-tokens 64 --eval-chunks 2 -o out
outputs=
cd .. && left_alone "$@" && cd killed || exit 1
kills 3 "$@"
completes "$@"
for file in ../alone/out/*; do
    name=$(basename "$file")
    case $name in
        *.html | *eval.json) [ -s "out/$name" ] || fail "run: no $name" ;; # times of this machine
        run.json) ;;                                                       # inode and time of the model
        *) same "out/$name" "$file" 'run after kills' ;;
    esac
done
[ "$(ls ../alone/out | tr '\n' ' ')" = "$(ls out | tr '\n' ' ')" ] || fail "run left other files: $(ls out | tr '\n' ' ')"
cd .. || exit 1
finish
