#!/usr/bin/env python3
"""Compares our safetensors reader and writer with the safetensors library, MLX and PyTorch.

    safetensors_vs_python.py PROGRAM WORK [MODEL DIRECTORY]...

PROGRAM is built from safetensors_vs_python.c. What this Python lacks (mlx, torch) is left out, and said.
"""
import hashlib
import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

try:
    import mlx.core as mx
except ImportError:
    mx = None
try:
    import safetensors.torch
    import torch
except ImportError:
    torch = None

N_DAMAGED = 4000
program, work = sys.argv[1], Path(sys.argv[2])
failures = 0


def expect(ok, what):
    global failures
    if not ok:
        failures += 1
        print(f"FAIL  {what}")


def run(*arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{arguments[0]} failed: {done.stderr}")
    return done.stdout


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def f32_sha256(values):
    """Of float32, every NaN as 0x7FC00000."""
    bits = np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.uint32).copy()
    bits[np.isnan(bits.view(np.float32))] = 0x7FC00000
    return sha256(bits.tobytes())


def dump(folder):
    lines = run("dump", folder).splitlines()
    tensors = {}
    for line in lines[1:]:
        name, dtype, shape, size, data, f32 = line.split(" ")
        shape = tuple(int(d) for d in shape.split(",") if d)
        tensors[bytes.fromhex(name).decode()] = (dtype, shape, int(size), data, f32)
    expect(len(tensors) == len(lines) - 1, "a name is listed twice")
    return lines[0], tensors


def compare(what, folder, first, expected):
    """expected: {name: (dtype, shape, bytes, float32 values or None)}"""
    head, found = dump(folder)
    expect(head == first, f"{what}: files and format are {head}, expected {first}")
    expect(set(found) == set(expected), f"{what}: names {sorted(set(found) ^ set(expected))[:4]}")
    for name in set(found) & set(expected):
        dtype, shape, data, values = expected[name]
        f32 = "-" if values is None else f32_sha256(values)
        mine = (dtype, tuple(shape), len(data), sha256(data), f32)
        expect(found[name] == mine, f"{what}: {name!r}: {found[name]}, expected {mine}")
    print(f"ok    {what}: {len(expected)} tensors")


def folder(name):
    path = work / name
    path.mkdir()
    return path


NUMPY = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I8": np.int8, "U32": np.uint32}
OTHER = {"F64": np.float64, "I16": np.int16, "I64": np.int64, "BOOL": np.bool_}
SHAPES = [(), (1,), (7,), (0,), (3, 5), (2, 0, 4), (1, 2, 3, 4, 5), (33, 1)]
WEIRD = ["", "a b", "\"quoted\"\\", "tab\tline\nbreak", "é😀", "\x7f\x01", "__metadata", "x" * 500]


def random_array(rng, dtype, shape):
    count = int(np.prod(shape))
    data = rng.bytes(count * np.dtype(dtype).itemsize)
    return (np.frombuffer(data, np.uint8) & 1 if dtype is np.bool_ else np.frombuffer(data, np.uint8)).view(
        dtype
    ).reshape(shape)


