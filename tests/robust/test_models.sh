# Models that are well-formed GGUF but hostile, damaged or not supported.
. "$(dirname -- "$0")/lib.sh"
text 20000 >text.txt
tool write good.gguf

profile() { # CODE PATTERN MODEL
    rm -f p.json p.stats.gguf p.checkpoint
    expect "$1" "$2" profile "$3" --calib text.txt --windows 2 --window-tokens 32 -o p.json
    [ "$1" = 0 ] || [ -z "$(find . -name 'p.*')" ] || fail "$3: left $(find . -name 'p.*' | tr '\n' ' ')"
}

evaluate() { # CODE PATTERN MODEL
    expect "$1" "$2" eval "$3" -r good.gguf --text text.txt --ctx 32 --chunks 2 --no-speed
}

# OP CODE PATTERN [CODE PATTERN of eval]
hostile() {
    echo "--- $1"
    tool edit good.gguf bad.gguf "$1"
    profile "$2" "$3" bad.gguf
    evaluate "${4:-$2}" "${5:-$3}" bad.gguf
    survive inspect bad.gguf --memory 1GB
}

quantized_nan() { # TENSOR VALUE: bad.gguf through an allocation that claims to be its own
    old=$(sed -n 's/.*"model_sha256": "\([0-9a-f]*\)".*/\1/p' ga.json)
    expect 1 '*has sha256*' quantize bad.gguf -a ga.json -o bad-q.gguf
    new=$(sed -n 's/.*bad.gguf has sha256 \([0-9a-f]*\),.*/\1/p' .io/err)
    sed "s/$old/$new/" ga.json >ba.json
    case $1-$2 in
        blk.0.attn_norm-1e38) expect 0 '' quantize bad.gguf -a ba.json --imatrix g.stats.gguf -o bad-q.gguf ;;
        *-1e38) survive quantize bad.gguf -a ba.json --imatrix g.stats.gguf -o bad-q.gguf ;;
        *) expect 1 "*$1.weight: row *" quantize bad.gguf -a ba.json --imatrix g.stats.gguf -o bad-q.gguf ;;
    esac
    [ "$2" = 1e38 ] || [ ! -e bad-q.gguf ] || fail "$1 $2: a file was written"
    rm -f bad-q.gguf
}

# parameters that make llama.cpp assert: our line, not its abort
gave_up='*bad.gguf: llama.cpp gave up: *'
hostile u32:llama.expert_count=4294967295 1 "$gave_up"
hostile u32:llama.expert_count=4 1 "$gave_up"
hostile u32:llama.expert_used_count=9 1 "$gave_up"
hostile f32:llama.attention.layer_norm_rms_epsilon=nan 1 "$gave_up"
hostile f32:llama.attention.layer_norm_rms_epsilon=-1 1 "$gave_up"
hostile str:tokenizer.ggml.model=bert 1 "$gave_up"
hostile u32:llama.block_count=600 1 '*expected llama.block_count from 1 to 512, found 600' 1 "$gave_up"
hostile u32:llama.block_count=0 1 '*expected llama.block_count from 1 to 512, found 0' 1 "$gave_up"

# parameters that do not fit the tensors
shape='*bad.gguf: llama.cpp cannot load this model: *wrong shape*'
hostile u32:llama.attention.head_count=0 1 "$shape"
hostile u32:llama.attention.head_count=4000000000 1 "$shape"
hostile u32:llama.attention.head_count_kv=0 1 "$shape"
hostile u32:llama.embedding_length=0 1 "$shape"
hostile u32:llama.embedding_length=4294967295 1 "$shape"
hostile u32:llama.feed_forward_length=100 1 "$shape"
hostile u32:llama.rope.dimension_count=31 1 '*invalid n_rot: 31*'
hostile u32:llama.attention.key_length=4294967295 1 '*n_rot*'
hostile u32:llama.block_count=1 1 '*wrong number of tensors*'
hostile u32:llama.block_count=3 1 '*blk.2.attn_norm.weight*not found*'
hostile remove:blk.0.attn_q.weight 1 '*blk.0.attn_q.weight*not found*'
hostile new:extra.weight=32 1 '*wrong number of tensors*'
hostile f32:llama.rope.freq_base=nan 1 '*not finite*'
hostile str:llama.attention.head_count=x 1 '*llama.attention.head_count has wrong type*'
hostile drop:tokenizer.ggml.tokens 1 '*cannot find tokenizer vocab*'
hostile u32:tokenizer.ggml.bos_token_id=4294967295 0 ''
hostile u32:llama.context_length=0 0 ''
hostile u32:split.count=3 1 '*first of 3 parts*'

