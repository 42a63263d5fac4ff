#!/usr/bin/env python3
"""The truth behind the predictions: the KL divergence of a model with one tensor quantized, for every tensor and type.

    prediction_truth.py MODEL.gguf STATS.gguf TOKENS.bin OUT.json --ggml LIBGGML_BASE.so
                        [--types q3_K,q4_K] [--window 512] [--windows 96] [--device cuda] [--batch 16] [--seconds 540]
                        [--every N] [--only REGEX] [--pairs NAME=TYPE,…] [--experts N] [--freeze]

PyTorch runs a plain F32 decoder (llama, qwen3 and qwen3moe graphs; needs torch, gguf, numpy). Each tensor is quantized by
ggml's own function with the importance of STATS.gguf, dequantized to F32 and put back, everything else stays F32; the
divergence from the F32 model is averaged over all positions. Layers before the changed one are not run again. TOKENS.bin:
int32 windows. A run that stops at --seconds goes on where it stopped when it is started again. prediction_compare.py judges
a profile.json by the result.

--experts N changes one expert of a stack at a time, each n-th of them ("NAME#EXPERT" in OUT.json). --freeze lets every token
keep the experts that the unchanged model chose: what is left is the divergence without changed choices. Of a mixture of
experts "routing" tells, per type and layer, how many of a token's experts differ ("changed") and the mean square of what
happened to its margin, the score of the last expert chosen less that of the first one left out ("margin2").
"""
import argparse
import concurrent.futures
import ctypes
import json
import math
import os
import re
import time

import gguf
import numpy as np
import torch
import torch.nn.functional as F

TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_K": 10, "q3_K": 11, "q4_K": 12, "q5_K": 13,
         "q6_K": 14, "iq2_xxs": 16, "iq2_xs": 17, "iq3_xxs": 18, "iq4_nl": 20, "iq3_s": 21, "iq2_s": 22, "iq4_xs": 23}
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
        """w [rows, n] or [experts, rows, n] f32, importance [n] or [experts, n] -> dequantized copy."""
        if w.ndim == 3:
            parts = [self.round_trip(m, kind, None if importance is None else importance[e]) for e, m in enumerate(w)]
            return np.stack(parts)
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
        assert self.arch in ("llama", "qwen3", "qwen3moe"), self.arch
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
        self.used = int(field(f"{a}.expert_used_count", 0))
        self.device = device
        self.ranking = {}  # layer -> [tokens, used + 1] experts in order of their score, of the last run
        self.frozen = None  # layer -> the ranking to follow; None: the router's own
        self.margin = {}  # layer -> [tokens] score of the last one chosen less that of the first one left out

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
        if self.arch != "llama":
            q, k = self.norm(q, f"blk.{i}.attn_q_norm.weight"), self.norm(k, f"blk.{i}.attn_k_norm.weight")
        q, k = self.rope(q).transpose(1, 2), self.rope(k).transpose(1, 2)
        r = self.heads // self.kv
        k, v = k.repeat_interleave(r, 1), v.transpose(1, 2).repeat_interleave(r, 1)
        s = q @ k.transpose(-1, -2) / math.sqrt(self.head)
        s = s.masked_fill(torch.ones(T, T, dtype=torch.bool, device=self.device).triu(1), -math.inf)
        y = (s.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1)
        x = x + y @ self.w[f"blk.{i}.attn_output.weight"].T
        y = self.norm(x, f"blk.{i}.ffn_norm.weight")
        if self.used:
            return x + self.experts(y.reshape(B * T, -1), i).view(B, T, -1)
        gate, up = y @ self.w[f"blk.{i}.ffn_gate.weight"].T, y @ self.w[f"blk.{i}.ffn_up.weight"].T
        return x + (F.silu(gate) * up) @ self.w[f"blk.{i}.ffn_down.weight"].T

    def experts(self, y, i):
        """y [N, C]: every expert runs on its tokens; softmax, then top-k, renormalised."""
        score = y @ self.w[f"blk.{i}.ffn_gate_inp.weight"].T
        ranking = self.frozen[i] if self.frozen else score.topk(self.used + 1, -1).indices
        self.ranking[i] = ranking
        last = score.gather(-1, ranking[:, self.used - 1 :])
        self.margin[i] = last[:, 0] - last[:, 1]
        chosen = ranking[:, : self.used]
        share = score.softmax(-1).gather(-1, chosen)
        share = share / share.sum(-1, keepdim=True)
        gate, up, down = (self.w[f"blk.{i}.ffn_{s}_exps.weight"] for s in ("gate", "up", "down"))
        out = torch.zeros_like(y)
        for e in range(gate.shape[0]):
            token, slot = (chosen == e).nonzero(as_tuple=True)
            z = y[token]
            z = (F.silu(z @ gate[e].T) * (z @ up[e].T)) @ down[e].T
            out.index_add_(0, token, z * share[token, slot, None])
        return out

    def embed(self, tokens):
        return self.w["token_embd.weight"][tokens]

    def logits(self, x):
        head = self.w.get("output.weight", self.w["token_embd.weight"])
        return self.norm(x, "output_norm.weight") @ head.T