def from_numpy(rng):
    arrays, expected = {}, {}
    for dtype, kind in {**NUMPY, **OTHER}.items():
        for shape in SHAPES:
            array = random_array(rng, kind, shape)
            arrays[f"{dtype}.{shape}"] = array
            ours = dtype if dtype in NUMPY else "-"
            values = array.astype(np.float32) if dtype in ("F32", "F16") else None
            expected[f"{dtype}.{shape}"] = (ours, shape, array.tobytes(), values)
    for name in WEIRD:
        arrays[name] = np.array([1, 2, 3], np.uint8)
        expected[name] = ("U8", (3,), b"\x01\x02\x03", None)
    path = folder("numpy")
    safetensors.numpy.save_file(arrays, path / "model.safetensors", {"format": "pt"})
    compare("file of safetensors.numpy", path, "1 pt", expected)
    path = folder("numpy-shards")
    names = sorted(arrays)
    for i in range(3):
        part = {name: arrays[name] for name in names[i::3]}
        safetensors.numpy.save_file(part, path / f"model-0000{i + 1}-of-00003.safetensors")
    index = {"metadata": {}, "weight_map": {n: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, n in enumerate(names)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    compare("three of them with an index", path, "3 -", expected)


def mx_bytes(array):
    return bytes(memoryview(array.reshape(-1).view(mx.uint8))) if array.size else b""


def from_mlx(rng):
    kinds = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32, "U8": mx.uint8, "I8": mx.int8}
    arrays, expected = {}, {}
    for dtype, kind in kinds.items():
        for shape in [s for s in SHAPES if 0 not in s]:
            array = mx.array(rng.normal(size=shape) * 20).astype(kind)
            arrays[f"{dtype}.{shape}"] = array
            values = np.array(array.astype(mx.float32)) if dtype in ("F32", "F16", "BF16") else None
            expected[f"{dtype}.{shape}"] = (dtype, shape, mx_bytes(array), values)
    path = folder("mlx")
    mx.save_safetensors(str(path / "model.safetensors"), arrays, {"format": "mlx"})
    compare("file of MLX", path, "1 mlx", expected)


def from_torch():
    """All codes of the small floats, and of the 16-bit ones."""
    codes8 = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    codes16 = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    kinds = {
        "F8_E4M3": (codes8, torch.float8_e4m3fn),
        "F8_E5M2": (codes8, torch.float8_e5m2),
        "F8_E8M0": (codes8, torch.float8_e8m0fnu),
        "F16": (codes16, torch.float16),
        "BF16": (codes16, torch.bfloat16),
    }
    arrays, expected = {"odd": torch.zeros(3, dtype=torch.uint8)}, {"odd": ("U8", (3,), bytes(3), None)}
    for dtype, (codes, kind) in kinds.items():
        array = codes.clone().view(kind)  # the library refuses shared memory
        arrays[dtype] = array
        values = array.to(torch.float32).numpy()
        expected[dtype] = (dtype, tuple(array.shape), codes.numpy().tobytes(), values)
    path = folder("torch")
    safetensors.torch.save_file(arrays, path / "model.safetensors")
    compare("file of PyTorch, all codes", path, "1 -", expected)


def write_ours(rng, pad):
    """A file of our writer: its path, {name: (dtype, shape, bytes)} in the order of the file."""
    widths = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U8": 1, "I8": 1, "U32": 4}
    tensors = {}
    for i, (dtype, width) in enumerate(widths.items()):
        for shape in (SHAPES[i % len(SHAPES)], SHAPES[(i + 3) % len(SHAPES)]):
            tensors[f"{dtype}.{shape}"] = (dtype, shape, rng.bytes(int(np.prod(shape)) * width))
    for name in WEIRD[1:]:
        tensors[name] = ("U8", (3,), b"\x01\x02\x03")
    spec = "".join(
        " ".join([dtype, *map(str, shape), name.encode().hex()]) + "\n" for name, (dtype, shape, _) in tensors.items()
    )
    path = work / f"ours-{pad}.safetensors"
    (work / "spec").write_text(spec)
    (work / "data").write_bytes(b"".join(data for _, _, data in tensors.values()))
    run("write", work / "spec", work / "data", path, pad)
    return path, tensors


def read_ours(rng):
    metadata = {"format": "mlx", "key \"\né": "\\ \x7f"}
    for pad in (0, 16384):
        path, tensors = write_ours(rng, pad)
        size = path.stat().st_size
        data = sum(len(d) for _, _, d in tensors.values())
        expect((size - data) % 8 == 0, f"our header of {size - data} bytes is no multiple of 8")
        expect(pad == 0 or size - data == pad, f"our header has {size - data} bytes, expected {pad}")
        found = dict(safetensors.deserialize(path.read_bytes()))
        expect(set(found) == set(tensors), "names in our file")
        for name, (dtype, shape, data) in tensors.items():
            view = found[name]
            mine = (dtype, list(shape), data)
            theirs = (str(view["dtype"]), list(view["shape"]), bytes(view["data"]))
            expect(theirs == mine, f"our {name!r} is {theirs}, expected {mine}")
        with safetensors.safe_open(path, "np") as f:
            expect(f.metadata() == metadata, f"metadata of our file: {f.metadata()}")
            for name, (dtype, shape, data) in tensors.items():
                if dtype in NUMPY:
                    array = f.get_tensor(name)
                    same = array.dtype == NUMPY[dtype] and array.shape == shape and array.tobytes() == data
                    expect(same, f"our {name!r} in safetensors.numpy")
        print(f"ok    our file, header padded to {pad}, in safetensors.numpy: {len(tensors)} tensors")
        if torch:
            arrays = safetensors.torch.load_file(path)
            for name, (dtype, shape, data) in tensors.items():
                same = tuple(arrays[name].shape) == shape
                if data:
                    same = same and arrays[name].reshape(-1).view(torch.uint8).numpy().tobytes() == data
                expect(same, f"our {name!r} in safetensors.torch")
            print("ok    the same in safetensors.torch")
        if mx:
            read_ours_mlx(path, tensors, metadata)


def read_ours_mlx(path, tensors, metadata):
    """MLX reads E4M3 and E8M0 as bytes and knows no E5M2, so the file is written without it."""
    kept = {n: t for n, t in tensors.items() if t[0] != "F8_E5M2"}
    spec = "".join(" ".join([d, *map(str, s), n.encode().hex()]) + "\n" for n, (d, s, _) in kept.items())
    (work / "spec").write_text(spec)
    (work / "data").write_bytes(b"".join(data for _, _, data in kept.values()))
    run("write", work / "spec", work / "data", path, 0)
    arrays, found = mx.load(str(path), return_metadata=True)
    kinds = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32, "I8": mx.int8}
    expect(found == metadata, f"metadata of our file in MLX: {found}")
    expect(set(arrays) == set(kept), "names of our file in MLX")
    for name, (dtype, shape, data) in kept.items():
        array = arrays[name]
        same = array.dtype == kinds.get(dtype, mx.uint8) and array.shape == shape and mx_bytes(array) == data
        expect(same, f"our {name!r} in MLX: {array.dtype} {array.shape}")
    print(f"ok    our file in MLX: {len(kept)} tensors")


