# Memory runs out at some point of every stage: one line that says so, also where llama.cpp asserts or throws.
. "$(dirname -- "$0")/lib.sh"
(ulimit -v 150000 && "$OPTIMUM" version >.io/out 2>.io/err) || skip 'no limit on memory here, or a build with sanitizers'
text 60000 >text.txt
tool write m.gguf
expect 0 '' profile m.gguf --calib text.txt --windows 4 --window-tokens 128 -o p.json
expect 0 '' allocate p.json --bpw 5 -o a.json
expect 0 '' quantize m.gguf -a a.json -o q.gguf

squeezed() { # KILOBYTES VERB ARGS...
    (
        ulimit -v "$1"
        shift
        survive "$@"
        exit "$failed"
    ) || failed=1
    [ ! -s .io/err ] || grep '^optimum: error' .io/err >>lines
    rm -rf x.json x.stats.gguf x.checkpoint x.gguf x.omref out
}

# from where the program does not even start to where all goes well
smallest=20000
while ! (ulimit -v $smallest && "$OPTIMUM" version >.io/out 2>&1); do
    smallest=$((smallest + 2000))
done
for more in 1 2 4 6 8 10 12 14 16 18 20 23 26 29 32 36 40 45 50; do
    kb=$((smallest + more * 1000))
    squeezed $kb profile m.gguf --calib text.txt --windows 2 --window-tokens 512 --types q8_0 -o x.json
    squeezed $kb quantize m.gguf -a a.json -o x.gguf
    squeezed $kb eval q.gguf -r m.gguf --text text.txt --ctx 512 --chunks 1 --no-speed
    squeezed $kb eval -r m.gguf --text text.txt --ctx 512 --chunks 2 --reference-out x.omref
    squeezed $kb allocate p.json --bpw 5 -o x.json
done
sort lines | uniq -c | sort -rn
grep -q 'out of memory' lines && grep -q 'memory is short' lines || fail 'the limits were never felt'
finish
