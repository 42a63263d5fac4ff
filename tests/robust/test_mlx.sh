# quantize to a directory for mlx-lm: interrupted, killed, without room, from damaged shards, with little memory. The
# directory is complete under its name or not there; an older result stays until the new one is complete.
. "$(dirname -- "$0")/lib.sh"
seed=${OPTIMUM_SEED:-$$}
echo "seed $seed (OPTIMUM_SEED repeats it)"

# allocation OUT MODEL LAYERS TYPE SUFFIX: all matrices in one type; its size is asked of the program. SUFFIX: "_exps"
allocation() {
    {
        printf '{"schema":"optimum.allocation/1","to":"mlx","profile_path":"p.json","profile_sha256":"","plan":"uniform",'
        printf '"budget":{"kind":"none","bytes":0},"tensors":{"token_embd.weight":"%s"' "$4"
        layer=0
        while [ $layer -lt "$3" ]; do
            for name in attn_q attn_k attn_v attn_output "ffn_gate$5" "ffn_up$5" "ffn_down$5"; do
                printf ',"blk.%d.%s.weight":"%s"' $layer $name "$4"
            done
            layer=$((layer + 1))
        done
        printf '},"bytes":1,"bpw":4.0,"predicted_nats":0.0,"solver":{"status":"fixed","gap":0}}\n'
    } >"$1"
    optimum quantize "$2" -a "$1" -o none --dry-run >.io/out 2>.io/err
    bytes=$(sed -n 's/.*set "bytes" to \([0-9]*\);.*/\1/p' .io/err)
    sed "s/\"bytes\":1,/\"bytes\":$bytes,/" "$1" >.io/a && mv .io/a "$1"
}

