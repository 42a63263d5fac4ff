# banks of experts: only for MLX, not beside rules that do not know them, and not without statistics; export refuses
cat >profile.json <<'END'
{"schema": "optimum.profile/1", "tool": "t",
 "model": {"path": "m.gguf", "sha256": "", "arch": "qwen3moe", "params": 65536, "file_bytes": 131072,
  "hparams": {"n_layer": 1, "n_head": 4, "n_head_kv": 2, "n_expert": 4, "n_expert_used": 1}},
 "calibration": {"files": [{"sha256": ""}], "windows": 8, "window_tokens": 512, "seed": 0, "tokens": 4096},
 "container": {"metadata_bytes": 1024, "alignment": 32, "fixed": [],
  "mlx": {"metadata_bytes": 1000, "fixed": []}},
 "memory": {"kv_bytes_per_token": [512], "window": [0], "compute_bytes": 77},
 "method": "fisher",
 "tensors": [
  {"name": "blk.0.ffn_up_exps.weight", "role": "ffn_up_exps", "layer": 0, "shape": [64, 256], "experts": 4,
   "params": 65536, "source": "bf16", "fisher_trace": 1,
   "types": {"mlx_4bit_g64": {"bytes": 36864, "nats": 0.4}, "mlx_8bit_g64": {"bytes": 69632, "nats": 0.1},
    "bf16": {"bytes": 131072, "nats": 0}}}]}
END
try() {
    echo "\$ $*"
    "$OPTIMUM" "$@" >/dev/null
    echo "= $?"
}
try allocate profile.json --bpw 5 --expert-banks 4
try allocate profile.json --bpw 5 --expert-banks 1 --to mlx
try allocate profile.json --bpw 5 --expert-banks 9 --to mlx
try allocate profile.json --bpw 5 --expert-banks 4 --to mlx --tiers 2
try allocate profile.json --bpw 5 --expert-banks 4 --to mlx --method mopeq
try allocate profile.json --bpw 5 --expert-banks 4 --to mlx
cat >banks.json <<'END'
{"schema": "optimum.allocation/1", "profile_sha256": "", "to": "mlx", "plan": "x", "budget": {"kind": "none", "bytes": 0},
 "tensors": {"g": "bf16", "u": "bf16", "d": "bf16"},
 "expert_banks": [{"gate": "g", "up": "u", "down": "d", "order": [1, 0],
  "banks": [{"experts": 1, "gate": "mlx_2bit_g64", "up": "bf16", "down": "bf16"},
   {"experts": 1, "gate": "bf16", "up": "bf16", "down": "bf16"}]}],
 "bytes": 1, "bpw": 1, "predicted_nats": 0, "solver": {"status": "none"}}
END
try export banks.json --to mlx -o types.py
