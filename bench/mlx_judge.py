#!/usr/bin/env python3
"""What real, unmodified mlx-lm makes of MLX models: KL divergence from the full-precision model, perplexity, top-1.

    mlx_judge.py --reference HF_DIR --text valid.txt --windows 8,40 [--json FILE] [--cache DIR] MODEL_DIR ...

Windows and scored positions are those of `optimum eval` (src/model/tokens.c): the text is tokenized once, special tokens in
it as plain text, cut into consecutive windows of --tokens; position i predicts token i + 1, positions 0 .. T-2 count. With
--windows 8,40 the figures are given for the first 8 and for the first 40.

Everything is computed in F32 (`model.set_dtype(mx.float32)`: the codes stay as they are; 16-bit quantized products of
mlx's x86 backend are 2 to 5 % off). By default quantized modules are replaced by dense ones that hold mx.dequantize of them,
which a fast BLAS can multiply; on the first --check tokens both ways are compared and must agree to 1e-5 of the largest
logit. --quantized runs mlx's own quantized products throughout.

--json FILE is updated: an entry for each model. --cache DIR keeps the reference's logits (F32, T-1 rows a window). --save N
writes the first N windows' logits and tokens as .npy into --save-dir. Needs PyPI: mlx (Linux: mlx[cpu]), mlx-lm, numpy.
"""
import argparse
import glob
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECK_LIMIT = 1e-5


def with_fast_blas():
    """On Linux: build the shim next to nothing that lasts and start again with it."""
    import numpy

    found = glob.glob(str(Path(numpy.__file__).parent.parent / "numpy.libs" / "libscipy_openblas64_*.so"))
    if platform.system() != "Linux" or os.environ.get("SHIM_OPENBLAS") is not None or not found or not shutil.which("cc"):
        return
    folder = tempfile.mkdtemp(prefix="blas_shim_")
    library, source = Path(folder) / "blas_shim.so", Path(__file__).parent / "blas_shim.c"
    if subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"]).returncode != 0:
        sys.exit("error: the BLAS shim does not compile; SHIM_OPENBLAS= (empty) does without it")
    environment = {**os.environ, "SHIM_OPENBLAS": found[0], "LD_PRELOAD": str(library)}
    status = subprocess.run([sys.executable, *sys.argv], env=environment).returncode
    shutil.rmtree(folder)
    sys.exit(status)


if __name__ == "__main__":
    with_fast_blas()
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx_lm  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear  # noqa: E402


# ---- models


def load(path, trust):
    model, tokenizer = mlx_lm.load(str(path), trust_remote_code=trust)[:2]
    model.set_dtype(mx.float32)
    model.eval()
    return model, tokenizer


def dense_weight(m):
    return mx.dequantize(m.weight, scales=m.scales, biases=m.get("biases"), group_size=m.group_size, bits=m.bits, mode=m.mode,
                         dtype=mx.float32)


def dense_module(m):
    """The same module without quantization; None: it has none."""
    weight = None
    if isinstance(m, (nn.QuantizedLinear, nn.QuantizedEmbedding, QuantizedSwitchLinear)):
        weight = dense_weight(m)
    if isinstance(m, nn.QuantizedLinear):
        out = nn.Linear(1, 1, bias="bias" in m)
    elif isinstance(m, nn.QuantizedEmbedding):
        out = nn.Embedding(1, 1)
    elif isinstance(m, QuantizedSwitchLinear):
        out = SwitchLinear(1, 1, 1, bias="bias" in m)
    else:
        return None
    out.weight = weight
    if "bias" in m:
        out.bias = m.bias
    return out


def make_dense(model):
    """Returns how many modules were replaced."""
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    replaced = [(path, dense_module(m)) for path, m in leaves]
    replaced = [(path, m) for path, m in replaced if m is not None]
    model.update_modules(tree_unflatten(replaced))
    mx.eval(model.parameters())
    return len(replaced)


def logits_of(model, tokens):
    """[n, V] f32 of the tokens, all of one window."""
    out = model(mx.array(np.asarray(tokens)[None]))[0].astype(mx.float32)
    mx.eval(out)
    return np.array(out, copy=False)


def ready(path, a, tokens):
    """The model in F32, dense unless --quantized, and how far the dense one is from mlx's quantized products."""
    model, _ = load(path, a.trust_remote_code)
    if a.quantized or a.check == 0:
        if not a.quantized:
            make_dense(model)
        return model, None
    few = tokens[: a.check]
    before = np.array(logits_of(model, few))
    if make_dense(model) == 0:
        return model, None
    difference = float(np.abs(logits_of(model, few) - before).max() / np.abs(before).max())
    if not difference <= CHECK_LIMIT:
        sys.exit(f"error: {path}: dense and quantized products differ by {difference:.2e} of the largest logit: use --quantized")
    return model, difference


def file_bytes(path):
    return sum(os.path.getsize(f) for f in glob.glob(str(Path(path) / "model*.safetensors")))


# ---- text


