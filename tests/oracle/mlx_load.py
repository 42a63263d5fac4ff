#!/usr/bin/env python3
"""See mlx_load.sh.    mlx_load.py HELPER WORK SHARED"""
import contextlib
import importlib.util
import io
import json
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
import small_llama  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

HELPER, WORK, SHARED = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
failed = []


def check(what, ok, detail=""):
    print(f"{'ok  ' if ok else 'FAIL'}  {what} {detail}", flush=True)
    if not ok:
        failed.append(what)


def helper(*arguments):
    subprocess.run([HELPER, *map(str, arguments)], check=True)


def load(path):
    """The model as mlx_lm makes it (strict), its config, and its tokenizer."""
    return mlx_lm.load(str(path), return_config=True)


def llama(out, newer):
    """newer: config.json as transformers 5 saves it."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
               "original_max_position_embeddings": 1024}
    config = ({"rope_parameters": {"rope_theta": 50000.0, **scaling}, "dtype": "float16"} if newer else
              {"rope_theta": 50000.0, "rope_scaling": scaling, "torch_dtype": "float16"})
    return small_llama.write(out, SHARED, width=128, ff=256, layers=2, dtype=mx.float16, config=config)


def weights(path):
    found = {}
    for f in sorted(path.glob("model*.safetensors")):
        found.update(mx.load(str(f)))
    return found


def bytes_of(a):
    return np.array(a.view(mx.uint8))


def check_same_bytes(what, ours, theirs):
    a, b = weights(ours), weights(theirs)
    different = sorted(set(a) ^ set(b)) + [
        k for k in a if k in b and (a[k].dtype != b[k].dtype or a[k].shape != b[k].shape or
                                    not np.array_equal(bytes_of(a[k]), bytes_of(b[k])))]
    check(f"{what}: {len(a)} tensors as mlx_lm.convert makes them", not different, ", ".join(different[:4]))


def types_of(model):
    """(bits, group_size, mode) of every module that can be quantized; None: it is not."""
    found = {}
    for path, module in model.named_modules():
        if hasattr(module, "bits"):
            found[path] = (module.bits, module.group_size, module.mode)
        elif hasattr(module, "to_quantized"):
            found[path] = None
    return found


def type_named(name):
    for mode, group in (("mxfp4", 32), ("nvfp4", 16), ("mxfp8", 32)):
        if name == f"mlx_{mode}":
            return 8 if mode == "mxfp8" else 4, group, mode
    if not name.startswith("mlx_"):
        return None
    bits, group = name[4:].split("bit_g")
    return int(bits), int(group), "affine"


def exported(allocation, stem):
    path = WORK / f"{stem}.py"
    helper("export", allocation, path)
    spec = importlib.util.spec_from_file_location(stem.replace("-", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_types(what, model, allocation, names):
    wanted = {path: type_named(allocation["tensors"].get(f"{names.gguf_name(path)}.weight", "bf16"))
              for path in types_of(model)}
    found = types_of(model)
    wrong = [f"{p} {found[p]} for {wanted[p]}" for p in found if found[p] != wanted[p]]
    kinds = len(set(found.values()) - {None})
    check(f"{what}: types of {len(found)} modules, {kinds} kinds", not wrong and kinds > 0, "; ".join(wrong[:3]))


def check_numbers(what, model, out):
    """Every parameter as mlx dequantizes it in F32, against what we read from the file."""
    helper("dump", out, WORK / "dump.safetensors")
    ours = mx.load(str(WORK / "dump.safetensors"))
    theirs = {}
    for path, module in model.named_modules():
        if hasattr(module, "bits"):
            affine = module.mode == "affine"
            theirs[f"{path}.weight"] = mx.dequantize(
                module.weight, module.scales.astype(mx.float32) if affine else module.scales,
                module.biases.astype(mx.float32) if affine else None,
                group_size=module.group_size, bits=module.bits, mode=module.mode).astype(mx.float32)
    for name, value in tree_flatten(model.parameters()):
        module = name.rsplit(".", 1)[0]
        if f"{module}.weight" not in theirs and not name.endswith((".scales", ".biases")):
            theirs[name] = value.astype(mx.float32)
    wrong = sorted(set(ours) ^ set(theirs))
    worst = 0.0
    for name in set(ours) & set(theirs):
        a, b = np.array(ours[name]), np.array(theirs[name])
        if a.shape != b.shape:
            wrong.append(f"{name} {a.shape} {b.shape}")
            continue
        error = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
        worst = max(worst, error)
        if error > 1e-6:  # a fused multiply-add, at most
            wrong.append(f"{name} {error:.1e}")
    check(f"{what}: numbers of {len(theirs)} parameters, worst {worst:.1e}", not wrong, "; ".join(wrong[:4]))


def check_words(what, model, tokenizer):
    model.set_dtype(mx.float32)
    text = mlx_lm.generate(model, tokenizer, "The", max_tokens=6)
    check(f"{what}: generates", isinstance(text, str) and len(text) > 0, repr(text))


def check_model(name, source, shift):
    stats = WORK / f"{name}.stats.gguf"
    helper("stats", source, stats)
    for plan in ("mlx_4bit_g64", f"mixed:{shift}", f"mixed:{shift + 8}"):
        what = f"{name}, {plan}"
        stem = f"{name}-{plan.replace(':', '-')}"
        allocation = WORK / f"{stem}.json"
        helper("allocate", source, stats, allocation, plan)
        document = json.loads(allocation.read_text())
        types = exported(allocation, f"types-{stem}")
        plain, search, theirs = WORK / f"{stem}-plain", WORK / f"{stem}-search", WORK / f"{stem}-convert"
        helper("quantize", source, allocation, plain, "plain")
        with contextlib.redirect_stdout(io.StringIO()):
            types.convert(str(source), str(theirs))
        check_same_bytes(what, plain, theirs)
        helper("quantize", source, allocation, search, "search")
        ours, tokenizer, config = load(search)
        reference = load(theirs)
        check(f"{what}: arguments", ours.args == reference[0].args, f"{ours.args} {reference[0].args}"
              if ours.args != reference[0].args else "")
        check(f"{what}: two equal objects", config["quantization"] == config["quantization_config"])
        check_types(what, ours, document, types)
        check_types(f"{what}, convert", reference[0], document, types)
        check_numbers(what, ours, search)
        check_words(what, ours, tokenizer)
        for path in (plain, search, theirs):
            shutil.rmtree(path)


def check_newer_config():
    """What transformers 5 saves, against the same model in the older words."""
    older, newer = llama(WORK / "llama", False), llama(WORK / "llama-5", True)
    helper("stats", older, WORK / "llama.stats.gguf")
    helper("allocate", older, WORK / "llama.stats.gguf", WORK / "llama.json", "mlx_6bit_g32")
    models = []
    for source in (older, newer):
        out = source.with_name(source.name + "-mlx")
        helper("quantize", source, WORK / "llama.json", out, "plain")
        models.append(load(out)[0])
    a, b = models[0].args, models[1].args
    check("transformers 5: rope_theta", b.rope_theta == 50000.0)
    scaling = {k: v for k, v in b.rope_scaling.items() if k in a.rope_scaling}
    check("transformers 5: rope_scaling", scaling == a.rope_scaling)
    tokens = mx.array([[1, 2, 3, 400, 5]] * 1)
    for m in models:
        m.set_dtype(mx.float32)
    check("transformers 5: the same logits", bool(mx.array_equal(models[0](tokens), models[1](tokens)).item()))


def main():
    check_newer_config()
    check_model("llama", WORK / "llama", 3)
    check_model("ref-dense", SHARED / "models/ref-dense", 0)
    if (SHARED / "models/ref-moe/model.safetensors").exists():
        check_model("ref-moe", SHARED / "models/ref-moe", 5)
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
