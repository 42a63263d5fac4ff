# Every kind of input file cut short and with bits flipped, through the real program: an error line or a result, never a
# crash, never a file that should not be there. The fuzz targets try many more on the readers alone.
. "$(dirname -- "$0")/lib.sh"
text 20000 >text.txt
tool write m.gguf layers=1 embd=64 ff=96 head=2 head_kv=1 vocab=300
expect 0 '' profile m.gguf --calib text.txt --windows 4 --window-tokens 32 -o p.json --imatrix-out i.gguf
expect 0 '' allocate p.json --bpw 7 -o a.json
optimum allocate p.json --bpw 7 --sweep --json >s.json 2>.io/err
expect 0 '' quantize m.gguf -a a.json -o q.gguf
expect 0 '' eval q.gguf -r m.gguf --text text.txt --ctx 32 --chunks 2 --no-speed -o e.json --reference-out r.omref

# damage GOOD BAD WITHIN N COMMAND: N cuts and N flips in the first WITHIN bytes
damage() {
    good=$1 bad=$2 within=$3 n=$4 command=$5
    i=0
    while [ $i -lt "$n" ]; do
        random "$within"
        head -c "$number" "$good" >"$bad"
        $command
        cp "$good" "$bad"
        for bits in 1 2; do
            random "$within"
            at=$number
            random 8
            tool flip "$bad" "$at" "$number"
        done
        $command
        i=$((i + 1))
    done
}

size() { wc -c <"$1" | tr -d ' '; }

inspect_() { survive inspect bad.gguf --memory 1GB; }
profile_() { survive profile bad.gguf --calib text.txt --windows 1 --window-tokens 32 -o out.json; rm -f out.*; }
eval_() { survive eval bad.gguf -r m.gguf --text text.txt --ctx 32 --chunks 1 --no-speed; }
quantize_() { # a damaged model has another hash, so nothing may be written
    survive quantize bad.gguf -a a.json -o out.gguf
    [ ! -e out.gguf ] || cmp -s bad.gguf m.gguf || { fail 'quantize of a damaged model wrote a file'; rm -f out.gguf; }
}
header=$(($(size m.gguf) - 4 * (300 * 64 * 2 + 64 * 96 * 3 + 64 * 32 * 6 + 64 * 3)))
[ "$header" -gt 1000 ] && [ "$header" -lt 20000 ] || fail "header of $header bytes?"
damage m.gguf bad.gguf "$header" 15 inspect_
damage m.gguf bad.gguf "$header" 10 profile_
damage m.gguf bad.gguf 1500 10 profile_ # the parameters
damage m.gguf bad.gguf "$header" 10 eval_
damage m.gguf bad.gguf "$(size m.gguf)" 10 quantize_
damage q.gguf bad.gguf "$(size q.gguf)" 6 eval_

statistics_() { survive quantize m.gguf -a a.json --stats bad.gguf -o out.gguf; rm -f out.gguf; }
imatrix_() { survive quantize m.gguf -a a.json --imatrix bad.gguf -o out.gguf; rm -f out.gguf; }
damage p.stats.gguf bad.gguf "$(size p.stats.gguf)" 10 statistics_
damage i.gguf bad.gguf 2000 10 imatrix_

reference_() { survive eval q.gguf -r bad.omref --text text.txt --ctx 32 --no-speed; }
damage r.omref bad.omref 512 10 reference_
damage r.omref bad.omref "$(size r.omref)" 8 reference_

allocate_() { survive allocate bad.json --bpw 7 -o out.json; rm -f out.json; }
export_() { survive export bad.json --to llama.cpp -o out.txt; rm -f out.txt; }
report_p() { survive report -p bad.json -a a.json -o out.html; rm -f out.html; }
report_e() { survive report -p p.json -a a.json --eval bad.json -o out.html; rm -f out.html; }
report_s() { survive report -p p.json -a a.json --sweep bad.json -o out.html; rm -f out.html; }
damage p.json bad.json "$(size p.json)" 8 allocate_
damage p.json bad.json "$(size p.json)" 5 report_p
damage a.json bad.json "$(size a.json)" 8 export_
damage e.json bad.json "$(size e.json)" 8 report_e
damage s.json bad.json "$(size s.json)" 8 report_s

# a damaged checkpoint is no checkpoint
checkpoint_() {
    cp bad.checkpoint c.checkpoint
    expect 0 '' profile m.gguf --calib text.txt --windows 40 --window-tokens 32 --types q8_0,q4_0 -o c.json $method
    same c.json good-c.json "profile $method with a damaged checkpoint"
}
for method in '' '--method measured'; do
    # shellcheck disable=SC2086
    set -- profile m.gguf --calib text.txt --windows 40 --window-tokens 32 --types q8_0,q4_0 -o c.json $method
    expect 0 '' "$@"
    cp c.json good-c.json
    signalled 9 20 after c.checkpoint -- "$@"
    if [ $code = 137 ]; then
        cp c.checkpoint good.checkpoint
        damage good.checkpoint bad.checkpoint "$(size good.checkpoint)" 2 checkpoint_
    fi
    rm -f c.checkpoint
done

# what an interrupted run left may be damaged as well
run_() {
    survive run m.gguf --bpw 7 --calib text.txt --windows 4 --window-tokens 32 --eval-chunks 2 -o run --no-baselines
    cp good-run/* run/
}
expect 0 '' run m.gguf --bpw 7 --calib text.txt --windows 4 --window-tokens 32 --eval-chunks 2 -o run --no-baselines
cp -r run good-run
for file in run.json allocation.json profile.json eval.json curve.json reference.omref profile.stats.gguf; do
    damage good-run/$file run/$file "$(size good-run/$file)" 2 run_
done
finish
