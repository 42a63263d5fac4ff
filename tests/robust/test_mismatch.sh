# Files that do not belong together, edited by hand, missing, or not what their name says.
. "$(dirname -- "$0")/lib.sh"
text 20000 >text.txt
tool write m.gguf
tool write other.gguf layers=1
tool edit m.gguf twin.gguf one:output.weight=0 # same shapes, other weights
tool write vocab.gguf vocab=512
expect 0 '' profile m.gguf --calib text.txt --windows 4 --window-tokens 32 -o p.json
expect 0 '' profile other.gguf --calib text.txt --windows 4 --window-tokens 32 -o po.json
expect 0 '' allocate p.json --bpw 5 -o a.json
expect 0 '' allocate po.json --bpw 6 -o ao.json
expect 0 '' quantize m.gguf -a a.json -o q.gguf
expect 0 '' eval q.gguf -r m.gguf --text text.txt --ctx 32 --chunks 2 --no-speed -o e.json --reference-out r.omref
expect 0 '' eval other.gguf -r m.gguf --text text.txt --ctx 32 --chunks 2 --no-speed -o eo.json
mkdir folder
printf '\000\001\377\376binary\000' >binary
: >empty

quantize() { # CODE PATTERN MODEL ALLOCATION [OPTIONS]
    code=$1 pattern=$2 model=$3 allocation=$4
    shift 4
    rm -f out.gguf
    expect "$code" "$pattern" quantize "$model" -a "$allocation" -o out.gguf "$@"
    [ "$code" = 0 ] || [ ! -e out.gguf ] || fail "quantize $model -a $allocation: left out.gguf"
}

edited() { # SED: a.json changed by hand
    sed "$1" a.json >edited.json
    cmp -s a.json edited.json && fail "sed '$1' changed nothing"
}

echo '--- the wrong model'
quantize 1 '*m.gguf has sha256 *, the allocation was made for *' m.gguf ao.json
quantize 1 '*twin.gguf has sha256 *, the allocation was made for *' twin.gguf a.json
quantize 1 '*' other.gguf a.json
tool edit m.gguf less.gguf remove:blk.1.ffn_up.weight
quantize 1 '*blk.1.ffn_up.weight*' less.gguf a.json
tool edit m.gguf more.gguf new:blk.1.extra.weight=128x128
quantize 1 '*more.gguf has sha256 *, the allocation was made for *' more.gguf a.json

echo '--- the wrong statistics'
quantize 1 '*po.stats.gguf was measured on the model *' m.gguf a.json --stats po.stats.gguf
quantize 1 '*' m.gguf a.json --stats m.gguf
quantize 1 '*' m.gguf a.json --stats text.txt
quantize 1 '*' m.gguf a.json --stats empty
quantize 0 '' m.gguf a.json --imatrix po.stats.gguf # importance of another model may be asked for
quantize 1 '*none.gguf: No such file*' m.gguf a.json --stats none.gguf
mv p.stats.gguf moved.gguf
quantize 1 '*p.stats.gguf: the statistics that the allocation names are gone*' m.gguf a.json
cp po.stats.gguf p.stats.gguf
quantize 1 '*p.stats.gguf*' m.gguf a.json
mv moved.gguf p.stats.gguf

echo '--- an allocation edited by hand'
edited 's/"blk.0.attn_q.weight": "[a-z0-9_]*"/"blk.0.attn_q.weight": "q9_9"/'
quantize 1 '*edited.json*blk.0.attn_q.weight*q9_9*' m.gguf edited.json
edited 's/"blk.0.attn_q.weight": "[a-z0-9_]*"/"blk.0.attn_q.weight": "q4_K"/' # 128 columns, blocks of 256
quantize 1 '*blk.0.attn_q.weight*q4_K*256*' m.gguf edited.json
edited 's/"blk.0.attn_q.weight": "[a-z0-9_]*"/"blk.0.attn_q.weight": "q8_0"/'
quantize 1 '*set "bytes" to*' m.gguf edited.json
edited 's/blk.0.attn_q.weight/blk.9.attn_q.weight/'
quantize 1 '*blk.9.attn_q.weight*' m.gguf edited.json
edited '/blk.0.attn_q.weight/d'
quantize 1 '*' m.gguf edited.json
edited 's/"blk.0.attn_k.weight"/"blk.0.attn_q.weight"/'
quantize 1 '*duplicate object key*' m.gguf edited.json
edited 's/optimum.allocation.1/optimum.allocation\/2/'
quantize 1 '*optimum.allocation/2*' m.gguf edited.json
edited 's/"bytes": \([0-9]*\),$/"bytes": -1,/'
quantize 1 '*bytes*' m.gguf edited.json
edited 's/"model_sha256": "./"model_sha256": "z/'
quantize 1 '*model_sha256*' m.gguf edited.json

echo '--- files of another kind'
for file in p.json e.json m.gguf text.txt empty binary folder none; do
    quantize 1 '*' m.gguf "$file"
    expect 1 '*' export "$file" --to llama.cpp -o out.txt
    expect 1 '*' report -p p.json -a "$file" -o out.html
done
for file in a.json e.json m.gguf p.stats.gguf text.txt empty binary folder none; do
    expect 1 '*' allocate "$file" --bpw 5 -o out.json
    expect 1 '*' report -p "$file" -a a.json -o out.html