def real_model(path):
    expected = {}
    for file in sorted(path.glob("model*.safetensors")):
        for name, view in safetensors.deserialize(file.read_bytes()):
            data, values = bytes(view["data"]), None
            if view["dtype"] == "F32":
                values = np.frombuffer(data, np.float32)
            elif view["dtype"] == "F16":
                values = np.frombuffer(data, np.float16).astype(np.float32)
            elif view["dtype"] == "BF16":
                values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
            expected[name] = (view["dtype"], view["shape"], data, values)
    with safetensors.safe_open(next(path.glob("model*.safetensors")), "np") as f:
        form = (f.metadata() or {}).get("format", "-")
    compare(f"{path.name}", path, f"{len(list(path.glob('model*.safetensors')))} {form}", expected)


# ---- damaged files: what the library refuses, we refuse ----


def make_file(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def base_files():
    two = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "U8", "shape": [], "data_offsets": [12, 13]},
        "c": {"dtype": "F4", "shape": [4, 0], "data_offsets": [12, 12]},
    }
    return [make_file(two, bytes(13)), make_file({}, b""), make_file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}  ', b"x")]


def damage(rng, data):
    """One or two small changes: bytes, digits, pieces moved, ends cut or grown."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2])):
        kind, at = rng.randrange(6), rng.randrange(max(len(data), 1))
        if not data:
            data += b"\0"
        elif kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            digits = [i for i, c in enumerate(data) if chr(c).isdigit()]
            if digits:
                data[rng.choice(digits)] = ord(rng.choice("0123456789-.e"))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data += bytes(rng.randrange(1, 4))
        elif kind == 4:
            data[at] = rng.choice(b'{}[],:"\\ 0129az\0\xff')
        else:
            swap = rng.randrange(len(data))
            data[at], data[swap] = data[swap], data[at]
    return bytes(data)


def mend_length(data):
    """The length of the header as it was before the damage would refuse most files at once."""
    end = data.rfind(b"}") + 1
    blanks = len(data[end:]) - len(data[end:].lstrip(b" "))
    return struct.pack("<Q", max(end + blanks - 8, 0)) + data[8:]


def damaged():
    rng = random.Random(5)
    files, verdicts = [], []
    bases = base_files()
    for i in range(N_DAMAGED):
        data = damage(rng, rng.choice(bases))
        if rng.random() < 0.7 and len(data) > 8:
            data = mend_length(data)
        path = work / f"damaged-{i}"
        path.write_bytes(data)
        files.append(path)
        try:
            safetensors.deserialize(data)
            verdicts.append(True)
        except Exception:
            verdicts.append(False)
    ours = []
    for i in range(0, N_DAMAGED, 500):
        ours += run("check", *files[i : i + 500]).splitlines()
    expect(len(ours) == N_DAMAGED, "a verdict per damaged file")
    stricter = 0
    for path, line, theirs in zip(files, ours, verdicts):
        expect(theirs or line != "ok", f"accepted what the library refuses: {path.read_bytes()!r}")
        if theirs and line != "ok":
            stricter += 1
            if "--stricter" in sys.argv:
                print(line, path.read_bytes())
    accepted = ours.count("ok")
    expect(accepted > N_DAMAGED // 20, f"only {accepted} damaged files pass: the comparison says little")
    expect(stricter < N_DAMAGED // 50, f"{stricter} files refused that the library reads")
    print(f"ok    {N_DAMAGED} damaged files: {accepted} still good for both, {stricter} refused by us alone")


def main():
    rng = np.random.default_rng(7)
    from_numpy(rng)
    if mx:
        from_mlx(rng)
    else:
        print("left out: MLX is not in this Python")
    if torch:
        from_torch()
    else:
        print("left out: torch is not in this Python")
    read_ours(rng)
    damaged()
    for path in map(Path, sys.argv[3:]):
        if (path / "model.safetensors").exists():
            real_model(path)
        elif not path.name.startswith("--"):
            print(f"left out: no model in {path}")
    if failures:
        sys.exit(f"{failures} differences")


main()
