# No room: every command that writes says which file and why, leaves the older file as it was and no part of the new one;
# with room again the same command finishes. Once by a limit on the size of files (ulimit -f, EFBIG), and once on a
# file system that is really full (ENOSPC) where a small one can be mounted.
. "$(dirname -- "$0")/lib.sh"
text 60000 >text.txt
tool write m.gguf
expect 0 '' profile m.gguf --calib text.txt --windows 20 --window-tokens 64 -o p.json
expect 0 '' allocate p.json --bpw 5 -o a.json
expect 0 '' quantize m.gguf -a a.json -o q.gguf
expect 0 '' eval q.gguf -r m.gguf --text text.txt --ctx 64 --chunks 4 --no-speed -o e.json

# limited BLOCKS OUTPUT PATTERN VERB ARGS...: files of at most BLOCKS * 512 bytes; OUTPUT must stay as it was
limited() {
    blocks=$1 output=$2 pattern=$3
    shift 3
    echo "old $output" >"$output"
    (ulimit -f "$blocks" && optimum "$@" >.io/out 2>.io/err)
    check_end $? 1 "$pattern" "ulimit -f $blocks; $*"
    [ "$(cat "$output")" = "old $output" ] || fail "$*: $output was touched"
    rm -f "$output"
}

limited 8 x.json '*cannot write x.checkpoint: File too large' profile m.gguf --calib text.txt --windows 20 --window-tokens 64 -o x.json
[ ! -e x.stats.gguf ] || fail 'profile left statistics'
limited 8 x.json '*cannot write x.checkpoint.cache: File too large' profile m.gguf --method measured --types q8_0 \
    --calib text.txt --windows 2 --window-tokens 64 -o x.json
limited 1 x.json '*cannot write x.json: File too large' allocate p.json --bpw 5 -o x.json
limited 1 x.gguf '*cannot write x.gguf: File too large' quantize m.gguf -a a.json -o x.gguf
limited 200 x.gguf '*cannot write x.gguf: File too large' quantize m.gguf -a a.json -o x.gguf
limited 1 x.json '*cannot write x.json: File too large' eval q.gguf -r m.gguf --text text.txt --ctx 64 --chunks 2 --no-speed -o x.json
limited 500 x.omref '*cannot write x.omref: File too large' eval -r m.gguf --text text.txt --ctx 64 --reference-out x.omref
limited 8 x.html '*cannot write x.html: File too large' report -p p.json -a a.json -o x.html
set -- run m.gguf --bpw 5 --calib text.txt --windows 8 --window-tokens 64 --eval-chunks 2 -o out
for blocks in 8 100 200 500 900; do
    (ulimit -f $blocks && optimum "$@" >.io/out 2>.io/err)
    code=$?
    [ $code = 0 ] || check_end $code 1 '*out/*: File too large' "ulimit -f $blocks; $*"
done
expect 0 '' "$@"

full=$work/full
mkdir "$full"
mounted=
# shellcheck disable=SC2317
unmount() {
    [ -z "$mounted" ] || umount "$full"
    rm -rf "$work"
}
trap unmount EXIT
if [ "$(uname)" = Linux ] && mount -t tmpfs -o size=300k tmpfs "$full" 2>/dev/null; then
    mounted=1
else
    echo 'skipped: a file system of 300 kB (cannot be mounted here)'
    finish
fi

# full_at KILOBYTES OUTPUT PATTERN VERB ARGS...: run with so much room left
full_at() {
    output=$2 pattern=$3 left=$1
    shift 3
    rm -rf "$full"/*
    echo old >"$full/$output"
    head -c $(((300 - left - 4) * 1024)) /dev/zero >"$full/filler"
    optimum "$@" >.io/out 2>.io/err
    check_end $? 1 "$pattern" "$left kB left: $*"
    [ "$(cat "$full/$output")" = old ] || fail "$*: $output was touched"
    [ "$(ls "$full" | tr '\n' ' ')" = "$(printf '%s\n' filler "$output" | sort | tr '\n' ' ')" ] ||
        fail "$*: left $(ls "$full" | tr '\n' ' ')"
}

full_at 20 p.json '*cannot write */full/p.checkpoint: No space left on device' \
    profile m.gguf --calib text.txt --windows 8 --window-tokens 64 -o "$full/p.json"
full_at 100 q.gguf '*/full/q.gguf needs 215.23 KB*free some space*' quantize m.gguf -a a.json -o "$full/q.gguf"
full_at 100 r.omref '*/full/r.omref needs *' eval -r m.gguf --text text.txt --ctx 64 --reference-out "$full/r.omref"
full_at 0 a.json '*cannot write */full/a.json: No space left on device' allocate p.json --bpw 5 -o "$full/a.json"
full_at 0 x.txt '*cannot write */full/x.txt: No space left on device' export a.json --to llama.cpp -o "$full/x.txt"
full_at 0 e.json '*cannot write */full/e.json: No space left on device' \
    eval q.gguf -r m.gguf --text text.txt --ctx 64 --chunks 2 --no-speed -o "$full/e.json"
full_at 12 x.html '*cannot write */full/x.html: No space left on device' report -p p.json -a a.json -o "$full/x.html"
rm -rf "$full"/*
head -c 100000 /dev/zero >"$full/filler"
expect 1 '*' run m.gguf --bpw 5 --calib text.txt --windows 8 --window-tokens 64 --eval-chunks 2 -o "$full/out"
finish
