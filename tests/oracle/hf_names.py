#!/usr/bin/env python3
"""The other side of hf_names.sh: tiny random models by transformers, what llama.cpp's converter and mlx-lm make of them.

    hf_names.py make WORK                 a Hugging Face directory of each case (torch, transformers, safetensors)
    hf_names.py converter WORK HELPER DIR our GGUF view of them equals what llama.cpp's conversion/ in DIR gives
                                          (torch, transformers, gguf)
    hf_names.py mlx WORK HELPER           our MLX view equals mlx-lm's parameters after loading, path by path, and again
                                          after mlx-lm has quantized the model (mlx_lm)

HELPER is the program built from hf_names.c. Values must be equal, without tolerance (llama.cpp's MXFP4 has no minus
zero). Prints a line for each comparison; exit 1 when one fails.
"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

DENSE = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
             vocab_size=128, max_position_embeddings=128, torch_dtype="bfloat16")
MIXTURE = dict(DENSE, num_experts_per_tok=2)
GEMMA = dict(DENSE, head_dim=32, sliding_window=16)
# case: (class prefix in transformers, config). What stands before "-" chooses the random weights.
CASES = {
    "llama": ("Llama", dict(DENSE, tie_word_embeddings=False)),
    "llama-tied": ("Llama", dict(DENSE, tie_word_embeddings=True, head_dim=32)),
    "llama-biases": ("Llama", dict(DENSE, tie_word_embeddings=False, attention_bias=True, mlp_bias=True)),
    "llama-fp8-rows": ("Llama", dict(DENSE, tie_word_embeddings=False)),
    "mistral": ("Mistral", dict(DENSE, head_dim=32, tie_word_embeddings=False)),
    "mixtral": ("Mixtral", dict(MIXTURE, num_local_experts=4, tie_word_embeddings=False)),
    "qwen2": ("Qwen2", dict(DENSE, tie_word_embeddings=True)),
    "qwen2_moe": ("Qwen2Moe", dict(MIXTURE, num_experts=4, moe_intermediate_size=32,
                                   shared_expert_intermediate_size=96, decoder_sparse_step=1, mlp_only_layers=[],
                                   tie_word_embeddings=False)),
    "qwen3": ("Qwen3", dict(DENSE, head_dim=32, tie_word_embeddings=False)),
    "qwen3-tied": ("Qwen3", dict(DENSE, head_dim=32, tie_word_embeddings=True)),
    "qwen3-fp8": ("Qwen3", dict(DENSE, hidden_size=192, intermediate_size=320, head_dim=64,
                                tie_word_embeddings=False)),
    "qwen3_moe": ("Qwen3Moe", dict(MIXTURE, head_dim=32, num_experts=4, moe_intermediate_size=32,
                                   decoder_sparse_step=1, mlp_only_layers=[], tie_word_embeddings=False)),
    "qwen3_moe-fused": ("Qwen3Moe", dict(MIXTURE, head_dim=32, num_experts=4, moe_intermediate_size=32,
                                         decoder_sparse_step=1, mlp_only_layers=[], tie_word_embeddings=False)),
    "gemma2": ("Gemma2", dict(GEMMA, query_pre_attn_scalar=32)),
    "gemma3_text": ("Gemma3", dict(GEMMA, query_pre_attn_scalar=32)),
    "gemma3": ("Gemma3ForConditionalGeneration", dict(GEMMA, query_pre_attn_scalar=32)),
    "gemma3-new-names": ("Gemma3ForConditionalGeneration", dict(GEMMA, query_pre_attn_scalar=32)),
    "phi3": ("Phi3", dict(DENSE, original_max_position_embeddings=128, pad_token_id=0, tie_word_embeddings=False)),
    "gpt_oss": ("GptOss", dict(MIXTURE, head_dim=32, num_local_experts=4, intermediate_size=64, sliding_window=16,
                               tie_word_embeddings=False)),
    "gpt_oss-mxfp4": ("GptOss", dict(MIXTURE, head_dim=32, num_local_experts=4, intermediate_size=64,
                                     sliding_window=16, tie_word_embeddings=False)),
    "olmoe": ("Olmoe", dict(MIXTURE, num_experts=4, tie_word_embeddings=False)),
}
# What mlx-lm does not load: FP8, experts fused in halves, new names of gemma 3, gpt-oss in BF16. Our reading in mlx-lm's
# arrangement must equal that of a directory with the same weights, or our reading in llama.cpp's, where both arrange
# alike, which the converter then judges. (llama-fp8-rows: by the converter alone.)
TWINS = {"qwen3-fp8": ("qwen3-fp8", "gguf"), "qwen3_moe-fused": ("qwen3_moe", "mlx"), "gpt_oss": ("gpt_oss", "gguf"),
         "gemma3-new-names": ("gemma3", "mlx"), "llama-fp8-rows": None}


# ---- make ----


def build(case):
    """The model of a case with random weights, also where transformers starts with zeros or ones."""
    import torch
    import transformers as tf

    prefix, sizes = CASES[case]
    sizes = dict(sizes)
    sizes.pop("torch_dtype")
    if prefix == "Gemma3ForConditionalGeneration":
        vision = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=28,
                      patch_size=14)
        config = tf.Gemma3Config(text_config=dict(sizes), vision_config=vision, mm_tokens_per_image=4)
        model = tf.Gemma3ForConditionalGeneration(config)
    elif prefix == "Gemma3":
        model = tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**sizes))
    else:
        model = getattr(tf, prefix + "ForCausalLM")(getattr(tf, prefix + "Config")(**sizes))
    torch.manual_seed(sum(map(ord, case.split("-")[0])))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape) * 0.1 + (0.5 if p.dim() == 1 else 0.0))
    return model.to(torch.bfloat16)


def old_keys(config):
    """Keys that mlx-lm's classes ask for and transformers 5 no longer writes."""
    text = config.get("text_config", config)
    rope = text.get("rope_parameters")
    if isinstance(rope, dict):
        full = rope.get("full_attention", rope)
        text.setdefault("rope_theta", full.get("rope_theta", 10000.0))
        text.setdefault("rope_scaling", None)
        if "sliding_attention" in rope:
            text.setdefault("rope_local_base_freq", rope["sliding_attention"]["rope_theta"])
    if "text_config" in config:
        config["vocab_size"] = text["vocab_size"]
    if "num_local_experts" in text:
        text.setdefault("num_experts", text["num_local_experts"])
    if "sliding_window" in text:
        text.setdefault("sliding_window_pattern", 6)
    return config