def windows_of(text_path, tokenizer, n_tokens, n_windows):
    """int32 [n_windows, n_tokens] as src/model/tokens.c cuts them."""
    data = Path(text_path).read_bytes()
    data = data[:-1] if data.endswith(b"\n") else data
    hf = tokenizer._tokenizer if hasattr(tokenizer, "_tokenizer") else tokenizer
    ids = hf(data.decode("utf-8"), add_special_tokens=True, split_special_tokens=True)["input_ids"]
    start = hf("a", add_special_tokens=True)["input_ids"][0]
    bos = hf.bos_token_id is not None and start == hf.bos_token_id
    n = len(ids) // n_tokens
    if n < n_windows:
        sys.exit(f"error: the text gives {n} windows of {n_tokens} tokens, {n_windows} were asked for")
    out = np.array(ids[: n_windows * n_tokens], np.int32).reshape(n_windows, n_tokens)
    if bos:
        out[:, 0] = hf.bos_token_id
    return out


# ---- figures


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def score(reference, logits, labels, rows=32):
    """[n, 4]: NLL of the reference and of the model, KLD, same top-1; for each position."""
    out = np.empty((len(labels), 4))
    for i in range(0, len(labels), rows):
        r, m, l = reference[i : i + rows], logits[i : i + rows], labels[i : i + rows]
        p, q, index = log_softmax(r), log_softmax(m), np.arange(len(l))
        out[i : i + rows] = np.stack([-p[index, l], -q[index, l], (np.exp(p) * (p - q)).sum(axis=1),
                                      r.argmax(axis=1) == m.argmax(axis=1)], axis=1)
    return out


def summary(s):
    n = len(s)

    def error(x):
        return float(math.sqrt(max(float((x * x).mean() - x.mean() ** 2), 0.0) / (n - 1)))

    ppl = math.exp(s[:, 1].mean())
    return {"tokens": n, "kld_mean": float(s[:, 2].mean()), "kld_stderr": error(s[:, 2]), "kld_median": float(np.median(s[:, 2])),
            "kld_p99": float(np.quantile(s[:, 2], 0.99)), "kld_max": float(s[:, 2].max()), "ppl": ppl,
            "ppl_stderr": ppl * error(s[:, 1]), "ppl_reference": math.exp(s[:, 0].mean()), "top1_agreement": float(s[:, 3].mean())}


# ---- the run


class Reference:
    """Logits of the full-precision model, window by window, kept in files."""

    def __init__(self, a, windows):
        key = hashlib.sha256(windows.tobytes()[: 4 * a.tokens] + str(Path(a.reference).resolve()).encode()).hexdigest()[:12]
        self.a, self.windows, self.model = a, windows, None
        self.folder = Path(a.cache) / f"{Path(a.reference).name}-{a.tokens}-{key}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, i):
        path = self.folder / f"{i}.npy"
        if not path.exists():
            if self.model is None:
                self.model = load(self.a.reference, self.a.trust_remote_code)[0]
            part = path.with_name(f"{i}.part.npy")
            np.save(part, logits_of(self.model, self.windows[i][:-1]))
            os.rename(part, path)
        return np.load(path, mmap_mode="r")


def judge(path, reference, windows, a):
    start = time.monotonic()
    model, difference = ready(path, a, windows[0])
    rows, counts = [], [int(n) for n in a.windows.split(",")]
    entry = {"model": str(path), "bytes": file_bytes(path), "window_tokens": a.tokens, "mlx": mx.__version__,
             "mlx_lm": mlx_lm.__version__, "dense_against_quantized": difference, "windows": {}}
    name = Path(path).name
    for i in range(max(counts)):
        logits = logits_of(model, windows[i][:-1])
        if i < a.save:
            np.save(Path(a.save_dir) / f"{name}-{i}.npy", logits)
        rows.append(score(reference(i), logits, windows[i][1:]))
        if i + 1 in counts:
            s = entry["windows"][str(i + 1)] = summary(np.concatenate(rows))
            print(f"{name:32} {entry['bytes']:11} {i + 1:4} windows  KLD {s['kld_mean']:.6f} ±{s['kld_stderr']:.6f}  PPL {s['ppl']:.4f} "
                  f"(reference {s['ppl_reference']:.4f})  top-1 {100 * s['top1_agreement']:.2f} %", flush=True)
    entry["seconds"] = round(time.monotonic() - start, 1)
    return entry


def update(path, key, entry):
    document = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    document[key] = entry
    Path(path + ".part").write_text(json.dumps(document, indent=1) + "\n")
    os.rename(path + ".part", path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="*")
    p.add_argument("--reference", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--windows", default="8")
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--quantized", action="store_true")
    p.add_argument("--check", type=int, default=48)
    p.add_argument("--json")
    p.add_argument("--cache")
    p.add_argument("--save", type=int, default=0)
    p.add_argument("--save-dir", default=".")
    p.add_argument("--trust-remote-code", action="store_true")
    a = p.parse_args()
    n = max(int(x) for x in a.windows.split(","))
    tokenizer = mlx_lm.utils.load_tokenizer(Path(a.reference))
    windows = windows_of(a.text, tokenizer, a.tokens, n)
    if a.save > 0:
        Path(a.save_dir).mkdir(parents=True, exist_ok=True)
        np.save(Path(a.save_dir) / "tokens.npy", windows[: a.save])
    with tempfile.TemporaryDirectory(prefix="mlx_judge_") as temporary:
        a.cache = a.cache or temporary
        reference = Reference(a, windows)
        for path in a.models:
            entry = judge(path, reference, windows, a)
            if a.json:
                update(a.json, f"{Path(a.reference).name}/{Path(path).name}", entry)


if __name__ == "__main__":
    main()