# complete DIR: as the undisturbed run made it
complete() {
    for file in alone/*; do
        same "$1/${file#alone/}" "$file" "$1"
    done
    [ "$(ls alone)" = "$(ls "$1")" ] || fail "$1 holds $(ls "$1" | tr '\n' ' ')"
}

tool write-hf m model=qwen3 layers=2 embd=512 ff=1024 vocab=4000
allocation a.json m 2 mlx_4bit_g64 ''
expect 0 '' quantize m -a a.json -o alone
# the model card names its directory
mv alone out && expect 0 '' quantize m -a a.json -o out && mv out alone

echo '--- interrupted'
for old in '' kept; do
    times=4 hit=0
    while [ $times -gt 0 ]; do
        times=$((times - 1))
        rm -rf out
        [ -z "$old" ] || cp -r alone out
        random 400
        signalled 2 $((number + 20)) -- quantize m -a a.json -o out
        [ $code != 124 ] || fail 'quantize: more than 2 s to stop'
        if [ ! -s .io/err ]; then # the handlers are not there in the first moment
            continue
        elif [ $code = 0 ]; then
            complete out
            continue
        fi
        hit=$((hit + 1))
        check_end $code 130 '*interrupted*' 'quantize to MLX'
        if [ -n "$old" ]; then
            complete out
        elif [ -e out ]; then
            fail 'a directory of an interrupted run'
        fi
    done
    echo "$hit interrupted ${old:+with an older result}"
done

echo '--- killed'
rm -rf out
cp -r alone out
for ms in 40 80 150 250; do
    signalled 9 $ms -- quantize m -a a.json -o out
    complete out
done
expect 0 '' quantize m -a a.json -o out
complete out

echo '--- no room'
# limited BLOCKS PATTERN: files of at most BLOCKS * 512 bytes
limited() {
    rm -rf out
    for old in '' kept; do
        [ -z "$old" ] || cp -r alone out
        (ulimit -f "$1" && optimum quantize m -a a.json -o out >.io/out 2>.io/err)
        check_end $? 1 "$2" "ulimit -f $1${old:+, an older result}"
        if [ -n "$old" ]; then
            complete out
        elif [ -e out ]; then
            fail 'a directory without room'
        fi
    done
}
limited 1 '*cannot write out/config.json: File too large'
limited 8 '*cannot write out/model.safetensors: File too large'
limited 2000 '*cannot write out/model.safetensors: File too large'
full=$work/full
mkdir "$full"
mounted=
# shellcheck disable=SC2317
unmount() {
    [ -z "$mounted" ] || umount "$full"
    rm -rf "$work"
}
trap unmount EXIT
if [ "$(uname)" = Linux ] && mount -t tmpfs -o size=6000k tmpfs "$full" 2>/dev/null; then
    mounted=1
    size=$(sed -n 's/.*"bytes":\([0-9]*\),"bpw".*/\1/p' a.json)
    head -c $((6000 * 1024 - size / 2)) /dev/zero >"$full/filler"
    expect 1 '*/full/out needs *free some space*' quantize m -a a.json -o "$full/out"
    [ "$(ls "$full")" = filler ] || fail "left $(ls "$full" | tr '\n' ' ')"
    rm "$full/filler"
    # room for the weights, not for what comes after them
    head -c $((6000 * 1024 - size - 8192)) /dev/zero >"$full/filler"
    expect 1 '*No space left on device' quantize m -a a.json -o "$full/out"
    [ "$(ls "$full")" = filler ] || fail "left $(ls "$full" | tr '\n' ' ')"
else
    echo 'skipped: a full file system (cannot be mounted here)'
fi

echo '--- damaged'
cp -r m broken
size=$(wc -c <m/model.safetensors)
for bytes in 0 4 1000 $((size / 2)) $((size - 1)); do
    head -c "$bytes" m/model.safetensors >broken/model.safetensors
    expect 1 '*broken/model.safetensors*' quantize broken -a a.json -o out2
done
rm broken/model.safetensors
expect 1 '*broken*' quantize broken -a a.json -o out2
cp m/model.safetensors broken
rm broken/tokenizer.json
expect 1 '*no tokenizer*' quantize broken -a a.json -o out2
cp m/tokenizer.json broken
printf '{"model_type": "qwen3", ' >broken/config.json
expect 1 '*config.json*' quantize broken -a a.json -o out2
sed 's/qwen3/mamba/' m/config.json >broken/config.json
expect 5 '*mamba*' quantize broken -a a.json -o out2
cp m/config.json broken
times=30
while [ $times -gt 0 ]; do
    times=$((times - 1))
    cp m/model.safetensors broken
    random 2500 # of the header, most of it
    tool flip broken/model.safetensors "$number" $((number % 8))
    survive quantize broken -a a.json -o out2
    rm -rf out2
done
expect 1 '*is an allocation for*' quantize m -a a.json -o out2 --to gguf
expect 2 '*is no Hugging Face directory*' quantize a.json -a a.json -o out2 --to mlx

echo '--- the model is replaced while it is read: the kernel sends SIGBUS'
cp -r m victim
"$OPTIMUM" quantize victim -a a.json -o v -t 1 >.io/out 2>.io/err &
sleep 0.1
: >victim/model.safetensors
wait $!
code=$?
[ $code = 0 ] || check_end $code 1 '*' 'quantize of a model that shrinks'
[ $code = 0 ] || [ ! -e v ] || fail 'a result of a model that shrank'

echo '--- memory'
if ! (ulimit -v 150000 && "$OPTIMUM" version >.io/out 2>.io/err) || [ ! -r /proc/self/status ]; then
    echo 'skipped: no limit on memory here, or a build with sanitizers'
    finish
fi
# one stack of experts has 96 MiB in F32; quantize holds a few rows
tool write-hf big model=qwen3_moe layers=1 embd=1024 ff=768 expert=32 vocab=1000 head_dim=64
allocation b.json big 1 mlx_3bit_g64 _exps
"$TOOL" memory anon 32 "$OPTIMUM" quantize big -a b.json -o large -t 2 >.io/out 2>.io/err
code=$?
tail -n 1 .io/err
[ "$code" = 0 ] || { fail "quantize: exit code $code"; cat .io/err; }
[ -s large/model.safetensors ] || fail 'quantize wrote nothing'
finish
