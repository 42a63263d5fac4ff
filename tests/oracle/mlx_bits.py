#!/usr/bin/env python3
"""Our MLX rows against real mlx.

  mlx_bits.py HELPER WORK [MODEL.safetensors]...

Plain rounding must give mx.quantize's bytes, and our reading of them mx.dequantize's numbers in F32; what the weighted
search writes must read back in mlx as it does here, and never have a greater weighted error than mx.quantize's.
"""
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

DTYPES = {"bf16": mx.bfloat16, "f16": mx.float16, "f32": mx.float32}
TYPES = {f"mlx_{b}bit_g{g}": (b, g, "affine") for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)}
TYPES |= {"mlx_mxfp4": (4, 32, "mxfp4"), "mlx_nvfp4": (4, 16, "nvfp4"), "mlx_mxfp8": (8, 32, "mxfp8")}
WIDTH = 384  # of the made-up matrices
AFFINE_ONLY = "subnormal"  # scales below 2^-127 overflow in mlx, which then reads infinities: ours differ on purpose


def made_up():
    rng = np.random.default_rng(5)
    shape = (48, WIDTH)
    normal = rng.standard_normal(shape)
    yield "normal", normal * 0.05
    yield "heavy tails", rng.standard_t(2, shape) * 0.02
    yield "all positive", rng.random(shape) * 3 + 1
    yield "all negative", -rng.random(shape) * 3 - 1
    yield "tiny", normal * 1e-8  # mlx's scale is at least 1e-7
    yield "around 1e-7", normal * 3e-7
    yield "tinier than FP16", normal * 1e-20
    yield "large", normal * 1e4
    yield "ties", rng.integers(-7, 8, shape)
    yield "more ties", rng.integers(-64, 65, shape) / 16
    yield "ties of FP4", rng.integers(-24, 25, shape) / 4
    yield "scales of all sizes", normal * np.exp(rng.uniform(-9, 9, (shape[0], 1)))
    odd = np.zeros((24, WIDTH))
    odd[1], odd[2], odd[3], odd[4] = 1, -1, -0.0, 0.3
    odd[5], odd[6, ::2], odd[7, ::2], odd[8, 0], odd[9, 0] = -0.3, 1, -1, 5, -5
    odd[10, ::2], odd[10, 1::2], odd[11], odd[12] = 1, -1, 1e-30, -1e-34
    odd[13, 0], odd[14], odd[15] = 1e-7, 3, np.linspace(-1, 1, WIDTH)
    odd[14, 0], odd[16, :9], odd[17, 5] = 2.5, 2688, 1e-35
    odd[18, ::16], odd[19, ::16], odd[20, 3], odd[21, 3], odd[22] = 6.03125, 450, 2700, 6e4, 1 / 3
    yield "odd", odd
    huge = np.zeros((4, WIDTH))
    huge[0, ::32], huge[1, ::16], huge[2, 7], huge[3] = 1e30, 2e37, -3e38, 1e29 * normal[0]
    yield "huge", huge
    yield AFFINE_ONLY, normal * 1e-38


def from_models(paths):
    for path in paths:
        tensors = mx.load(path)
        for name in sorted(k for k, v in tensors.items() if v.ndim == 2)[::13]:
            w = tensors[name][:64].astype(mx.float32)
            if w.shape[1] % 128 == 0:
                yield f"{Path(path).parent.name} {name}", np.array(w)


def theirs(w, bits, group, mode):
    parts = list(mx.quantize(w, group_size=group, bits=bits, mode=mode))
    raw = b"".join(np.array(p.view(mx.uint8) if p.dtype == mx.bfloat16 else p).tobytes() for p in parts)
    return raw, read_back(parts, bits, group, mode)


def read_back(parts, bits, group, mode):
    codes, scales = parts[:2]
    if mode != "affine":
        return np.array(mx.dequantize(codes, scales, group_size=group, bits=bits, mode=mode, dtype=mx.float32))
    wide = [p.astype(mx.float32) for p in parts[1:]]
    return np.array(mx.dequantize(codes, *wide, group_size=group, bits=bits))


def parse(raw, shape, bits, group, mode, dtype):
    """The parts of our bytes as mlx arrays, and our own reading of them."""
    n, width = shape
    codes = np.frombuffer(raw, np.uint32, n * width * bits // 32).reshape(n, -1)
    at = codes.nbytes
    kind = np.uint8 if mode != "affine" else np.uint32 if dtype == "f32" else np.uint16
    parts = [mx.array(codes)]
    for _ in range(2 if mode == "affine" else 1):
        x = np.frombuffer(raw, kind, n * width // group, at).reshape(n, -1)
        at += x.nbytes
        parts.append(mx.array(x) if mode != "affine" else mx.array(x).view(DTYPES[dtype]))
    return at, parts, np.frombuffer(raw, np.float32, n * width, at).reshape(n, width)


def same(a, b):
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def check(helper, work, name, w, dtype):
    """Number of comparisons and a line for each that failed."""
    failed, compared = [], 0
    with np.errstate(over="ignore"):
        w = mx.array(w.astype(np.float32)).astype(DTYPES[dtype])
    source = np.array(w.astype(mx.float32))
    if not np.isfinite(source).all():
        return 0, []
    importance = np.exp(1.5 * np.random.default_rng(7).standard_normal(source.shape[1])).astype(np.float32)
    source.tofile(work / "w")
    importance.tofile(work / "c")
    for search in ([], [work / "c"]):
        subprocess.run([helper, work / "w", str(source.shape[1]), dtype, work / "out", *search], check=True)
        for kind, (bits, group, mode) in TYPES.items():
            if mode != "affine" and name == AFFINE_ONLY:
                continue
            raw = (work / "out" / kind).read_bytes()
            size, parts, ours = parse(raw, source.shape, bits, group, mode, dtype)
            their_bytes, their_numbers = theirs(w, bits, group, mode)
            what = []
            if not search:
                if raw[:size] != their_bytes:
                    n = np.count_nonzero(np.frombuffer(raw[:size], np.uint8) != np.frombuffer(their_bytes, np.uint8))
                    what.append(f"{n} bytes of {size}")
                if not same(ours, their_numbers):
                    what.append("numbers")
            else:
                if not same(ours, read_back(parts, bits, group, mode)):
                    what.append("search: numbers")
                def loss(x):
                    return (importance * (source.astype(np.float64) - x) ** 2).reshape(-1, group).sum(1)
                with np.errstate(over="ignore", invalid="ignore"):
                    worse = loss(ours) > loss(their_numbers) * (1 + 1e-12)
                if worse.any():
                    what.append(f"search: {worse.sum()} groups worse than mlx's")
            compared += 1
            if what:
                failed.append(f"FAIL  {name}, {dtype}, {kind}: {', '.join(what)}")
    return compared, failed


def main():
    helper, work = sys.argv[1], Path(sys.argv[2])
    (work / "out").mkdir()
    failed, compared = [], 0
    for name, w in [*made_up(), *from_models(sys.argv[3:])]:
        for dtype in DTYPES:
            n, lines = check(helper, work, name, w, dtype)
            compared += n
            failed += lines
    for line in failed[:60]:
        print(line)
    print(f"{compared} comparisons with mlx {mx.__version__}, {len(failed)} differ")
    sys.exit(bool(failed) or compared == 0)


main()
