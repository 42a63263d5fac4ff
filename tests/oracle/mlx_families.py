#!/usr/bin/env python3
"""Every family as transformers saves it, written for mlx-lm: do both compute the same?

    mlx_families.py make WORK             tiny random models and their logits in F32 (torch, transformers)
    mlx_families.py check WORK HELPER     written dense and in several types, loaded by mlx-lm (mlx_lm)

The config.json is what transformers 5 writes, with rotary positions unlike any default: what mlx-lm is not told shows
in the logits. HELPER is the program built from mlx_load.c.
"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import hf_names

ROPE = {"rope_parameters": {"rope_theta": 4321.0, "rope_type": "default"}}
LLAMA3 = {"rope_parameters": {"rope_theta": 4321.0, "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}
LINEAR = {"rope_parameters": {"rope_theta": 4321.0, "rope_type": "linear", "factor": 4.0}}
# mlx-lm takes the long factors for short texts too
LONG = {"rope_parameters": {"rope_theta": 4321.0, "rope_type": "longrope", "long_factor": [2.0 + i for i in range(8)],
                            "short_factor": [2.0 + i for i in range(8)], "original_max_position_embeddings": 64},
        "original_max_position_embeddings": 64}
GEMMA3 = {"num_hidden_layers": 8,
          "rope_parameters": {"full_attention": {"rope_theta": 98765.0, "rope_type": "linear", "factor": 4.0},
                              "sliding_attention": {"rope_theta": 1234.0, "rope_type": "default"}}}
# name: (case of hf_names.py, what is different here)
FAMILIES = {
    "llama": ("llama", LLAMA3), "llama-linear": ("llama-biases", LINEAR), "llama-tied": ("llama-tied", ROPE),
    "mistral": ("mistral", ROPE), "mixtral": ("mixtral", ROPE), "qwen2": ("qwen2", ROPE),
    "qwen2_moe": ("qwen2_moe", ROPE), "qwen3": ("qwen3", ROPE), "qwen3_moe": ("qwen3_moe", ROPE),
    "gemma2": ("gemma2", {**ROPE, "sliding_window": 128}),  # mlx-lm's gemma2 has no windows
    "gemma3_text": ("gemma3_text", GEMMA3), "gemma3": ("gemma3", GEMMA3),
    "phi3": ("phi3", ROPE), "phi3-long": ("phi3", LONG), "gpt_oss": ("gpt_oss", {}), "olmoe": ("olmoe", ROPE),
}
N_TOKENS = 60


def tokens():
    return np.random.default_rng(3).integers(0, hf_names.DENSE["vocab_size"], (1, N_TOKENS))


def make(name, folder):
    import torch

    case, changes = FAMILIES[name]
    prefix, sizes = hf_names.CASES[case]
    kept = hf_names.CASES[case]
    hf_names.CASES[case] = (prefix, {**sizes, **changes})
    model = hf_names.build(case)
    hf_names.CASES[case] = kept
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_text("{}")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model.float().eval()(torch.tensor(tokens())).logits[0]
    np.save(folder.with_suffix(".npy"), logits.float().numpy())


# mlx's rotation on a CPU is off by 1e-6 or so a position, which random layers amplify.
LIMIT, LIMIT_GEMMA = 2e-3, 3e-2


def error(a, b):
    return float(np.sqrt(((a - b) ** 2).mean() / (b**2).mean()))


def logits(folder):
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)  # strict
    model.set_dtype(mx.float32)
    return np.array(model(mx.array(tokens())))[0].astype(np.float32)


def check_untold(work):
    """That the limits tell: mlx-lm on what transformers saved."""
    e = error(logits(work / "llama"), np.load(work / "llama.npy"))
    ok = e > 10 * LIMIT
    print(f"{'ok  ' if ok else 'FAIL'}  llama as transformers saved it: off by {e:.1e}", flush=True)
    return not ok


def check(name, work, helper):
    folder, failed = work / name, False
    wanted = np.load(folder.with_suffix(".npy"))
    dense = LIMIT_GEMMA if name.startswith("gemma") else LIMIT
    for plan, limit in (("bf16", dense), ("mlx_8bit_g32", 0.1), ("mixed:3", None)):
        stats, allocation = work / f"{name}.stats.gguf", work / f"{name}.json"
        out = work / f"{name}-{plan.replace(':', '-')}"
        for arguments in (("stats", folder, stats), ("allocate", folder, stats, allocation, plan),
                          ("quantize", folder, allocation, out, "search")):
            subprocess.run([helper, *map(str, arguments)], check=True)
        found = logits(out)
        e = error(found, wanted)
        ok = np.isfinite(found).all() and (limit is None or e <= limit)
        failed = failed or not ok
        print(f"{'ok  ' if ok else 'FAIL'}  {name}, {plan}: logits of transformers within {e:.1e}", flush=True)
    return failed


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("make", "check"):
        sys.exit(__doc__)
    work, failed = Path(sys.argv[2]), False
    if sys.argv[1] == "check":
        failed = check_untold(work)
    for name in FAMILIES:
        if sys.argv[1] == "make":
            make(name, work / name)
        else:
            failed = check(name, work, sys.argv[3]) or failed
    sys.exit(failed)


if __name__ == "__main__":
    main()
