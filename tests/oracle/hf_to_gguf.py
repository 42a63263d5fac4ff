#!/usr/bin/env python3
"""Helper of hf_to_gguf.sh: small models, llama.cpp's own converter, and the comparison.

  hf_to_gguf.py models DIR SHARED                      a small model of each family, from seeds
  hf_to_gguf.py check LLAMA.CPP PROGRAM WORK DIR…      ours of each directory against the converter's
  hf_to_gguf.py compare LLAMA.CPP OURS THEIRS          two files: every pair of the architecture and of the
                                                       tokenizer, every tensor's bytes
"""
import argparse
import contextlib
import fnmatch
import io
import json
import logging
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np


# ---- small models

BASE = dict(
    vocab_size=16384, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=0, pad_token_id=2,
)
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
               shared_expert_intermediate_size=96, decoder_sparse_step=1)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64, rope_theta=500000.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=128, beta_fast=32.0, beta_slow=1.0,
            rope_theta=1e6)
LONGROPE = dict(rope_type="longrope", long_factor=[1.0 + 0.5 * i for i in range(8)],
                short_factor=[1.0 + 0.01 * i for i in range(8)], rope_theta=1e4)
SPM = 512  # pieces of the tokenizer.model that is trained here

# name, model_type, changes of the configuration, tokenizer, dtype
MODELS = [
    ("llama", "llama", dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)), "bpe", "bfloat16"),
    ("llama-rope", "llama", dict(rope_parameters=LLAMA3, head_dim=64, attention_bias=True, mlp_bias=True),
     "bpe", "float16"),
    ("llama-rope-128", "llama", dict(rope_parameters=dict(LLAMA3, original_max_position_embeddings=8192), head_dim=128),
     "bpe", "bfloat16"),
    ("llama-spm", "llama", dict(tie_word_embeddings=True), "spm", "float32"),
    ("mistral", "mistral", dict(sliding_window=128), "spm", "bfloat16"),
    ("mixtral", "mixtral", EXPERTS, "bpe", "bfloat16"),
    ("qwen2", "qwen2", dict(rope_parameters=YARN), "bpe", "bfloat16"),
    ("qwen2-padded", "qwen2", dict(vocab_size=16500), "bpe", "float16"),
    ("qwen3", "qwen3", dict(head_dim=32, rope_parameters=dict(YARN, attention_factor=1.25)), "bpe", "bfloat16"),
    ("qwen3-moe", "qwen3_moe", dict(EXPERTS, head_dim=32, norm_topk_prob=True, rope_parameters=dict(rope_type="linear", factor=2.0)),
     "bpe", "bfloat16"),
    ("qwen2-moe", "qwen2_moe", EXPERTS, "bpe", "bfloat16"),
    ("gemma2", "gemma2", dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=64), "spm", "bfloat16"),
    ("gemma3", "gemma3_text", dict(head_dim=16, query_pre_attn_scalar=16, num_hidden_layers=7, sliding_window=64),
     "spm", "bfloat16"),
    ("gemma3-vision", "gemma3", dict(), "spm", "bfloat16"),
    ("olmoe", "olmoe", dict(EXPERTS, num_key_value_heads=4), "bpe", "bfloat16"),
    ("phi3", "phi3", dict(), "spm", "bfloat16"),
    ("phi3-long", "phi3", dict(rope_parameters=LONGROPE, original_max_position_embeddings=128, sliding_window=256),
     "spm", "float16"),
    ("phi4", "phi3", dict(partial_rotary_factor=0.5), "gpt2class", "bfloat16"),
    ("gpt-oss", "gpt_oss", dict(EXPERTS, head_dim=32, sliding_window=64,
                                rope_parameters=dict(YARN, truncate=False)), "bpe", "bfloat16"),
]

# SentencePiece of these without the model's own file.
CHARS = ["llama-spm", "mistral", "gemma2"]

# The configurations of the same model as transformers 4 wrote them.
LEGACY = ["llama", "llama-rope", "qwen2", "qwen3-moe", "gemma3", "phi3-long", "gpt-oss"]


def randomize(model, seed):
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.05 + (1 if p.ndim == 1 else 0))


def train_spm(path, text):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(path.with_suffix("")), vocab_size=SPM - 12, model_type="bpe",
        byte_fallback=True, num_threads=1, minloglevel=2, user_defined_symbols=["<mark>"], input_sentence_size=2000,
        control_symbols=["<|ctl|>"], shuffle_input_sentence=False, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )


def write_spm(folder, spm, past_the_end):
    shutil.copy(spm, folder / "tokenizer.model")
    (folder / "added_tokens.json").write_text(json.dumps({"<extra>": SPM - 12, "\u2581two": SPM - 11}))
    decoder = {
        "0": dict(content="<unk>", special=True), "1": dict(content="<s>", special=True),
        "2": dict(content="</s>", special=True), str(SPM - 10): dict(content="<|im_end|>", special=False),
        str(SPM - 9): dict(content="user\u2581defined", special=False), str(SPM - 8): dict(content="<pad>"),
    }
    if past_the_end:
        decoder[str(SPM + 3)] = dict(content="past the end", special=True)
    config = dict(
        tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token=dict(__type="AddedToken", content="</s>"), unk_token="<unk>",
        pad_token="<pad>", add_bos_token=True, add_eos_token=False, added_tokens_decoder=decoder,
        chat_template=[dict(name="default", template="{{ messages }}"), dict(name="tool use", template="{{ tools }}")],
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_chars(folder, out):
    """The same without tokenizer.model, as transformers 5 saves it."""
    from transformers import AutoTokenizer

    shutil.copytree(folder, out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    for name in ("tokenizer.model", "added_tokens.json"):
        (out / name).unlink(missing_ok=True)
    # the ways in which published files handle spaces: Metaspace (as saved just now), Llama 2's, Gemma's
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    replace = dict(type="Replace", pattern=dict(String=" "), content="\u2581")
    if folder.name == "mistral":
        tokenizer["normalizer"] = dict(type="Sequence", normalizers=[dict(type="Prepend", prepend="\u2581"), replace])
        tokenizer["pre_tokenizer"] = None
    elif folder.name == "gemma2":
        tokenizer["normalizer"] = replace
        tokenizer["pre_tokenizer"] = dict(type="Split", pattern=dict(String=" "), behavior="MergedWithPrevious",
                                          invert=False)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))