done
for file in a.json p.stats.gguf text.txt empty binary folder none r.omref; do
    expect 1 '*' inspect "$file"
    expect 1 '*' profile "$file" --calib text.txt -o out.json
    expect 1 '*' eval "$file" -r m.gguf --text text.txt --ctx 32 --no-speed -o out.json
    quantize 1 '*' "$file" a.json
    expect 1 '*' run "$file" --bpw 5 -o run
done
for file in a.json p.stats.gguf text.txt empty binary folder none; do
    expect 1 '*' eval q.gguf -r "$file" --text text.txt --ctx 32 --no-speed -o out.json
done
[ ! -e out.json ] && [ ! -e out.txt ] && [ ! -e out.html ] || fail 'an output of a failed command'
[ ! -d run ] || [ -z "$(ls run)" ] || fail "run left $(ls run)"

echo '--- reports of different runs'
expect 1 '*' report -p po.json -a a.json -o out.html
expect 1 '*' report -p p.json -a a.json --eval eo.json -o out.html
expect 1 '*' report -p p.json -a a.json --eval p.json -o out.html

echo '--- evaluation: another vocabulary, another text, another window'
expect 1 '*vocab*' eval vocab.gguf -r m.gguf --text text.txt --ctx 32 --chunks 2 --no-speed
expect 1 '*vocab*' eval vocab.gguf -r r.omref --text text.txt --no-speed
head -c 15000 text.txt >shorter.txt
expect 1 '*r.omref*' eval q.gguf -r r.omref --text shorter.txt --no-speed
expect 2 '*r.omref*' eval q.gguf -r r.omref --text text.txt --ctx 64 --no-speed
expect 2 '*r.omref*' eval q.gguf -r r.omref --text text.txt --chunks 5 --no-speed

echo '--- texts'
head -c 40 text.txt >short.txt
head -c 5000 /dev/zero >zeros.txt
awk 'BEGIN { for (i = 0; i < 3000; i++) printf "%c%c", 255, 128 + i % 64 }' >bytes.txt
for file in short.txt empty; do
    expect 2 "*" profile m.gguf --calib "$file" -o out.json --window-tokens 64
    expect 2 "*" eval q.gguf -r m.gguf --text "$file" --ctx 64
    expect 2 '*' run m.gguf --bpw 5 --calib "$file" -o run
done
for file in folder none; do
    expect 1 "*$file*" profile m.gguf --calib "$file" -o out.json
    expect 1 "*$file*" eval q.gguf -r m.gguf --text "$file"
    expect 1 "*$file*" run m.gguf --bpw 5 --calib "$file" -o run
done
for file in zeros.txt bytes.txt m.gguf; do # whatever it is, it has tokens
    expect 0 '' profile m.gguf --calib "$file" -o pb.json --windows 2 --window-tokens 32
    expect 0 '' eval q.gguf -r m.gguf --text "$file" --ctx 32 --chunks 2 --no-speed
done

echo '--- outputs'
expect 1 '*nowhere/out.json*No such file*' profile m.gguf --calib text.txt -o nowhere/out.json
expect 1 '*cannot write folder*' profile m.gguf --calib text.txt -o folder
expect 1 '*nowhere*' eval q.gguf -r m.gguf --text text.txt -o nowhere/e.json
expect 1 '*nowhere*' eval -r m.gguf --text text.txt --reference-out nowhere/r.omref
expect 1 '*text.txt*not a directory*' quantize m.gguf -a a.json -o text.txt/q.gguf
expect 1 '*text.txt*' run m.gguf --bpw 5 -o text.txt
for file in m.gguf text.txt; do
    expect 2 "*$file would be overwritten*" profile m.gguf --calib text.txt -o "$file"
    expect 2 "*$file would be overwritten*" profile m.gguf --calib text.txt -o out.json --stats-out "$file"
    expect 2 "*$file would be overwritten*" eval q.gguf -r m.gguf --text text.txt -o "$file"
    expect 2 "*$file would be overwritten*" eval -r m.gguf --text text.txt --reference-out "./$file"
done
ln -s m.gguf link.gguf
expect 2 '*would be overwritten*' profile m.gguf --calib text.txt -o out.json --stats-out out.json
expect 2 '*p.json would be overwritten*' allocate p.json --bpw 5 -o p.json
expect 2 '*a.json would be overwritten*' export a.json --to llama.cpp -o a.json
expect 2 '*m.gguf would be overwritten*' quantize m.gguf -a a.json -o link.gguf
expect 2 '*p.json would be overwritten*' report -p p.json -a a.json -o ./p.json
mkdir texts
cp text.txt texts/calib.txt
expect 2 '*texts/calib.txt would be overwritten*' run m.gguf --bpw 5 --calib texts/calib.txt -o texts
same text.txt texts/calib.txt 'run'
[ ! -e out.json ] || fail 'an output of a failed command'
if [ "$(id -u)" != 0 ]; then
    mkdir closed && chmod a-w closed
    expect 1 '*closed*ermission denied' profile m.gguf --calib text.txt -o closed/p.json
    expect 1 '*closed*ermission denied' quantize m.gguf -a a.json -o closed/q.gguf
    chmod u+w closed
fi
finish
