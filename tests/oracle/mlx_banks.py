#!/usr/bin/env python3
"""See mlx_banks.sh.    mlx_banks.py OPTIMUM WORK SHARED"""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "bench"))
import mlx_judge  # noqa: E402

mlx_judge.with_fast_blas()
import mlx.core as mx  # noqa: E402
import mlx_lm  # noqa: E402
import numpy as np  # noqa: E402

OPTIMUM, WORK, SHARED = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
LIMIT = 1e-5  # of the largest logit: another order of sums
MANY = 40  # tokens: with two experts each more choices than the 64 from which on a GPU sorts them
ROLES = ("gate", "up", "down")
failed = []


def check(what, ok, detail=""):
    print(f"{'ok  ' if ok else 'FAIL'}  {what} {detail}", flush=True)
    if not ok:
        failed.append(what)


# ---- allocations, by hand


def allocation(layers, experts_type, others):
    """Everything that may be quantized, by its name in the GGUF."""
    tensors = {"token_embd.weight": others}
    for i in range(layers):
        for role in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"blk.{i}.{role}.weight"] = others
        for role in ROLES:
            tensors[f"blk.{i}.ffn_{role}_exps.weight"] = experts_type
    return {"schema": "optimum.allocation/1", "profile_sha256": "", "to": "mlx", "plan": "test", "tensors": tensors,
            "budget": {"kind": "none", "bytes": 0}, "bytes": 0, "bpw": 1, "predicted_nats": 0, "solver": {"status": "none"}}


def add_banks(a, layer, sizes, types, experts, seed):
    """types[b]: of gate, up and down in bank b."""
    order = np.random.default_rng(seed).permutation(experts).tolist()
    banks = [{"experts": n, **dict(zip(ROLES, t))} for n, t in zip(sizes, types)]
    a.setdefault("expert_banks", []).append(
        {**{r: f"blk.{layer}.ffn_{r}_exps.weight" for r in ROLES}, "order": order, "banks": banks})


def run(*arguments, ok=True):
    done = subprocess.run([OPTIMUM, *map(str, arguments), "-q"], capture_output=True, text=True)
    if ok and done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, arguments))}: {done.stderr}")
    return done


def quantize(source, a, name):
    """Twice: the first refusal says how many bytes these types make."""
    path, out = WORK / f"{name}.json", WORK / name
    path.write_text(json.dumps(a))
    refusal = run("quantize", source, "-a", path, "-o", out, "--round", "plain", ok=False).stderr
    a["bytes"] = int(re.search(r"make a file of (\d+) bytes", refusal).group(1))
    path.write_text(json.dumps(a))
    run("quantize", source, "-a", path, "-o", out, "--round", "plain")
    found = sum(f.stat().st_size for f in out.glob("model*.safetensors"))
    check(f"{name}: {found} bytes", found == a["bytes"])
    return out


# ---- comparing


def load(path):
    model, tokenizer = mlx_lm.load(str(path), trust_remote_code=True)[:2]
    model.set_dtype(mx.float32)
    model.eval()
    return model, tokenizer


def logits(model, ids):
    return np.array(model(mx.array([ids])).astype(mx.float32))


def difference(a, b, ids):
    x, y = logits(a, ids), logits(b, ids)
    return float(np.abs(x - y).max() / np.abs(x).max())


def banks_of(model):
    return [m for _, m in model.named_modules() if type(m).__name__ == "Banks"]


def compare(what, plain, banked, vocabulary):
    """Choices sorted by bank (on a processor always), and every bank looking at every choice (on a GPU when there are few)."""
    ids, banks = np.random.default_rng(0).integers(0, vocabulary, MANY).tolist(), banks_of(banked)
    check(f"{what}: {len(banks)} layers in banks", len(banks) > 0)
    for few, how in ((0, "sorted"), (64, "as a GPU does")):
        type(banks[0]).few = few
        worst = max(difference(plain, banked, ids[:n]) for n in (1, 7, MANY))
        check(f"{what}: 1, 7 and {MANY} tokens, {how}", worst <= LIMIT, f"{worst:.1e}")
    banked.train()
    d = difference(plain, banked, ids)
    banked.eval()
    check(f"{what}: {MANY} tokens in training", d <= LIMIT, f"{d:.1e}")