def importance_of(stats, name, shape):
    """What `quantize` rounds a tensor [rows, n] or [experts, rows, n] with: [n] or [experts, n] f32, None without counts."""
    sums, count = stats.get(name + ".in_sum2"), stats.get(name + ".counts")
    if sums is None or float(count.ravel()[0]) <= 0:
        return None
    mean = sums.reshape(-1, shape[-1]) / count.reshape(-1, 1)
    return np.ascontiguousarray(mean if len(shape) == 3 else mean[0], dtype=np.float32)


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
    p.add_argument("--only", default="", help="only tensors whose name this regular expression finds")
    p.add_argument("--pairs", default="", help="only these, instead of --types: NAME=TYPE,NAME=TYPE")
    p.add_argument("--experts", type=int, default=0, help="one expert at a time, each n-th")
    p.add_argument("--freeze", action="store_true", help="tokens keep the experts of the unchanged model")
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
    routes, margins = [], []  # of the unchanged model, per batch
    for b in batches:
        x = model.embed(tokens[b : b + args.batch])
        for i in range(model.layers):
            inputs[i].append(x)
            x = model.layer(x, i)
        inputs[model.layers].append(x)
        routes.append(dict(model.ranking))
        margins.append(dict(model.margin))
    print(f"reference: {len(tokens)} windows in {time.time() - start:.1f} s", flush=True)

    def add_routing(routing, n):
        """Batch n: choices that the unchanged model did not make, and squared changes of the margin; [layers] each."""
        for i, now in model.ranking.items():
            same = (now[:, : model.used, None] == routes[n][i][:, None, : model.used]).any(-1)
            routing["changed"][i] += (~same).sum().item() / tokens.numel()
            routing["margin2"][i] += (model.margin[i] - margins[n][i]).double().pow(2).sum().item() / tokens.numel()

    def divergence(name):
        """Mean KLD with the weights as they are now, `name` being the changed one; what became of the routing."""
        first, total = layer_of(name), 0.0
        routing = {"changed": [0.0] * model.layers, "margin2": [0.0] * model.layers}
        for n, b in enumerate(batches):
            model.ranking, model.frozen = {}, routes[n] if args.freeze and model.used else None
            x = model.embed(tokens[b : b + args.batch]) if first < 0 else inputs[min(first, model.layers)][n]
            for i in range(max(first, 0), model.layers):
                x = model.layer(x, i)
            add_routing(routing, n)
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
        return total / tokens.numel(), routing

    def note(key, kind, name):
        done.setdefault(key, {})[kind], routing = divergence(name)
        if model.used:
            done[key].setdefault("routing", {})[kind] = routing

    pairs = [pair.split("=") for pair in args.pairs.split(",") if pair]
    types = {}  # tensor -> types to try
    for name, kind in pairs:
        types.setdefault(name, []).append(kind)
    names = [t for t in model.w if model.w[t].dim() >= 2 and t + ".fisher_rows" in stats and re.search(args.only, t)]
    names = [t for t in names if not args.experts or model.w[t].dim() == 3][:: args.every]
    names = [t for t in names if t in types] if pairs else names
    for k, name in enumerate(names):
        saved = model.w[name]
        host = saved.cpu().numpy()
        importance = importance_of(stats, name, host.shape)
        for kind in types.get(name, args.types.split(",")):
            keys = [f"{name}#{e}" for e in range(0, len(host), args.experts)] if args.experts else [name]
            keys = [key for key in keys if kind not in done.get(key, {})]
            if host.shape[-1] % BLOCKS[kind] or not keys or time.time() - start > args.seconds:
                continue
            rounded = torch.from_numpy(quantizer.round_trip(host, kind, importance)).to(args.device)
            for key in keys:
                if args.experts:
                    e = int(key.split("#")[1])
                    model.w[name] = saved.clone()
                    model.w[name][e] = rounded[e]
                else:
                    model.w[name] = rounded
                note(key, kind, name)
            model.w[name] = saved
        if k % 10 == 0 or time.time() - start > args.seconds:
            print(f"{k + 1}/{len(names)} {name} {time.time() - start:.0f} s", flush=True)
            json.dump(done, open(args.out, "w"), indent=1)
        if time.time() - start > args.seconds:
            break
    json.dump(done, open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