def to_fp8(tensors, config, rows):
    """Linear layers of blocks in E4M3 with one scale for each row, or for each block of 128 x 128."""
    import torch

    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        w = tensors[name].float()
        if rows:
            scale = w.abs().amax(1, keepdim=True) / 448
            full = scale
        else:
            down, across = -(-w.shape[0] // 128), -(-w.shape[1] // 128)
            scale = torch.stack([torch.stack([w[i * 128:(i + 1) * 128, j * 128:(j + 1) * 128].abs().max() / 448
                                              for j in range(across)]) for i in range(down)])
            full = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:w.shape[0], :w.shape[1]]
        tensors[name] = (w / full).to(torch.float8_e4m3fn)
        tensors[name + ("_scale" if rows else "_scale_inv")] = scale
    if rows:
        group = {"weights": {"type": "float", "num_bits": 8, "strategy": "channel"}, "targets": ["Linear"]}
        config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "float-quantized",
                                         "config_groups": {"group_0": group}}
    else:
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def to_mxfp4(tensors, config):
    """gpt-oss's experts [E, n_in, n_out] become random blocks [E, n_out, n_in / 32, 16] and scales."""
    import torch

    for name in [n for n in tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        e, n_in, n_out = tensors.pop(name).shape
        tensors[name + "_blocks"] = torch.randint(0, 256, (e, n_out, n_in // 32, 16), dtype=torch.uint8)
        tensors[name + "_scales"] = torch.randint(118, 126, (e, n_out, n_in // 32), dtype=torch.uint8)
    config["quantization_config"] = {"quant_method": "mxfp4"}


def fuse(tensors, config):
    """Experts stacked with gate and up in halves, as transformers 5 has them in memory."""
    import torch

    n = config.get("num_experts", config.get("num_local_experts"))
    for layer in range(config["num_hidden_layers"]):
        base = f"model.layers.{layer}.mlp.experts."
        take = lambda which: torch.stack([tensors.pop(f"{base}{e}.{which}_proj.weight") for e in range(n)])
        tensors[base + "gate_up_proj"] = torch.cat([take("gate"), take("up")], 1)
        tensors[base + "down_proj"] = take("down")


def make(case, folder):
    import torch
    from safetensors.torch import load_file, save_file

    build(case).save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    config = old_keys(json.loads((folder / "config.json").read_text()))
    if case == "qwen3-fp8":
        to_fp8(tensors, config, rows=False)
    elif case == "llama-fp8-rows":
        to_fp8(tensors, config, rows=True)
    elif case == "gpt_oss-mxfp4":
        to_mxfp4(tensors, config)
    elif case == "qwen3_moe-fused":
        fuse(tensors, config)
    elif case == "gemma3-new-names":
        tensors = {n.replace("language_model.model.", "model.language_model."): t for n, t in tensors.items()}
    elif case == "llama":  # of old checkpoints
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    elif case == "llama-tied":  # some hold it all the same
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    # Two shards without an index, as mlx-lm and we read them.
    file.unlink()
    second = {n for n in tensors if ".layers.1." in n}
    for i, part in enumerate((sorted(tensors.keys() - second), sorted(second))):
        save_file({n: tensors[n].contiguous() for n in part}, folder / f"model-{i + 1:05}-of-00002.safetensors",
                  metadata={"format": "pt"})
    (folder / "tokenizer.json").write_text(json.dumps(
        {"model": {"vocab": {f"t{i}": i for i in range(DENSE["vocab_size"])}}, "added_tokens": []}))


# ---- compare ----


def ours(helper, folder, view):
    """{name: (path, array)} as the helper reads them, and {path: may it be quantized}."""
    listing = subprocess.run([helper, "list", folder], check=True, capture_output=True, text=True).stdout
    dump = folder.with_suffix(".values")
    subprocess.run([helper, "dump", folder, view, dump], check=True)
    data = np.fromfile(dump, dtype=np.float32)
    dump.unlink()
    tensors, quantizable, at = {}, {}, 0
    for line in listing.splitlines():
        name, path, shape, _format, may_quantize = line.split("\t")
        shape = [int(n) for n in shape.split(",")]
        n = int(np.prod(shape))
        tensors[name] = (path, data[at:at + n].reshape(shape))
        quantizable[path] = may_quantize == "1"
        at += n
    assert at == data.size
    return tensors, quantizable


def compare(got, want, what):
    """Both {name: array}: the same names, shapes and values."""
    problems = [f"{n}: only in {what}" for n in sorted(want.keys() - got.keys())]
    problems += [f"{n}: not in {what}" for n in sorted(got.keys() - want.keys())]
    for n in sorted(want.keys() & got.keys()):
        a, b = got[n], want[n].astype(np.float32)
        if a.shape != b.shape:
            problems.append(f"{n}: shape {a.shape}, in {what} {b.shape}")
        elif not np.array_equal(a, b):
            problems.append(f"{n}: values differ from {what} by up to {np.abs(a - b).max()} of {np.abs(b).max()}")
    print(f"{'FAIL' if problems else 'ok  '}  {what}: {len(want)} tensors")
    for line in problems[:20]:
        print("      " + line)
    return bool(problems)


def by_converter(folder):
    """{name: array}: runs prepare_tensors of llama.cpp's converter with a writer that keeps what it is given."""
    import conversion
    import gguf

    hparams = conversion.ModelBase.load_hparams(folder, False)
    arch = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    model = conversion.get_model_class(arch)(folder, gguf.LlamaFileType.ALL_F32, folder / "unused.gguf", eager=True)
    tensors = {}

    def add_tensor(name, tensor, raw_shape=None, raw_dtype=None, **_):
        data = np.array(tensor)
        if raw_dtype not in (None, gguf.GGMLQuantizationType.F32):
            data = gguf.quants.dequantize(data, raw_dtype)
        tensors[name] = data

    model.gguf_writer.add_tensor = add_tensor
    model.prepare_tensors()
    for name in [n for n in tensors if n.startswith("rope_f")]:
        del tensors[name]
    if hparams.get("tie_word_embeddings"):
        tensors.pop("output.weight", None)  # the converter keeps a copy that nobody needs
    return tensors


def converter(work, helper, where):
    import logging

    sys.path.insert(0, where)
    logging.disable(logging.WARNING)
    failed = False
    for case in CASES:
        got = {n: a for n, (_, a) in ours(helper, work / case, "gguf")[0].items()}
        failed |= compare(got, by_converter(work / case), f"{case}, llama.cpp's converter")
    return failed


def by_mlx(folder):
    """{path: array} of the model that mlx-lm loads, dequantized in F32, and its modules."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model

    model, _config = load_model(folder, lazy=True)
    weights = dict(tree_flatten(model.parameters()))
    modules = dict(model.named_modules())
    for path in [p.removesuffix(".scales") for p in weights if p.endswith(".scales")]:
        module, scales, biases = modules[path], weights.pop(path + ".scales"), weights.pop(path + ".biases", None)
        if biases is not None:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        weights[path + ".weight"] = mx.dequantize(weights[path + ".weight"], scales, biases,
                                                  group_size=module.group_size, bits=module.bits, mode=module.mode)
    return {n: np.array(a.astype(mx.float32)) for n, a in weights.items()}, modules


def check_mlx(helper, folder, what):
    want, modules = by_mlx(folder)
    tensors, quantizable = ours(helper, folder, "mlx")
    failed = compare(dict(tensors.values()), want, what)
    for path in [p for p, may in quantizable.items() if may]:
        module = modules[path.removesuffix(".weight")]
        if not hasattr(module, "to_quantized") and not hasattr(module, "bits"):
            print(f"      {path}: we would quantize it, mlx-lm cannot")
            failed = True
    return failed


def quantize(folder, out):
    """As mlx_lm.convert with a predicate of many types: bits and groups by turns, some dense, an MXFP4 and an MXFP8."""
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    turn = [dict(bits=b, group_size=32) for b in (2, 3, 4, 5, 6, 8)]
    turn += [dict(bits=4, group_size=32, mode="mxfp4"), dict(bits=8, group_size=32, mode="mxfp8"), False]
    count = 0

    def predicate(_path, module):
        nonlocal count
        count += 1
        return turn[count % len(turn)] if module.weight.shape[-1] % 32 == 0 else False

    model, config = load_model(folder, lazy=True)
    config.pop("quantization_config", None)
    model, config = quantize_model(model, config, 32, 4, quant_predicate=predicate)
    out.mkdir()
    save_model(out, model, donate_model=False)
    save_config(config, out / "config.json")


def mlx(work, helper):
    failed = False
    for case in CASES:
        folder = work / case
        if case in TWINS:
            if TWINS[case] is None:
                continue
            twin, view = TWINS[case]
            got = {n: a for n, (_, a) in ours(helper, folder, "mlx")[0].items()}
            want = {n: a for n, (_, a) in ours(helper, work / twin, view)[0].items()}
            failed |= compare(got, want, f"{case}, {view} view of {twin}")
            continue
        failed |= check_mlx(helper, folder, f"{case}, mlx-lm")
        quantize(folder, work / (case + "-quantized"))
        failed |= check_mlx(helper, work / (case + "-quantized"), f"{case}, quantized by mlx-lm")
    return failed


def main():
    verb, work, arguments = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if verb == "make":
        for case in CASES:
            make(case, work / case)
        return False
    return {"converter": converter, "mlx": mlx}[verb](work, *arguments)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
