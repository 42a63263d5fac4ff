# limits on the bytes read per token: met, impossible alone, impossible beside the budget's own limit; baselines
cat >profile.json <<'END'
{"schema": "optimum.profile/1", "tool": "t",
 "model": {"path": "m.gguf", "sha256": "", "arch": "qwen3moe", "params": 131072, "file_bytes": 262144,
  "hparams": {"n_layer": 1, "n_head": 4, "n_head_kv": 2, "n_expert": 4, "n_expert_used": 1}},
 "calibration": {"files": [{"sha256": ""}], "windows": 8, "window_tokens": 512, "seed": 0, "tokens": 4096},
 "container": {"metadata_bytes": 1024, "alignment": 32, "fixed": [{"name": "output_norm.weight", "bytes": 64}]},
 "memory": {"kv_bytes_per_token": [512], "window": [0], "compute_bytes": 77},
 "method": "fisher",
 "tensors": [
  {"name": "blk.0.attn_q.weight", "role": "attn_q", "layer": 0, "shape": [256, 256], "experts": 1,
   "params": 65536, "source": "bf16", "fisher_trace": 1,
   "types": {"q4_K": {"bytes": 36864, "nats": 0.5}, "q8_0": {"bytes": 69632, "nats": 0.1},
    "bf16": {"bytes": 131072, "nats": 0}}},
  {"name": "blk.0.ffn_up_exps.weight", "role": "ffn_up_exps", "layer": 0, "shape": [64, 256], "experts": 4,
   "params": 65536, "source": "bf16", "fisher_trace": 1,
   "expert": {"trace": [1, 2, 3, 40], "tokens": [1024, 1024, 1024, 1024], "router_weight": [1, 1, 1, 1],
    "windows": [8, 8, 8, 8]},
   "types": {"q4_K": {"bytes": 36864, "nats": 0.4}, "q8_0": {"bytes": 69632, "nats": 0.1},
    "bf16": {"bytes": 131072, "nats": 0}}}]}
END
try() {
    echo "\$ allocate $*"
    "$OPTIMUM" allocate profile.json "$@" >out
    code=$?
    [ $code -eq 0 ] && grep -E '^(Plan|Budget|Reads|That)' out
    echo "= $code"
}
# one matrix in q8_0: the stack costs less to read, the matrix loses more
try --size 110000
try --size 110000 --max-active-bytes 60000
try --size 110000 --min-tok-s 1000 --bandwidth 60MB/s
try --max-active-bytes 60000
try --size 110000 --max-active-bytes 46143
try --size 110000 --max-active-bytes 46144
try --size 1000 --max-active-bytes 60000
try --size 1000 --max-active-bytes 40000
try --size 110000 --max-active-bytes 60000 --min-tok-s 3
try --plan uniform:q8_0 --max-active-bytes 60000
try --size 110000 --method mopeq
try --method mopeq
"$OPTIMUM" allocate profile.json --size 110000 --min-tok-s 1e-3 --json | grep -cE '"(active_bytes|bandwidth_bytes_s|tok_s_ceiling)"'
"$OPTIMUM" allocate profile.json --sweep --json | grep -c '"active_bytes"'
