#!/usr/bin/env python3
"""The truth behind the predictions: the KL divergence of a model with one tensor quantized, for every tensor and type.

    prediction_truth.py MODEL.gguf STATS.gguf TOKENS.bin OUT.json --ggml LIBGGML_BASE.so
                        [--types q3_K,q4_K] [--window 512] [--windows 96] [--device cuda] [--batch 16] [--seconds 540]

PyTorch runs a plain F32 decoder (llama and qwen3 graphs; needs torch, gguf, numpy). Each tensor is quantized by ggml's
own function with the importance of STATS.gguf, dequantized to F32 and put back, everything else stays F32; the divergence
from the F32 model is averaged over all positions. Layers before the changed one are not run again. TOKENS.bin: int32 windows.
A run that stops at --seconds goes on where it stopped when it is started again. prediction_compare.py judges a
profile.json by the result.
"""
import argparse
import concurrent.futures
import ctypes
import json
import math
import os
import time

import gguf
import numpy as np
import torch
import torch.nn.functional as F

TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_K": 10, "q3_K": 11, "q4_K": 12, "q5_K": 13,
         "q6_K": 14, "iq4_nl": 20, "iq3_s": 21, "iq4_xs": 23}
BLOCKS = {name: (32 if name[-1] in "01" or name == "iq4_nl" else 256) for name in TYPES}


