#!/usr/bin/env python3
"""What llama-quantize itself decides for every preset, against the goldens that the unit test uses.

    compare_presets.py [--quantize PATH] [--write] [GGUF ...]

Runs `llama-quantize --dry-run` for every preset, with and without an importance matrix, on the given
models and on small made-up ones (8 experts, 80 layers, Falcon, few key-value heads, untied and tied
output, odd row lengths), and compares every tensor's type with tests/golden/presets/MODEL.txt. --write
makes the goldens anew. The unit test alloc.test_presets compares Optimum's decisions with the same files,
so together they say: Optimum's presets are the tool's.

Needs the Python package gguf and llama-quantize ($OPTIMUM_DEPS/llama/bin or PATH); exit code 77 without.
Models that have a golden but are not given are skipped and named.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
except ImportError:
    print("SKIP: the Python packages gguf and numpy are missing")
    sys.exit(77)

PRESETS = """IQ2_XXS IQ2_XS IQ2_S IQ2_M Q2_K_S Q2_K IQ3_XXS IQ3_XS Q3_K_S IQ3_S IQ3_M Q3_K_M Q3_K_L IQ4_XS Q4_0
IQ4_NL Q4_K_S Q4_K_M Q4_1 Q5_0 Q5_K_S Q5_K_M Q5_1 Q6_K Q8_0""".split()
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "presets"
LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[([^\]]*)\], type = *(\S+), size = .*?(?:\((\S+)\))?$")

# name: arch, layers, heads, kv heads, experts, width, ff width, untied output
MADE_UP = {
    "moe8": ("llama", 9, 8, 2, 8, 256, 512, True),
    "moe8-mha": ("llama", 4, 4, 4, 8, 256, 256, False),
    "moe64": ("llama", 8, 4, 2, 64, 256, 256, True),
    "layers80": ("llama", 80, 8, 1, 0, 256, 256, True),
    "layers80-mha": ("llama", 80, 4, 4, 0, 256, 256, True),
    "qwen80": ("qwen2", 80, 4, 4, 0, 256, 256, True),
    "wide": ("llama", 17, 8, 2, 0, 256, 768, True),
    "falcon": ("falcon", 33, 4, 1, 0, 256, 1024, True),
    "odd": ("llama", 3, 2, 1, 0, 96, 160, True),
    "odder": ("llama", 3, 2, 1, 0, 72, 144, False),
}


def make_model(path, arch, layers, heads, kv, experts, width, ff, untied):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(layers)
    w.add_context_length(64)
    w.add_embedding_length(width)
    w.add_feed_forward_length(ff)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_layer_norm_eps(1e-5)
    w.add_vocab_size(32)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)

    def add(name, *shape):
        w.add_tensor(name, np.zeros(shape, dtype=np.float32))

    head = width // heads
    add("token_embd.weight", 32, width)
    if untied:
        add("output.weight", 32, width)
    for i in range(layers):
        b = f"blk.{i}."
        if arch == "falcon":
            add(b + "attn_qkv.weight", width + 2 * kv * head, width)
        else:
            add(b + "attn_q.weight", width, width)
            add(b + "attn_k.weight", kv * head, width)
            add(b + "attn_v.weight", kv * head, width)
        add(b + "attn_output.weight", width, width)
        stack, suffix = ((experts,), "_exps") if experts else ((), "")
        add(b + f"ffn_up{suffix}.weight", *stack, ff, width)
        if arch != "falcon":
            add(b + f"ffn_gate{suffix}.weight", *stack, ff, width)
        add(b + f"ffn_down{suffix}.weight", *stack, width, ff)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make_imatrix(path):
    w = gguf.GGUFWriter(path, "")
    w.add_type("imatrix")
    w.add_array("imatrix.datasets", ["none"])
    w.add_uint32("imatrix.chunk_count", 1)
    w.add_uint32("imatrix.chunk_size", 512)
    w.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 256), dtype=np.float32))
    w.add_tensor("blk.0.attn_q.weight.counts", np.ones((1, 1), dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def number(reader, key):
    """An integer of the metadata; of layer 0 where it differs by layer; 0 when absent."""
    arch = reader.fields["general.architecture"].contents()
    field = reader.fields.get(f"{arch}.{key}")
    value = field.contents() if field else 0
    return int(value[0] if isinstance(value, list) else value)


def decide(quantize, model, preset, imatrix):
    args = [quantize, "--dry-run"] + (["--imatrix", imatrix] if imatrix else []) + [str(model), preset]
    run = subprocess.run(args, capture_output=True, text=True, errors="replace")
    if run.returncode != 0:
        sys.exit(f"{' '.join(args)} failed:\n{run.stdout[-1500:]}{run.stderr[-1500:]}")
    types = {}
    for line in (run.stdout + run.stderr).splitlines():
        m = LINE.match(line)
        if m:
            types[m[1]] = m[4] or m[3]
    return types


def encode(types, names):
    """Types in file order, runs as TYPE*COUNT."""
    runs = []
    for name in names:
        if runs and runs[-1][0] == types[name]:
            runs[-1][1] += 1
        else:
            runs.append([types[name], 1])
    return " ".join(t if n == 1 else f"{t}*{n}" for t, n in runs)


def golden_text(quantize, model, imatrix):
    reader = gguf.GGUFReader(model)
    arch = reader.fields["general.architecture"].contents()
    lines = [f"model {arch} {number(reader, 'block_count')} {number(reader, 'attention.head_count')} "
             f"{number(reader, 'attention.head_count_kv')} {number(reader, 'expert_count')}"]
    decided = {(p, i): decide(quantize, model, p, imatrix if i else None) for p in PRESETS for i in (True, False)}
    # What no preset touches is not quantizable; Q8_0 and Q6_K differ for everything else but the output.
    names = [t.name for t in reader.tensors
             if any(d[t.name] != t.tensor_type.name.lower() for d in decided.values())]
    by_name = {t.name: t for t in reader.tensors}
    for name in names:
        shape = [int(x) for x in by_name[name].shape]
        experts = shape[2] if len(shape) > 2 else 1
        lines.append(f"tensor {name} {shape[1]} {shape[0]} {experts}")
    for preset in PRESETS:
        with_imatrix, plain = encode(decided[preset, True], names), encode(decided[preset, False], names)
        if with_imatrix == plain:
            lines.append(f"preset {preset} both {plain}")
        else:
            lines += [f"preset {preset} imatrix {with_imatrix}", f"preset {preset} plain {plain}"]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    deps = os.environ.get("OPTIMUM_DEPS", "")
    parser.add_argument("--quantize", default=shutil.which("llama-quantize", path=f"{deps}/llama/bin")
                        or shutil.which("llama-quantize"))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("models", nargs="*")
    args = parser.parse_args()
    if not args.quantize:
        print("SKIP: no llama-quantize ($OPTIMUM_DEPS/llama/bin or PATH)")
        return 77
    bad = done = 0
    with tempfile.TemporaryDirectory() as tmp:
        imatrix = f"{tmp}/imatrix.gguf"
        make_imatrix(imatrix)
        models = {pathlib.Path(m).stem: m for m in args.models}
        for name, spec in MADE_UP.items():
            models[name] = f"{tmp}/{name}.gguf"
            make_model(models[name], *spec)
        for name, path in models.items():
            text = golden_text(args.quantize, path, imatrix)
            file = GOLDEN / f"{name}.txt"
            if args.write:
                GOLDEN.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            elif not file.exists() or file.read_text() != text:
                old = set(file.read_text().splitlines()) if file.exists() else set()
                for line in text.splitlines():
                    if line not in old:
                        print(f"DIFFERS {name}: {line[:160]}")
                bad += 1
            done += 1
        for file in sorted(GOLDEN.glob("*.txt")):
            if file.stem not in models:
                print(f"SKIP: {file.stem} was not given")
    print(f"{done} models x {len(PRESETS)} presets x 2: " + ("written" if args.write else f"{bad} differ"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
