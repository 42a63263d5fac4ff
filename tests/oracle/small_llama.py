"""A llama of random weights as a Hugging Face directory, with the tokenizer of ref-dense: what the oracle tests want beside
the reference models, because q and k are in another order in a GGUF. Imported after mlx was set up."""
import json
import shutil

import mlx.core as mx
import numpy as np


def write(out, shared, *, width, ff, layers, dtype, config):
    """out: the directory, new. dtype: of mlx. config: further members of config.json (rope, dtype)."""
    heads, kv, vocab = 4, 2, 16384
    out.mkdir()
    for f in (shared / "models/ref-dense").glob("*.json"):
        shutil.copyfile(f, out / f.name)
    rng, tensors = np.random.default_rng(5), {}

    def add(name, rows, columns=None):
        w = rng.standard_normal((rows, columns)) * 2 / columns**0.5 if columns else 1 + 0.1 * rng.standard_normal(rows)
        tensors[f"{name}.weight"] = mx.array(w.astype(np.float32)).astype(dtype)

    add("model.embed_tokens", vocab, width)
    add("lm_head", vocab, width)
    add("model.norm", width)
    for i in range(layers):
        p = f"model.layers.{i}."
        add(p + "input_layernorm", width)
        add(p + "post_attention_layernorm", width)
        for name, rows, columns in (("self_attn.q", width, width), ("self_attn.k", width * kv // heads, width),
                                    ("self_attn.v", width * kv // heads, width), ("self_attn.o", width, width),
                                    ("mlp.gate", ff, width), ("mlp.up", ff, width), ("mlp.down", width, ff)):
            add(f"{p}{name}_proj", rows, columns)
    mx.save_safetensors(str(out / "model.safetensors"), tensors, metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": width,
        "intermediate_size": ff, "num_attention_heads": heads, "num_key_value_heads": kv, "num_hidden_layers": layers,
        "head_dim": width // heads, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 0,
        "attention_bias": False, "mlp_bias": False, **config}))
    return out