class Quantizer:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [
            ctypes.c_void_p]
        for name, number in TYPES.items():
            self.lib.ggml_quantize_init(number)
            f = getattr(self.lib, "dequantize_row_" + name)
            f.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        self.pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def round_trip(self, w, kind, importance):
        """w [rows, n] f32 -> dequantized copy."""
        rows, n = w.shape
        out = np.empty_like(w)

        def part(first, last):
            src = np.ascontiguousarray(w[first:last])
            packed = np.empty(src.size * 4 + 256, np.uint8)
            self.lib.ggml_quantize_chunk(TYPES[kind], src.ctypes.data, packed.ctypes.data, 0, last - first, n,
                                         None if importance is None else importance.ctypes.data)
            back = np.empty_like(src)
            getattr(self.lib, "dequantize_row_" + kind)(packed.ctypes.data, back.ctypes.data, src.size)
            out[first:last] = back

        step = max(1, 65536 // n)
        list(self.pool.map(lambda r: part(r, min(rows, r + step)), range(0, rows, step)))
        return out


class Decoder:
    """x [B, T, C]; weights in self.w are replaced for an experiment."""

    def __init__(self, path, device):
        reader = gguf.GGUFReader(path)
        field = lambda key, default=None: (reader.fields[key].contents() if key in reader.fields else default)
        self.arch = field("general.architecture")
        assert self.arch in ("llama", "qwen3"), self.arch
        a = self.arch
        self.w = {}
        for t in reader.tensors:
            shape = [int(n) for n in reversed(t.shape)]
            data = np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32).reshape(shape)
            self.w[t.name] = torch.from_numpy(data).to(device)
        self.layers = int(field(f"{a}.block_count"))
        self.width = int(field(f"{a}.embedding_length"))
        self.heads = int(field(f"{a}.attention.head_count"))
        self.kv = int(field(f"{a}.attention.head_count_kv", self.heads))
        self.head = int(field(f"{a}.attention.key_length", self.width // self.heads))
        self.eps = float(field(f"{a}.attention.layer_norm_rms_epsilon"))
        self.base = float(field(f"{a}.rope.freq_base", 10000.0))
        self.device = device

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.w[name]

    def rope(self, x):
        half = self.head // 2
        f = self.base ** (-torch.arange(half, dtype=torch.float64) * 2 / self.head)
        angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * f
        cos, sin = (t.float().to(self.device)[None, :, None, :] for t in (angle.cos(), angle.sin()))
        if self.arch == "llama":
            p, q = x[..., 0::2], x[..., 1::2]
            return torch.stack((p * cos - q * sin, p * sin + q * cos), -1).flatten(-2)
        p, q = x[..., :half], x[..., half:]
        return torch.cat((p * cos - q * sin, p * sin + q * cos), -1)

    def layer(self, x, i):
        B, T, _ = x.shape
        y = self.norm(x, f"blk.{i}.attn_norm.weight")
        q, k, v = (
            (y @ self.w[f"blk.{i}.attn_{s}.weight"].T).view(B, T, n, self.head)
            for s, n in (("q", self.heads), ("k", self.kv), ("v", self.kv))
        )
        if self.arch == "qwen3":
            q, k = self.norm(q, f"blk.{i}.attn_q_norm.weight"), self.norm(k, f"blk.{i}.attn_k_norm.weight")
        q, k = self.rope(q).transpose(1, 2), self.rope(k).transpose(1, 2)
        r = self.heads // self.kv
        k, v = k.repeat_interleave(r, 1), v.transpose(1, 2).repeat_interleave(r, 1)
        s = q @ k.transpose(-1, -2) / math.sqrt(self.head)
        s = s.masked_fill(torch.ones(T, T, dtype=torch.bool, device=self.device).triu(1), -math.inf)
        y = (s.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1)
        x = x + y @ self.w[f"blk.{i}.attn_output.weight"].T
        y = self.norm(x, f"blk.{i}.ffn_norm.weight")
        gate, up = y @ self.w[f"blk.{i}.ffn_gate.weight"].T, y @ self.w[f"blk.{i}.ffn_up.weight"].T
        return x + (F.silu(gate) * up) @ self.w[f"blk.{i}.ffn_down.weight"].T

    def embed(self, tokens):
        return self.w["token_embd.weight"][tokens]

    def logits(self, x):
        head = self.w.get("output.weight", self.w["token_embd.weight"])
        return self.norm(x, "output_norm.weight") @ head.T


def layer_of(name):
    return int(name.split(".")[1]) if name.startswith("blk.") else (10**9 if name == "output.weight" else -1)


@torch.no_grad()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "stats", "tokens", "out"):
        p.add_argument(name)
    p.add_argument("--ggml", required=True)
    p.add_argument("--types", default="q3_K,q4_K,q5_K,q6_K,q4_0,q4_1,q5_0,q5_1,q8_0,iq4_nl")
    p.add_argument("--window", type=int, default=512)
    p.add_argument("--windows", type=int, default=96)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--seconds", type=float, default=1e9)
    p.add_argument("--every", type=int, default=1, help="only each n-th tensor")
    args = p.parse_args()
    start = time.time()
    torch.backends.cuda.matmul.allow_tf32 = False

    model, quantizer = Decoder(args.model, args.device), Quantizer(args.ggml)
    stats = {t.name: t.data for t in gguf.GGUFReader(args.stats).tensors}
    tokens = np.fromfile(args.tokens, np.int32).reshape(-1, args.window)
    tokens = torch.from_numpy(tokens[: args.windows].astype(np.int64)).to(args.device)
    batches = range(0, len(tokens), args.batch)
    done = json.load(open(args.out)) if os.path.exists(args.out) else {}

    inputs = [[] for _ in range(model.layers + 1)]  # of every layer, per batch
    entropy, chosen = [], []
    for b in batches:
        x = model.embed(tokens[b : b + args.batch])
        for i in range(model.layers):
            inputs[i].append(x)
            x = model.layer(x, i)
        inputs[model.layers].append(x)
    print(f"reference: {len(tokens)} windows in {time.time() - start:.1f} s", flush=True)

    def divergence(name):
        """Mean KLD with the weights as they are now, `name` being the changed one."""
        first, total = layer_of(name), 0.0
        for n, b in enumerate(batches):
            x = model.embed(tokens[b : b + args.batch]) if first < 0 else inputs[min(first, model.layers)][n]
            for i in range(max(first, 0), model.layers):
                x = model.layer(x, i)
            for row in range(0, x.shape[0], 4):  # logits of four windows at a time
                changed = model.logits(x[row : row + 4])
                current, model.w[name] = model.w[name], saved
                truth = model.logits(inputs[model.layers][n][row : row + 4])
                model.w[name] = current
                # log E_p[exp(-u)] with u the centred difference keeps the digits of small divergences
                logp = truth.log_softmax(-1)
                prob, u = logp.exp(), changed - truth
                u = u - (prob * u).sum(-1, keepdim=True)
                total += torch.log1p((prob * torch.expm1(u)).sum(-1)).double().sum().item()
        return total / tokens.numel()

    names = [t for t in model.w if model.w[t].dim() == 2 and t + ".fisher_rows" in stats][:: args.every]
    for k, name in enumerate(names):
        saved = model.w[name]
        host = saved.cpu().numpy()
        sums, count = stats.get(name + ".in_sum2"), stats.get(name + ".counts")
        importance = None
        if sums is not None and float(count.ravel()[0]) > 0:
            importance = np.ascontiguousarray(sums.ravel() / count.ravel()[0], dtype=np.float32)
        for kind in args.types.split(","):
            if host.shape[1] % BLOCKS[kind] or kind in done.get(name, {}):
                continue
            model.w[name] = torch.from_numpy(quantizer.round_trip(host, kind, importance)).to(args.device)
            done.setdefault(name, {})[kind] = divergence(name)
            model.w[name] = saved
        if k % 10 == 0 or time.time() - start > args.seconds:
            print(f"{k + 1}/{len(names)} {name} {time.time() - start:.0f} s", flush=True)
            json.dump(done, open(args.out, "w"), indent=1)
        if time.time() - start > args.seconds:
            break
    json.dump(done, open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
