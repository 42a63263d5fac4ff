#!/usr/bin/env python3
"""See eval_mlx.sh.    eval_mlx.py HELPER WORK SHARED"""
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "bench"))
import mlx_judge  # noqa: E402

mlx_judge.with_fast_blas()
import mlx.core as mx  # noqa: E402
import mlx_lm  # noqa: E402
import numpy as np  # noqa: E402
import small_llama  # noqa: E402

HELPER, WORK, SHARED = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
TEXT = SHARED / "text/valid.txt"
failed = []


def check(what, error, limit):
    ok = error <= limit
    print(f"{'ok  ' if ok else 'FAIL'}  {what:44} {error:.2e} (at most {limit:g})", flush=True)
    if not ok:
        failed.append(what)


def relative(a, b):
    return abs(a - b) / abs(b)


def compare(name, model, reference, windows, tokens):
    """model: directory as mlx_lm.convert made it; reference: the same weights in F32, also one of mlx-lm."""
    stem = WORK / f"{name}.ours"
    subprocess.run([HELPER, model, reference, TEXT, str(windows), str(tokens), stem], check=True)
    ours = json.loads(Path(f"{stem}.json").read_text())
    dense, tokenizer = mlx_judge.load(reference, False)
    quantized = mlx_judge.load(model, False)[0]
    cut = mlx_judge.windows_of(TEXT, tokenizer, tokens, windows)
    if not (np.fromfile(f"{stem}.tokens", np.int32).reshape(cut.shape) == cut).all():
        failed.append(f"{name}: other tokens")
        return
    theirs = np.stack([mlx_judge.logits_of(quantized, w[:-1]) for w in cut])
    logits = np.fromfile(f"{stem}.logits", np.float32).reshape(theirs.shape)
    rows = np.concatenate([mlx_judge.score(mlx_judge.logits_of(dense, w[:-1]), t, w[1:]) for w, t in zip(cut, theirs)])
    s = mlx_judge.summary(rows)
    print(f"      {name}: mlx_lm KLD {s['kld_mean']:.6f} PPL {s['ppl']:.4f}; Optimum KLD {ours['kld']['mean']:.6f} PPL {ours['ppl']:.4f}")
    check(f"{name}: logits, of the largest", float(np.abs(logits - theirs).max() / np.abs(theirs).max()), 1e-3)
    check(f"{name}: logits, root mean square", float(np.sqrt(((logits - theirs) ** 2).mean() / (theirs**2).mean())), 1e-4)
    check(f"{name}: KLD", relative(ours["kld"]["mean"], s["kld_mean"]), 1e-3)
    check(f"{name}: KLD, 99 of 100 tokens", relative(ours["kld"]["p99"], s["kld_p99"]), 1e-2)
    check(f"{name}: perplexity", relative(ours["ppl"], s["ppl"]), 1e-4)
    check(f"{name}: perplexity of the reference", relative(ours["ppl_reference"], s["ppl_reference"]), 1e-4)
    check(f"{name}: same top-1", abs(ours["top1_agreement"] - s["top1_agreement"]), 2e-3)
    check(f"{name}: bytes", abs(ours["file_bytes"] - mlx_judge.file_bytes(model)), 0)
    if ours["container"] != "mlx" or "speed" in ours:
        failed.append(f"{name}: container or speed in eval.json")


def several(path, module):
    """A width for every kind of module, and some left dense."""
    if not hasattr(module, "to_quantized") or "v_proj" in path:
        return False
    for part, bits, group in (("q_proj", 5, 32), ("k_proj", 3, 128), ("o_proj", 8, 64), ("down_proj", 6, 64), ("gate_proj", 2, 32),
                              ("up_proj", 3, 64), ("embed_tokens", 6, 64)):
        if part in path:
            return {"bits": bits, "group_size": group}
    return True


def main():
    sources = {"llama": small_llama.write(WORK / "llama", SHARED, width=256, ff=512, layers=3, dtype=mx.bfloat16,
                                          config={"rope_theta": 50000.0, "torch_dtype": "bfloat16"}), "ref-dense": SHARED / "models/ref-dense", "ref-moe": SHARED / "models/ref-moe"}
    for name, source in sources.items():
        reference = WORK / f"{name}-f32"
        mlx_lm.convert(str(source), str(reference), dtype="float32")
        for kind, arguments in (("4 bits", {"q_bits": 4}), ("several", {"quant_predicate": several})):
            if name == "ref-moe" and kind == "4 bits":
                continue
            model = WORK / f"{name}-{kind.split()[0]}"
            mlx_lm.convert(str(source), str(model), quantize=True, q_group_size=64, **arguments)
            compare(f"{name}, {kind}", model, reference, 2, 64 if name == "ref-moe" else 192)
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