# types that llama.cpp cannot use there: it would call a function that does not exist
tool write wide.gguf embd=256 ff=256 layers=1
for type in q8_1 q8_K i8 i32 f64; do
    for tensor in token_embd output blk.0.attn_q; do
        tool edit wide.gguf bad.gguf "type:$tensor.weight=$type"
        profile 1 "*bad.gguf: tensor $tensor.weight is $type, a type that llama.cpp cannot multiply with*" bad.gguf
        expect 1 "*tensor $tensor.weight is $type*" eval bad.gguf -r wide.gguf --text text.txt --ctx 32 --chunks 1
        expect 1 "*tensor $tensor.weight is $type*" eval wide.gguf -r bad.gguf --text text.txt --ctx 32 --chunks 1
    done
    tool edit wide.gguf bad.gguf "type:blk.0.attn_norm.weight=$type"
    profile 1 "$gave_up" bad.gguf
done

# not supported: exit code 5, what it is, and what else to do
hostile str:tokenizer.ggml.model=nonsense 5 "*unknown tokenizer: 'nonsense'*newer Optimum"
hostile str:tokenizer.ggml.model=rwkv 5 '*RWKV models are not supported' 0 ''
hostile str:general.architecture=nonsense 5 "*'nonsense' without nonsense.block_count*" \
    5 "*unknown model architecture: 'nonsense'*newer Optimum"
tool edit good.gguf bad.gguf str:general.architecture=nonsense u32:nonsense.block_count=2
profile 5 "*unknown model architecture: 'nonsense'*newer Optimum" bad.gguf
tool write a.gguf arch=apertus layers=1
tool edit a.gguf apertus.gguf remove:blk.0.ffn_gate.weight new:blk.0.attn_q_norm.weight=32 \
    new:blk.0.attn_k_norm.weight=32 f32:xielu.alpha_n=0.8 f32:xielu.alpha_p=0.8 f32:xielu.beta=0.5 f32:xielu.eps=-1e-6
profile 5 '*no gradient rule for op*XIELU*use --method measured*' apertus.gguf
expect 0 '' profile apertus.gguf --method measured --types q8_0 --calib text.txt --windows 1 --window-tokens 32 -o am.json
tool write a.gguf arch=mamba layers=1
tool edit a.gguf mamba.gguf remove:blk.0.attn_q.weight remove:blk.0.attn_k.weight remove:blk.0.attn_v.weight \
    remove:blk.0.attn_output.weight remove:blk.0.ffn_norm.weight remove:blk.0.ffn_gate.weight \
    remove:blk.0.ffn_up.weight remove:blk.0.ffn_down.weight u32:mamba.ssm.conv_kernel=4 u32:mamba.ssm.inner_size=256 \
    u32:mamba.ssm.state_size=16 u32:mamba.ssm.time_step_rank=8 new:blk.0.ssm_in.weight=128x512 \
    new:blk.0.ssm_conv1d.weight=4x256 new:blk.0.ssm_conv1d.bias=256 new:blk.0.ssm_x.weight=256x40 \
    new:blk.0.ssm_dt.weight=8x256 new:blk.0.ssm_dt.bias=256 new:blk.0.ssm_a=16x256 new:blk.0.ssm_d=256 \
    new:blk.0.ssm_out.weight=256x128
profile 5 '*mamba models are recurrent or have an encoder*llama-quantize*' mamba.gguf

# NaN and infinity in every role, in one weight of the tensor only
tool write tied.gguf tied=1
for tensor in token_embd blk.0.attn_norm blk.0.attn_q blk.1.attn_k blk.0.attn_v blk.1.attn_output blk.0.ffn_norm \
    blk.1.ffn_gate blk.0.ffn_up blk.1.ffn_down output_norm output; do
    for value in nan inf; do
        echo "--- $tensor $value"
        tool edit good.gguf bad.gguf "one:$tensor.weight=$value"
        profile 1 "*$tensor.weight: row * holds a weight that is not a finite number*" bad.gguf
    done
done
tool edit tied.gguf bad.gguf one:token_embd.weight=nan
profile 1 '*token_embd.weight: row 383 holds a weight that is not*' bad.gguf
evaluate 1 '*token_embd.weight: row 383 holds a weight that is not*' bad.gguf
expect 1 '*bad.gguf: token_embd.weight: row 383 holds a weight that is not*' eval good.gguf -r bad.gguf --text text.txt --ctx 32 --chunks 2

# the same when the weights are already known to be quantized: another program put the NaN there
expect 0 '' profile good.gguf --calib text.txt --windows 2 --window-tokens 32 -o g.json
expect 0 '' allocate g.json --bpw 5 -o ga.json
for tensor in blk.0.attn_norm blk.0.attn_q token_embd; do
    for value in nan inf 1e38; do
        tool edit good.gguf bad.gguf "one:$tensor.weight=$value"
        quantized_nan "$tensor" "$value"
    done
done

# zeros are fine: a dead row, a dead matrix
tool edit good.gguf zero.gguf row:blk.0.attn_q.weight=0 fill:blk.1.ffn_up.weight=0 row:token_embd.weight=0
profile 0 '' zero.gguf
expect 0 '' allocate p.json --bpw 5 -o a.json
expect 0 '' quantize zero.gguf -a a.json -o q.gguf
finish