def check_trust(path):
    try:
        mlx_lm.load(str(path))
        check("refused without trust_remote_code", False)
    except ValueError as e:
        check("refused without trust_remote_code", "trust_remote_code" in str(e))


def check_card(path):
    text = (path / "README.md").read_text()
    check("README says --trust-remote-code", "--trust-remote-code" in text and "optimum_banks.py" in text)
    config = json.loads((path / "config.json").read_text())
    check("config.json names the module", config["model_file"] == "optimum_banks.py" and (path / "optimum_banks.py").exists())


# ---- the reference model


def same_types(source, config, plain):
    a = allocation(config["num_hidden_layers"], "mlx_4bit_g64", "mlx_8bit_g64")
    sizes = {0: (5, 11, 16), 1: (1, 31), 3: (4, 4, 4, 4, 4, 4, 4, 4)}  # layer 2 stays a plain stack
    for layer, n in sizes.items():
        add_banks(a, layer, n, [("mlx_4bit_g64",) * 3] * len(n), config["num_experts"], layer)
    path = quantize(source, a, "same")
    check_trust(path)
    check_card(path)
    banked, tokenizer = load(path)
    compare("one type in all banks", plain, banked, 16000)
    words = [mlx_lm.generate(m, tokenizer, "The history of", max_tokens=10) for m in (plain, banked)]
    check("generates the same", words[0] == words[1], repr(words[1]))


def dense_experts(types, models):
    """[experts, out, in] of a layer's projection: each expert from the model that has all experts in its type."""
    def stack(layer, k):
        modules = [models[t[k]].model.layers[layer].mlp.switch_mlp[f"{ROLES[k]}_proj"] for t in types]
        weights = [mlx_judge.dense_weight(m) if hasattr(m, "bits") else m.weight for m in modules]
        return mx.stack([w[e] for e, w in enumerate(weights)])
    return stack


def several_types(source, config, plain_allocation):
    layers, experts = config["num_hidden_layers"], config["num_experts"]
    names = ("mlx_2bit_g32", "mlx_3bit_g128", "mlx_6bit_g64", "bf16")
    types = [(names[0], names[1], names[2]), (names[1], names[0], names[3]), (names[2], names[2], names[1])]
    sizes = (20, 2, 10)
    a = allocation(layers, "mlx_4bit_g64", "mlx_8bit_g64")
    for layer in range(layers):
        add_banks(a, layer, sizes, types, experts, 10 + layer)
    path = quantize(source, a, "several")
    banked, _ = load(path)
    models = {}
    for name in names:
        b = allocation(layers, name, "mlx_8bit_g64")
        models[name] = load(quantize(source, b, f"all-{name}"))[0]
    reference = load(quantize(source, allocation(layers, "bf16", "mlx_8bit_g64"), "dense"))[0]
    for layer in range(layers):
        bank_of = np.repeat(np.arange(3), sizes)
        of_expert = [None] * experts
        for place, e in enumerate(a["expert_banks"][layer]["order"]):
            of_expert[e] = types[bank_of[place]]
        stack = dense_experts(of_expert, models)
        for k in range(3):
            reference.model.layers[layer].mlp.switch_mlp[f"{ROLES[k]}_proj"].weight = stack(layer, k)
    compare("several types", reference, banked, 16000)
    return path


def check_eval(path):
    """The same text, windows and positions by both."""
    text, source = SHARED / "text/valid.txt", SHARED / "models/ref-moe"
    report = WORK / "eval.json"
    run("eval", path, "--reference", source, "--text", text, "--chunks", 2, "--no-speed", "-o", report)
    ours = json.loads(report.read_text())["kld"]["mean"]
    tokenizer = mlx_lm.utils.load_tokenizer(source)
    windows = mlx_judge.windows_of(text, tokenizer, 512, 2)
    reference, banked = load(source)[0], load(path)[0]
    mlx_judge.make_dense(banked)
    rows = []
    for w in windows:
        x, y = logits(reference, w[:-1].tolist())[0], logits(banked, w[:-1].tolist())[0]
        rows.append(mlx_judge.score(x, y, w[1:]))
    theirs = float(np.concatenate(rows)[:, 2].mean())
    check("optimum eval agrees with mlx-lm", abs(ours / theirs - 1) < 5e-3, f"{ours:.6f} and {theirs:.6f} nats")