def write_bpe(folder, source, kind):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copyfile(source / name, folder / name)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if kind == "gpt2class":
        config["tokenizer_class"] = "GPT2Tokenizer"
    # a token that is added but no control token; one of the vocabulary that is named as one; and for some a
    # template that puts tokens around a text
    tokenizer["added_tokens"][3]["special"] = config["added_tokens_decoder"]["3"]["special"] = False
    config["additional_special_tokens"].remove(tokenizer["added_tokens"][3]["content"])
    if folder.name == "mixtral":
        config["unk_token"] = next(t for t, i in tokenizer["model"]["vocab"].items() if i > 1000 and t.isascii())
    if folder.name in ("llama-rope", "gpt-oss"):
        ids = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
        token = lambda text: {"SpecialToken": {"id": text, "type_id": 0}}
        special = {text: dict(id=text, ids=[ids[text]], tokens=[text]) for text in ("<|endoftext|>", "<|im_end|>")}
        single = [token("<|endoftext|>"), {"Sequence": {"id": "A", "type_id": 0}}]
        if folder.name == "gpt-oss":
            single.append(token("<|im_end|>"))
        pair = single + [{"Sequence": {"id": "B", "type_id": 1}}]
        tokenizer["post_processor"] = {"type": "Sequence", "processors": [
            tokenizer["post_processor"] or {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                                            "use_regex": True},
            {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}]}
        config.pop("chat_template")
        (folder / "chat_template.jinja").write_text("{{ from_file }}\n")
        merges = tokenizer["model"]["merges"]
        tokenizer["model"]["merges"] = [m.split(" ") if isinstance(m, str) else m for m in merges]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def legacy(config):
    """transformers 5's rope_parameters as the keys that were before."""
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["rope_scaling"] = None
        config["sliding_window_pattern"] = 6
        config.pop("layer_types", None)
    else:
        config["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else dict(rope, type=kind)
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    return config


def fp8_copy(folder, out):
    """Linear weights in E4M3 with a scale per block, as DeepSeek's and Qwen's FP8 models have them."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, out)
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(5)
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        rows, columns = tensors[name].shape
        tensors[name] = (tensors[name].float() * 100).to(torch.float8_e4m3fn)
        blocks = ((rows + 31) // 32, (columns + 47) // 48)
        tensors[name + "_scale_inv"] = torch.rand(blocks, generator=generator) * 0.02 + 0.001
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = dict(quant_method="fp8", weight_block_size=[32, 48], activation_scheme="dynamic",
                                         fmt="e4m3")
    (out / "config.json").write_text(json.dumps(config))


def mxfp4_copy(folder, out):
    """Experts in MXFP4, as gpt-oss was published."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, out)
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(6)
    for name in [n for n in tensors if n.endswith((".gate_up_proj", ".down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape  # inputs first
        shape = (experts, rows, columns // 32)
        random = lambda low, high, size: torch.randint(low, high, size, generator=generator, dtype=torch.uint8)
        tensors[name + "_blocks"] = random(0, 256, (*shape, 16))
        tensors[name + "_scales"] = random(115, 125, shape)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = dict(quant_method="mxfp4", modules_to_not_convert=[])
    (out / "config.json").write_text(json.dumps(config))


def make_models(args):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    root, shared = Path(args.dir), Path(args.shared)
    spm = root / "spm.model"
    train_spm(spm, shared / "text/valid.txt")
    for i, (name, kind, changes, tokenizer, dtype) in enumerate(MODELS):
        folder = root / name
        settings = dict(BASE, **changes)
        if tokenizer == "spm":
            settings.update(vocab_size=SPM, bos_token_id=1, eos_token_id=2, pad_token_id=None)
        if kind == "gemma3":
            text = dict(settings, head_dim=16, query_pre_attn_scalar=16, sliding_window=64)
            vision = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                          image_size=28, patch_size=14)
            settings = dict(text_config=text, vision_config=vision, mm_tokens_per_image=4)
        config = AutoConfig.for_model(kind, **settings)
        model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
        randomize(model, i)
        model.save_pretrained(folder, max_shard_size="200KB" if name == "mixtral" else "1GB")
        if tokenizer == "spm":
            write_spm(folder, spm, kind != "phi3")  # Phi-3's converter would stop
        else:
            write_bpe(folder, shared / "models/ref-dense", tokenizer)
        if name in CHARS:
            write_chars(folder, root / (name + "-chars"))
        if name in LEGACY:
            old = root / (name + "-v4")
            shutil.copytree(folder, old)
            text = (old / "config.json").read_text()
            (old / "config.json").write_text(json.dumps(legacy(json.loads(text))))
    fp8_copy(root / "qwen3", root / "qwen3-fp8")
    mxfp4_copy(root / "gpt-oss", root / "gpt-oss-mxfp4")


# ---- llama.cpp's converter

def convert(llama, folder, out):
    """In this process, whose start would take longer than the work."""
    dtypes = {m[0]: m[4] for m in MODELS}
    kind = "f32" if dtypes.get(folder.name) == "float32" else "auto"  # "auto" makes F16 of F32
    sys.argv = [str(llama / "convert_hf_to_gguf.py"), str(folder), "--outfile", str(out), "--outtype", kind]
    log = io.StringIO()
    try:
        with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except (Exception, SystemExit) as e:
        print(f"FAIL  {folder.name}: llama.cpp's converter: {e!r}")
        return False
    return out.exists()


def prepare_converter(llama):
    sys.path.insert(0, str(llama))
    import conversion.base

    # it recognises a vocabulary by a hash of what it makes of a text; these have none of the known ones
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "smollm"
    logging.disable(logging.CRITICAL)


# ---- comparison

def is_compared(key):
    return not key.startswith(("GGUF.", "general.", "optimum.")) or key in (
        "general.architecture", "general.type", "general.file_type", "general.quantization_version",
    ) or key.startswith("general.sampling.")


def pairs_of(reader):
    return {k: ([t.name for t in f.types], f.contents()) for k, f in reader.fields.items() if is_compared(k)}


def show(value):
    text = repr(value)
    return text if len(text) < 90 else text[:87] + "..."


def compare_pairs(ours, theirs, allowed):
    failed = 0
    for key in sorted(set(ours) | set(theirs)):
        a, b = ours.get(key), theirs.get(key)
        if key == "tokenizer.chat_templates" and a and b:
            a, b = (a[0], sorted(a[1])), (b[0], sorted(b[1]))
        if a == b:
            continue
        if isinstance(a, tuple) and isinstance(b, tuple) and isinstance(a[1], list) and len(a[1]) == len(b[1]):
            at = next(i for i in range(len(a[1])) if a[1][i] != b[1][i])
            a, b = (a[0], at, a[1][at]), (b[0], at, b[1][at])
        ok = any(fnmatch.fnmatch(key, pattern) for pattern in allowed)
        failed += not ok
        print(f"{'differs' if ok else 'FAIL'}  {key}: ours {show(a)}, theirs {show(b)}")
    return failed


def same_values(x, y):
    """Equal bytes; MXFP4, which is BF16 here, by its values, all of which BF16 has."""
    import gguf

    if y.tensor_type == gguf.GGMLQuantizationType.MXFP4 and x.tensor_type == gguf.GGMLQuantizationType.BF16:
        a, b = (gguf.quants.dequantize(t.data, t.tensor_type) for t in (x, y))
        return np.array_equal(a.reshape(b.shape), b)
    return x.tensor_type == y.tensor_type and x.data.tobytes() == y.data.tobytes()


def compare_tensors(ours, theirs):
    failed = 0
    a, b = {t.name: t for t in ours.tensors}, {t.name: t for t in theirs.tensors}
    for name in sorted(set(a) ^ set(b)):
        print(f"FAIL  tensor {name}: only in {'ours' if name in a else 'theirs'}")
        failed += 1
    for name in sorted(set(a) & set(b)):
        x, y = a[name], b[name]
        if list(x.shape) != list(y.shape) or not same_values(x, y):
            print(f"FAIL  tensor {name}: {x.tensor_type.name} {list(x.shape)}, theirs {y.tensor_type.name} {list(y.shape)}")
            failed += 1
    return failed, len(a)


def compare_files(ours_path, theirs_path, allowed=()):
    import gguf

    ours, theirs = gguf.GGUFReader(ours_path), gguf.GGUFReader(theirs_path)
    p, q = pairs_of(ours), pairs_of(theirs)
    failed = compare_pairs(p, q, allowed)
    failed_tensors, n = compare_tensors(ours, theirs)
    ok = failed + failed_tensors == 0
    print(f"{'ok    ' if ok else 'FAIL  '}{Path(ours_path).stem}: {len(p)} pairs, {n} tensors")
    return ok


def compare(args):
    sys.path.insert(0, str(Path(args.llama) / "gguf-py"))
    sys.exit(0 if compare_files(args.ours, args.theirs, args.allow or []) else 1)


# ---- tokens

TEXT = """The first 12345 words, and don't they'll SHOUT? I've 3 cats; 1,000,000 dogs...
  indented    lines\twith tabs\n\n\nand blanks   at the end
naïve façade — “quotes” Größe 你好世界 Привет, мир! こんにちは 🦙🦙 x²+y²=z²
def f(a, b): return {"k": [a_b, 0x1F]}
"""
MARKED = TEXT + "<mark> and <extra> text<|im_end|> after added tokens"


def expected_tokens(folder, text):
    """As the library that the tokenizer was made for has them."""
    if (folder / "tokenizer.model").exists():
        return None  # added tokens are not SentencePiece's; compared in the folders without the model
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def check_tokens(program, folder, model, work):
    # llama.cpp puts the space that starts a text after each added token too, SentencePiece's own only at the start
    text = TEXT if folder.name.endswith("-chars") else MARKED
    expected = expected_tokens(folder, text)
    if expected is None:
        return True
    path = work / "text"
    path.write_text(text)
    found = subprocess.run([program, "--tokens", model, path], capture_output=True, text=True)
    ours = [int(i) for i in found.stdout.split()]
    if ours != expected:
        at = next((i for i, (a, b) in enumerate(zip(ours, expected)) if a != b), min(len(ours), len(expected)))
        print(f"FAIL  {folder.name}: token {at}: {ours[at:at + 6]}, expected {expected[at:at + 6]} {found.stderr}")
        return False
    print(f"ok    {folder.name}: {len(ours)} tokens")
    return True


def check(args):
    llama, work = Path(args.llama), Path(args.work)
    prepare_converter(llama)
    failed = 0
    for folder in map(Path, args.dirs):
        ours, theirs = work / f"{folder.name}.gguf", work / "theirs.gguf"
        theirs.unlink(missing_ok=True)
        if subprocess.run([args.program, folder, ours]).returncode != 0:
            print(f"FAIL  {folder.name}: ours")
            failed += 1
            continue
        failed += not check_tokens(args.program, folder, ours, work)
        if folder.name.endswith("-chars"):
            continue  # the converter gives all pieces of these one score
        allowed = ["general.file_type"] if folder.name.endswith("mxfp4") else []
        failed += not (convert(llama, folder, theirs) and compare_files(ours, theirs, allowed))
        if not args.keep:
            ours.unlink()
    sys.exit(failed > 0)


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("models")
    p.add_argument("dir")
    p.add_argument("shared")
    p.set_defaults(run=make_models)
    p = commands.add_parser("check")
    for name in ("llama", "program", "work"):
        p.add_argument(name)
    p.add_argument("dirs", nargs="+")
    p.add_argument("--keep", action="store_true")
    p.set_defaults(run=check)
    p = commands.add_parser("compare")
    for name in ("llama", "ours", "theirs"):
        p.add_argument(name)
    p.add_argument("--allow", action="append")
    p.set_defaults(run=compare)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
