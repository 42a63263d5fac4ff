#!/usr/bin/env python3
"""Make a Hugging Face directory of a llama-family GGUF: what transformers and mlx-lm load, with exactly the GGUF's values.

    gguf_to_hf.py IN.gguf OUT_DIR        needs PyPI: gguf, numpy

For models that reach us as GGUF only. The weights become BF16 safetensors (a value that BF16 cannot hold is an error, not a
rounding), with the rows of q and k back in Hugging Face's order (llama.cpp interleaves the two halves of each head). The
tokenizer is written as tokenizer.json: byte-level BPE, digits one by one ("smollm"; others are refused).
"""
import argparse
import json
import sys
from pathlib import Path

import gguf
import numpy as np

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


class Model:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.arch = self.get("general.architecture")
        if self.arch != "llama" or self.get("llama.expert_count", 0):
            sys.exit(f"error: expected a GGUF of the llama family without experts, found {self.arch}")
        if self.get("tokenizer.ggml.model") != "gpt2" or self.get("tokenizer.ggml.pre") != "smollm":
            sys.exit("error: expected a tokenizer of the kind gpt2/smollm, found "
                     f"{self.get('tokenizer.ggml.model')}/{self.get('tokenizer.ggml.pre')}")

    def get(self, key, default=None):
        field = self.reader.fields.get(key)
        return field.contents() if field is not None else default

    def of(self, key, default=None):
        return self.get(f"{self.arch}.{key}", default)


def bf16_bits(tensor):
    """uint16 [rows, columns]; the GGUF's values exactly."""
    shape = tuple(int(n) for n in reversed(tensor.shape))
    if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
        return np.ascontiguousarray(tensor.data).view(np.uint16).reshape(shape)
    if tensor.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        sys.exit(f"error: {tensor.name} is {tensor.tensor_type.name}: give a GGUF in BF16")
    bits = tensor.data.astype(np.float32).view(np.uint32)
    if (bits & 0xFFFF).any():
        sys.exit(f"error: {tensor.name} holds values that BF16 cannot")
    return (bits >> 16).astype(np.uint16).reshape(shape)


def halves_apart(bits, heads):
    """llama.cpp keeps row pairs (i, i + D/2) of a head side by side; Hugging Face keeps the halves apart."""
    rows, columns = bits.shape
    return bits.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def weights(model):
    heads, kv = model.of("attention.head_count"), model.of("attention.head_count_kv", model.of("attention.head_count"))
    out = {}
    for t in model.reader.tensors:
        parts = t.name.split(".")
        if t.name in TOP:
            out[TOP[t.name]] = bf16_bits(t)
        elif parts[0] == "blk" and parts[3] == "weight" and parts[2] in NAMES:
            bits = bf16_bits(t)
            if parts[2] in ("attn_q", "attn_k"):
                bits = halves_apart(bits, heads if parts[2] == "attn_q" else kv)
            out[f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"] = bits
        else:
            sys.exit(f"error: the tensor {t.name} has no place in a Hugging Face llama")
    return out


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        t = tensors[name]
        header[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [offset, offset + t.nbytes]}
        offset += t.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            f.write(np.ascontiguousarray(tensors[name]).tobytes())


def config(model, tied):
    heads, width = model.of("attention.head_count"), model.of("embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "initializer_range": 0.02,
        "bos_token_id": model.get("tokenizer.ggml.bos_token_id"), "eos_token_id": model.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": model.get("tokenizer.ggml.padding_token_id"),
        "hidden_size": width, "intermediate_size": model.of("feed_forward_length"),
        "num_hidden_layers": model.of("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": model.of("attention.head_count_kv", heads), "head_dim": model.of("attention.key_length", width // heads),
        "max_position_embeddings": model.of("context_length"),
        # F32 in the GGUF, a short decimal in the model it came from.
        "rms_norm_eps": float(np.format_float_scientific(np.float32(model.of("attention.layer_norm_rms_epsilon")))),
        "rope_theta": model.of("rope.freq_base", 10000.0), "rope_scaling": None, "rope_interleaved": False,
        "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": len(model.get("tokenizer.ggml.tokens")),
    }


def added_token(content, special):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}


def tokenizer(model):
    """tokenizer.json and tokenizer_config.json."""
    tokens, types = model.get("tokenizer.ggml.tokens"), model.get("tokenizer.ggml.token_type")
    if not set(types) <= {NORMAL, CONTROL, USER_DEFINED}:
        sys.exit(f"error: token types {set(types)} in a byte-level vocabulary")
    added = {i: added_token(tokens[i], types[i] == CONTROL) for i in range(len(tokens)) if types[i] != NORMAL}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    fast = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, **t} for i, t in added.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None, "decoder": {**byte_level, "add_prefix_space": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {s: i for i, s in enumerate(tokens)},
                  "merges": [m.split(" ") for m in model.get("tokenizer.ggml.merges")]},
    }
    named = {f"{short}_token": tokens[model.get(f"tokenizer.ggml.{name}_token_id")]
             for short, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
             if model.get(f"tokenizer.ggml.{name}_token_id") is not None}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", **named, "add_bos_token": model.get("tokenizer.ggml.add_bos_token", False),
        "add_prefix_space": False, "clean_up_tokenization_spaces": False, "model_max_length": model.of("context_length"),
        "additional_special_tokens": [t["content"] for t in added.values() if t["special"] and t["content"] not in named.values()],
        "added_tokens_decoder": {str(i): t for i, t in added.items()},
    }
    if model.get("tokenizer.chat_template"):
        settings["chat_template"] = model.get("tokenizer.chat_template")
    if settings["add_bos_token"]:
        sys.exit("error: a tokenizer that begins every text with BOS is not written here")
    return fast, settings, named


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("gguf")
    p.add_argument("out")
    a = p.parse_args()
    model, out = Model(a.gguf), Path(a.out)
    tensors = weights(model)
    fast, settings, named = tokenizer(model)
    out.mkdir(parents=True, exist_ok=True)

    def write(name, value):
        (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    write("config.json", config(model, "lm_head.weight" not in tensors))
    write("generation_config.json", {k: v for k, v in {
        "bos_token_id": model.get("tokenizer.ggml.bos_token_id"), "eos_token_id": model.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": model.get("tokenizer.ggml.padding_token_id")}.items() if v is not None})
    write("tokenizer.json", fast)
    write("tokenizer_config.json", settings)
    write("special_tokens_map.json", named)
    write_safetensors(out / "model.safetensors", tensors)


if __name__ == "__main__":
    main()