# ---- other families, small and random


FAMILIES = {
    "mixtral": ("block_sparse_moe.gate", "block_sparse_moe.experts.{}.{}", ("w1", "w3", "w2"),
                {"num_local_experts": 8, "intermediate_size": 64, "rms_norm_eps": 1e-5}),
    "qwen2_moe": ("mlp.gate", "mlp.experts.{}.{}", ("gate_proj", "up_proj", "down_proj"),
                  {"num_experts": 8, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
                   "intermediate_size": 64, "norm_topk_prob": False}),
    "olmoe": ("mlp.gate", "mlp.experts.{}.{}", ("gate_proj", "up_proj", "down_proj"),
              {"num_experts": 8, "intermediate_size": 64, "norm_topk_prob": True, "attention_bias": False,
               "mlp_bias": False}),
}
WIDTH, HEADS, VOCABULARY, EXPERTS = 64, 2, 16384, 8


def small_model(family):
    gate, expert, names, more = FAMILIES[family]
    out = WORK / family
    out.mkdir()
    for f in (SHARED / "models/ref-moe").glob("*token*.json"):
        shutil.copyfile(f, out / f.name)
    rng, tensors = np.random.default_rng(3), {}

    def add(name, *shape):
        w = rng.standard_normal(shape) / shape[-1]**0.5 if len(shape) > 1 else 1 + 0.1 * rng.standard_normal(shape)
        tensors[name] = mx.array(w.astype(np.float32)).astype(mx.bfloat16)

    add("model.embed_tokens.weight", VOCABULARY, WIDTH)
    add("lm_head.weight", VOCABULARY, WIDTH)
    add("model.norm.weight", WIDTH)
    for i in range(2):
        p = f"model.layers.{i}."
        add(p + "input_layernorm.weight", WIDTH)
        add(p + "post_attention_layernorm.weight", WIDTH)
        for x in "qkvo":
            add(f"{p}self_attn.{x}_proj.weight", WIDTH, WIDTH)
        if family == "qwen2_moe":
            for x in "qkv":
                add(f"{p}self_attn.{x}_proj.bias", WIDTH)
            add(p + "mlp.shared_expert_gate.weight", 1, WIDTH)
            for x in ("gate", "up", "down"):
                add(f"{p}mlp.shared_expert.{x}_proj.weight", 64, WIDTH)
        if family == "olmoe":
            add(p + "self_attn.q_norm.weight", WIDTH)
            add(p + "self_attn.k_norm.weight", WIDTH)
        add(f"{p}{gate}.weight", EXPERTS, WIDTH)
        for e in range(EXPERTS):
            for x in names:
                add(f"{p}{expert.format(e, x)}.weight", 64, WIDTH)
    mx.save_safetensors(str(out / "model.safetensors"), tensors, metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({
        "model_type": family, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "num_hidden_layers": 2, "num_experts_per_tok": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "max_position_embeddings": 2048, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 0, **more}))
    return out


def check_family(family):
    source = small_model(family)
    models = []
    for banks in (False, True):
        a = allocation(2, "mlx_4bit_g32", "mlx_8bit_g64")
        a["tensors"]["output.weight"] = "mlx_8bit_g64"
        if family == "qwen2_moe":
            for i in range(2):
                for role in ROLES:
                    a["tensors"][f"blk.{i}.ffn_{role}_shexp.weight"] = "mlx_8bit_g32"
        if banks:
            for layer in range(2):
                add_banks(a, layer, (3, 5), [("mlx_4bit_g32",) * 3] * 2, EXPERTS, layer)
        models.append(load(quantize(source, a, f"{family}-{'banks' if banks else 'plain'}"))[0])
    compare(family, *models, VOCABULARY)


def main():
    source = SHARED / "models/ref-moe"
    config = json.loads((source / "config.json").read_text())
    a = allocation(config["num_hidden_layers"], "mlx_4bit_g64", "mlx_8bit_g64")
    plain = load(quantize(source, a, "plain"))[0]
    same_types(source, config, plain)
    check_eval(several_types(source, config, a))
    for family in FAMILIES:
        check_family(family)
    if failed:
        sys.exit(f"{len(failed)} checks failed")


main()
